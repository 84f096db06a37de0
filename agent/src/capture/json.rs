//! A capture as JSON lines, for programs: an object for the file, then one for each message
//! and event. hyperv-agent(8) describes them.

use std::time::{SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_nanos;
use hyperv_services::description::{Description, Field, Value};
use serde::{Serialize, Serializer};

use super::{Interface, Kind, Record, Section, Transport};

#[derive(Serialize)]
struct File<'a> {
    r#type: &'static str,
    application: &'a str,
    os: &'a str,
    hardware: &'a str,
    content: &'static str,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    /// Number of the record, from 1.
    record: u64,
    time: String,
    /// Nanoseconds since 1970.
    time_ns: u64,
    service: &'a str,
    device: String,
    transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    operation: &'a str,
    code: Option<u32>,
    framework: Option<String>,
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<Packet>,
    length: usize,
    captured: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
    fields: Fields<'a>,
}

#[derive(Serialize)]
struct Packet {
    r#type: u16,
    flags: u16,
    transaction: u64,
}

/// Returns the object of the file.
///
/// # Errors
///
/// What the serializer says.
pub fn title(section: &Section) -> serde_json::Result<String> {
    serde_json::to_string(&File {
        r#type: "capture",
        application: &section.application,
        os: &section.os,
        hardware: &section.hardware,
        content: section.level.name(),
    })
}

/// Returns the object of a record, which has this number in the file.
///
/// # Errors
///
/// What the serializer says.
pub fn line(
    number: u64,
    interface: Option<&Interface>,
    record: &Record,
    description: &Description,
) -> serde_json::Result<String> {
    let header = &record.header;
    let (kind, from) = match header.kind {
        Kind::Host => ("message", Some("host")),
        Kind::Guest => ("message", Some("guest")),
        Kind::Event => ("event", None),
    };
    let is_packet = header.transport == Transport::Ring && header.kind != Kind::Event;
    serde_json::to_string(&Line {
        r#type: kind,
        record: number,
        time: format_rfc3339_nanos(record.time).to_string(),
        time_ns: nanoseconds(record.time),
        service: interface.map_or("", |interface| &interface.service),
        device: interface.map_or_else(String::new, |interface| {
            interface.node.to_string_lossy().into_owned()
        }),
        transport: header.transport.name(),
        from,
        operation: &description.operation,
        code: description.code,
        framework: header.negotiated.map(|it| it.framework.to_string()),
        message: header.negotiated.map(|it| it.message.to_string()),
        packet: is_packet.then_some(Packet {
            r#type: header.packet_type,
            flags: header.packet_flags,
            transaction: header.transaction,
        }),
        length: record.original_len,
        captured: record.bytes.len(),
        comment: record.comment.as_deref(),
        fields: Fields(&description.fields),
    })
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Fields by name. One with a name for its number has that as `NAME_name`.
struct Fields<'a>(&'a [Field]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = |field: &Field| match &field.value {
            Value::Named(_, words) => {
                let name = format!("{}_name", field.name);
                Some((name, serde_json::Value::from(words.as_ref())))
            }
            _ => None,
        };
        serializer.collect_map(self.0.iter().flat_map(|field| {
            let value = (field.name.to_owned(), value(&field.value));
            [Some(value), named(field)].into_iter().flatten()
        }))
    }
}

fn value(value: &Value) -> serde_json::Value {
    fn list<T: ToString>(elements: &[T]) -> serde_json::Value {
        elements.iter().map(ToString::to_string).collect()
    }
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) | Value::Named(number, _) => (*number).into(),
        Value::Numbers(numbers) => numbers.as_slice().into(),
        Value::Version(version) => version.to_string().into(),
        Value::Versions(versions) => list(versions),
        Value::V4(addresses) => list(addresses),
        Value::V6(addresses) => list(addresses),
        Value::Bytes(len) => (*len).into(),
    }
}
