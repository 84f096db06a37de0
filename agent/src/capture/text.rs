//! A capture as text: one line for each message and event.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_micros;
use hyperv_services::description::{Description, Field, Value};

use super::{Interface, Kind, Record, Section};
use crate::terminal::escaped;

/// Fields that the text omits: what is wrong with them is `malformed`, and the rest of the
/// message shows what they say. JSON has them.
const OMITTED: [&str; 19] = [
    "operation",
    "pipe_kind",
    "pipe_size",
    "framework_version",
    "message_type",
    "message_version",
    "message_size",
    "transaction_id",
    "message_flags",
    "framework_count",
    "message_count",
    "key_size",
    "value_size",
    "ipv4_address_count",
    "ipv6_address_count",
    "ipv4_gateway_count",
    "ipv6_gateway_count",
    "ipv4_name_server_count",
    "ipv6_name_server_count",
];

/// How times are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// In seconds since the first record.
    Relative,
    /// In UTC.
    Wall,
}

/// Returns the line about the file itself, without a newline.
pub fn title(section: &Section, begin: Option<SystemTime>) -> String {
    let mut line = format!("Capture by {}", or_unknown(&section.application));
    for part in [&section.os, &section.hardware] {
        if !part.is_empty() {
            let _ = write!(line, ", {}", escaped(part));
        }
    }
    let _ = write!(line, ", private content: {}", section.level.name());
    if let Some(begin) = begin {
        let _ = write!(line, ", begins {}", format_rfc3339_micros(begin));
    }
    line
}

/// Returns the line of a record, without a newline. `begin` is the time of the first one.
pub fn line(
    times: Times,
    begin: SystemTime,
    interface: Option<&Interface>,
    record: &Record,
    description: &Description,
) -> String {
    let time = match times {
        Times::Relative => relative(begin, record.time),
        Times::Wall => format_rfc3339_micros(record.time).to_string(),
    };
    let device = interface.map_or_else(String::new, |interface| {
        let node = interface.node.file_name().unwrap_or_default();
        escaped(&format!("{} {}", interface.service, node.to_string_lossy()))
    });
    let arrow = match record.header.kind {
        Kind::Host => "->",
        Kind::Guest => "<-",
        Kind::Event => "--",
    };
    let mut line = format!(
        "{time:>12}  {device:<12}  {arrow} {}",
        description.operation
    );
    if description.operation == "unknown" {
        if let Some(code) = description.code {
            let _ = write!(line, " operation {code}");
        }
    }
    for field in &description.fields {
        if let Some(value) = shown(field) {
            let _ = write!(line, " {}={value}", field.name);
        }
    }
    if let (Kind::Event, Some(settled)) = (record.header.kind, record.header.negotiated) {
        let (framework, message) = (settled.framework, settled.message);
        let _ = write!(
            line,
            " framework_version={framework} message_version={message}"
        );
    }
    if let Some(comment) = &record.comment {
        let _ = write!(line, " comment={comment:?}");
    }
    line
}

fn or_unknown(text: &str) -> String {
    match text {
        "" => "an unknown program".to_owned(),
        text => escaped(text),
    }
}

/// A clock can be set back while a capture runs.
fn relative(begin: SystemTime, time: SystemTime) -> String {
    let (sign, since) = match time.duration_since(begin) {
        Ok(since) => ("", since),
        Err(before) => ("-", before.duration()),
    };
    format!("{sign}{}", seconds(since))
}

fn seconds(since: Duration) -> String {
    format!("{}.{:06}", since.as_secs(), since.subsec_micros())
}

/// Returns the value of a field; `None` if it is omitted.
fn shown(field: &Field) -> Option<String> {
    if OMITTED.contains(&field.name) {
        return None;
    }
    Some(match &field.value {
        // Quoted and escaped, so that no text looks like another field.
        Value::Text(text) => format!("{text:?}"),
        Value::Number(number) => number.to_string(),
        Value::Named(number, words) if words == "unknown" => number.to_string(),
        Value::Named(_, words) if words.contains(' ') => format!("{words:?}"),
        Value::Named(_, words) => words.to_string(),
        Value::Numbers(numbers) => joined(numbers)?,
        Value::Version(version) => version.to_string(),
        Value::Versions(versions) => joined(versions).unwrap_or_else(|| "none".to_owned()),
        Value::V4(addresses) => joined(addresses)?,
        Value::V6(addresses) => joined(addresses)?,
        Value::Bytes(len) => format!("{len} bytes"),
    })
}

/// Returns the elements of a list; `None` if it has none.
fn joined<T: ToString>(list: &[T]) -> Option<String> {
    let words: Vec<_> = list.iter().map(ToString::to_string).collect();
    (!words.is_empty()).then(|| words.join(","))
}
