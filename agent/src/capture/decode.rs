//! Decodes the messages of a capture, with the services' own decoders.

use std::collections::BTreeMap;
use std::ops::Range;

use hyperv_services::description::{Content, Context, Describer, Description, Field, Side, Value};
use hyperv_vmbus::ic::{self, Headers, MessageType, Status, Version};
use hyperv_vmbus::packet::IN_BAND;

use super::{EventKind, Header, Kind, Record, Transport};

/// Decodes the records of a capture one after another. It remembers the request that each
/// device handles: on a character device, a reply does not say what it answers.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Operations of requests that wait for their reply, by device.
    requests: BTreeMap<usize, u32>,
}

impl Decoder {
    /// Describes a record: a message, or an event, whose fields are then its `text`, if it
    /// has one. Places of fields are those in [`Record::message`].
    pub fn describe(&mut self, record: &Record) -> Description {
        match (record.header.kind, record.header.transport) {
            (Kind::Event, _) => self.event(record),
            (_, Transport::Ring) => ring(&record.header, &record.message()),
            (_, Transport::Device) => self.device(record),
        }
    }

    fn event(&mut self, record: &Record) -> Description {
        let mut describer = Describer::new(&record.bytes, Transport::Device.encoding());
        let Some(event) = record.event() else {
            describer.malformed(&"an event has at least 4 bytes");
            return describer.finish();
        };
        if matches!(event.kind, EventKind::Opened | EventKind::Closed) {
            self.requests.remove(&record.interface);
        }
        describer.operation(&[], event.kind.code(), Some(event.kind.words()));
        if !event.text.is_empty() {
            let text = record.bytes.get(4..).unwrap_or_default();
            describer.text("text", text, Content::Protocol);
        }
        describer.finish()
    }

    fn device(&mut self, record: &Record) -> Description {
        let (side, request) = match record.header.kind {
            Kind::Guest => (Side::Guest, self.requests.remove(&record.interface)),
            _ => (Side::Host, None),
        };
        let message = record.message();
        let description = body(&record.header, side, request, None, &message);
        // The kernel's answer to a registration is answered by nothing.
        if let (Side::Host, Some(code)) = (side, description.code) {
            if description.operation != "REGISTERED" {
                self.requests.insert(record.interface, code);
            }
        }
        description
    }
}

/// Returns where the data of a file is in a message, if there is some.
pub(super) fn data(header: &Header, message: &[u8]) -> Option<Range<usize>> {
    let entry = header.entry()?;
    let body = match header.transport {
        Transport::Device => message,
        Transport::Ring => {
            let (headers, body) = ic::headers(message)?;
            let is_its = header.packet_type == IN_BAND && headers.kind == entry.message_type;
            is_its.then_some(body)?
        }
    };
    let at = message.len() - body.len();
    let place = (entry.data)(body)?;
    Some(place.start + at..place.end + at)
}

/// Describes a message over a ring: the header, and the body.
fn ring(header: &Header, message: &[u8]) -> Description {
    let mut describer = Describer::new(message, Transport::Ring.encoding());
    if header.packet_type != IN_BAND {
        describer.called("packet");
        return describer.finish();
    }
    let Some((headers, rest)) = ic::headers(message) else {
        let error = ic::IcError::NoHeader { len: message.len() };
        describer.malformed(&error);
        return describer.finish();
    };
    let side = match header.kind {
        Kind::Guest => Side::Guest,
        _ => Side::Host,
    };
    describe_headers(&mut describer, &headers, side, message);
    let service = header.entry().map(|entry| entry.message_type);
    if headers.kind == MessageType::NEGOTIATE {
        negotiation(&mut describer, side, rest);
        return describer.finish();
    }
    if let (Side::Host, Err(error)) = (side, ic::decode(message)) {
        describer.malformed(&error);
    }
    if service.is_some_and(|service| service != headers.kind) {
        describer.called("message of another service");
        return describer.finish();
    }
    let mut all = describer.finish();
    let status = (side == Side::Guest).then_some(headers.status);
    let described = body(header, side, None, status, rest);
    all.operation = described.operation;
    all.code = described.code;
    let at = message.len() - rest.len();
    all.fields.extend(described.fields.into_iter().map(|field| {
        let place = match field.place {
            // It has no bytes, not even an empty string somewhere.
            Range { start: 0, end: 0 } => field.place,
            place => place.start + at..place.end + at,
        };
        Field { place, ..field }
    }));
    all
}

fn describe_headers(describer: &mut Describer<'_>, headers: &Headers, side: Side, message: &[u8]) {
    let bytes = |place: Range<usize>| message.get(place).unwrap_or_default();
    let version = |version| Value::Version(version);
    describer.number("pipe_kind", bytes(0..4), headers.pipe_kind);
    describer.number("pipe_size", bytes(4..8), headers.pipe_size);
    let framework = version(headers.framework);
    describer.add(
        "framework_version",
        bytes(8..12),
        framework,
        Content::Protocol,
    );
    describer.number("message_type", bytes(12..14), headers.kind.0);
    let message_version = version(headers.message);
    describer.add(
        "message_version",
        bytes(14..18),
        message_version,
        Content::Protocol,
    );
    describer.number("message_size", bytes(18..20), headers.size);
    // A request has none.
    if side == Side::Guest || headers.status != Status::OK {
        describer.status(bytes(20..24), headers.status);
    }
    describer.number("transaction_id", bytes(24..25), headers.transaction);
    describer.number("message_flags", bytes(25..26), headers.flags);
}

/// The versions that the host offers, or that the guest has chosen.
fn negotiation(describer: &mut Describer<'_>, side: Side, body: &[u8]) {
    describer.called("NEGOTIATE");
    let (frameworks, messages) = match ic::versions(body) {
        Ok((frameworks, messages)) => (frameworks.collect(), messages.collect()),
        Err(error) => {
            // A reply that refuses a malformed offer has the offer.
            if side == Side::Host {
                describer.malformed(&error);
            }
            return;
        }
    };
    let count = |bytes: &[u8]| bytes.try_into().map_or(0, u16::from_le_bytes);
    for (name, place) in [("framework_count", 0..2), ("message_count", 2..4)] {
        let bytes = body.get(place).unwrap_or_default();
        describer.number(name, bytes, count(bytes));
    }
    let mut at = 8;
    let lists: [(_, Vec<Version>); 2] = [
        ("framework_versions", frameworks),
        ("message_versions", messages),
    ];
    for (name, versions) in lists {
        let end = at + 4 * versions.len();
        let bytes = body.get(at..end).unwrap_or_default();
        describer.add(name, bytes, Value::Versions(versions), Content::Protocol);
        at = end;
    }
}

fn body(
    header: &Header,
    side: Side,
    request: Option<u32>,
    status: Option<Status>,
    body: &[u8],
) -> Description {
    let none = Version::new(0, 0);
    let context = Context {
        encoding: header.transport.encoding(),
        side,
        version: header.negotiated.map_or(none, |settled| settled.message),
        request,
        status,
    };
    match header.entry() {
        Some(entry) => (entry.describe)(&context, body),
        None => Description::new("message of an unknown service", None),
    }
}
