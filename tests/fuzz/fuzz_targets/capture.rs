//! Captures that others give: any bytes are read or refused, what is read can be shown and
//! written again, and what was redacted tells nothing private.

#![no_main]

use std::net::IpAddr;

use hyperv_agent::capture::pcapng::{Reader, Writer};
use hyperv_agent::capture::redact::Redactor;
use hyperv_agent::capture::text::{self, Times};
use hyperv_agent::capture::{Decoder, Interface, Kind, Level, Record, Section, Transport, json};
use hyperv_services::description::{Content, Description, Field, Value};
use hyperv_services::kvp::facts::KEYS;
use hyperv_vmbus::ic::HEADER_LEN;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new(bytes) else {
        return;
    };
    // What comes before an error is shown.
    let records: Vec<Record> = reader.by_ref().map_while(Result::ok).collect();
    let interfaces: Vec<Interface> = reader.interfaces().cloned().collect();
    show(reader.section(), &interfaces, &records);
    write_and_read(reader.section(), &interfaces, &records);
    for level in [Level::None, Level::Hash] {
        redact(level, &records);
    }
});

/// Everything is a line of text, and one of JSON.
fn show(section: &Section, interfaces: &[Interface], records: &[Record]) {
    let begin = records.first().map(|record| record.time);
    expect_lines(&text::title(section, begin), &json::title(section).unwrap());
    let mut decoder = Decoder::default();
    for (number, record) in (1..).zip(records) {
        let said = decoder.describe(record);
        let interface = interfaces.get(record.interface);
        for times in [Times::Relative, Times::Wall] {
            let begin = begin.unwrap();
            let line = text::line(times, begin, interface, record, &said);
            expect_lines(&line, &json::line(number, interface, record, &said).unwrap());
        }
    }
}

fn expect_lines(text: &str, json: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(!json.contains('\n'), "{json}");
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    assert!(value.is_object(), "{json}");
}

/// What was written is read again.
fn write_and_read(section: &Section, interfaces: &[Interface], records: &[Record]) {
    let is_short = |it: &&Interface| it.service.len() + it.node.as_os_str().len() < 1000;
    if interfaces.iter().filter(is_short).count() < interfaces.len() {
        return;
    }
    let mut writer = Writer::new(Vec::new(), section).unwrap();
    for interface in interfaces {
        writer.interface(interface).unwrap();
    }
    for record in records {
        writer.record(record).unwrap();
    }
    let written = writer.into_inner();
    let mut reader = Reader::new(&written[..]).unwrap();
    assert_eq!(reader.section(), section);
    let read: Result<Vec<Record>, _> = reader.by_ref().collect();
    assert_eq!(read.unwrap(), records);
    assert!(reader.interfaces().eq(interfaces));
}

/// Redacted messages say the same about something else.
fn redact(level: Level, records: &[Record]) {
    let mut redactor = Redactor::new(level);
    let [mut before, mut after] = [Decoder::default(), Decoder::default()];
    for record in records {
        let said = before.describe(record);
        let redacted = redactor.redact(record.clone());
        let says = after.describe(&redacted);
        assert_eq!(says.operation, said.operation);
        if record.header.kind != Kind::Event {
            expect_no_secret(&said, &says, &redacted);
        }
    }
}

/// What belongs to no field is zero, data is not there, and no letter or digit of a private
/// text is at its place.
fn expect_no_secret(said: &Description, says: &Description, redacted: &Record) {
    let mut unknown = vec![true; redacted.bytes.len()];
    let mut known = |range: std::ops::Range<usize>| {
        let end = range.end.min(unknown.len());
        if let Some(places) = unknown.get_mut(range.start..end) {
            places.fill(false);
        }
    };
    if redacted.header.transport == Transport::Ring {
        known(0..HEADER_LEN);
    }
    for field in &said.fields {
        known(field.place.clone());
        match (&field.value, field.content) {
            (_, Content::Protocol) => {}
            (_, Content::Data) => assert!(redacted.bytes.len() <= field.place.start),
            (Value::Text(old), _) if !stays(said, field, old) => {
                let mut same = says.fields.iter().filter(|it| it.place == field.place);
                if let Some(Value::Text(new)) = same.next().map(|it| &it.value) {
                    let kept = |(old, new)| old == new && char::is_ascii_alphanumeric(&old);
                    assert!(!old.chars().zip(new.chars()).any(kept), "{old:?} {new:?}");
                }
            }
            _ => {}
        }
    }
    for (byte, unknown) in redacted.bytes.iter().zip(unknown) {
        assert!(!unknown || *byte == 0, "{said:?} {redacted:?}");
    }
}

/// Whether a text, or a part of it, stays: facts about the system, prefixes, masks and the
/// zeros of addresses.
fn stays(said: &Description, field: &Field, text: &str) -> bool {
    let is_fact = |field: &Field| match &field.value {
        Value::Text(key) => KEYS.contains(&key.as_str()),
        _ => false,
    };
    let of_address = |part: &str| part.parse::<IpAddr>().is_ok() || part.starts_with('/');
    text.split(';').any(of_address)
        || said.field("key").is_some_and(is_fact)
        || field.name == "key" && is_fact(field)
}
