//! The data of a packet: a header of 24 bytes, little-endian, before the bytes that were sent.
//!
//! | offset | size | field |
//! | ---: | ---: | --- |
//! | 0 | 1 | version: 1 |
//! | 1 | 1 | kind: 1 message of the host, 2 message of the guest, 3 event |
//! | 2 | 1 | service: 1 fcopy, 2 kvp, 3 vss; 0 another one |
//! | 3 | 1 | transport: 1 ring, 2 character device |
//! | 4 | 2 | VMBus packet type; 0 on a character device and of an event |
//! | 6 | 2 | VMBus packet flags; 0 where not known |
//! | 8 | 8 | VMBus transaction id; 0 on a character device |
//! | 16 | 2 + 2 | negotiated framework version: major, minor; 0 if none |
//! | 20 | 2 + 2 | negotiated message version: major, minor; 0 if none |
//!
//! An event is followed by its code (4 bytes) and text in UTF-8, which may be empty.

use hyperv_services::registry;
use hyperv_services::service::Entry;
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::{Negotiated, Version};

/// Bytes of the header.
pub const HEADER_LEN: usize = 24;

/// The version of the header.
const VERSION: u8 = 1;

/// The numbers of the services.
const SERVICES: [(u8, &str); 3] = [(1, "fcopy"), (2, "kvp"), (3, "vss")];

/// What a packet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message of the host, or of the kernel in its place.
    Host,
    /// A message of the guest.
    Guest,
    /// An event on the channel.
    Event,
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Over a ring, through UIO.
    Ring,
    /// Through a character device of `hv_utils`.
    Device,
}

impl Transport {
    /// Returns how the bodies of messages are written.
    pub fn encoding(self) -> Encoding {
        match self {
            Self::Ring => Encoding::Utf16,
            Self::Device => Encoding::Utf8,
        }
    }

    /// Returns its name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Device => "device",
        }
    }
}

/// What is known of a message besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the packet has.
    pub kind: Kind,
    /// Number of the service, see [`Header::service_number`].
    pub service: u8,
    /// How the message travels.
    pub transport: Transport,
    /// VMBus packet type.
    pub packet_type: u16,
    /// VMBus packet flags.
    pub packet_flags: u16,
    /// VMBus transaction id.
    pub transaction: u64,
    /// The versions in use when the message was received or sent.
    pub negotiated: Option<Negotiated>,
}

/// The data of a packet is none of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is shorter than the header.
    #[error("{0} bytes of data, its header has {HEADER_LEN}")]
    Short(usize),
    /// The version is unknown.
    #[error("unsupported version {0}, expected {VERSION}: a newer hyperv-agent can read it")]
    Version(u8),
    /// The kind is unknown.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// The transport is unknown.
    #[error("unknown transport {0}")]
    Transport(u8),
}

impl Header {
    /// Returns the number of a service; 0 for one without a number.
    pub fn service_number(name: &str) -> u8 {
        let found = SERVICES.iter().find(|(_, service)| *service == name);
        found.map_or(0, |(number, _)| *number)
    }

    /// Returns the service, if it is known.
    pub fn entry(&self) -> Option<&'static Entry> {
        let found = SERVICES.iter().find(|(number, _)| *number == self.service);
        found.and_then(|(_, name)| registry::by_name(name))
    }

    /// Returns the bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let kind = match self.kind {
            Kind::Host => 1,
            Kind::Guest => 2,
            Kind::Event => 3,
        };
        let transport = match self.transport {
            Transport::Ring => 1,
            Transport::Device => 2,
        };
        let none = Version::new(0, 0);
        let (framework, message) = self
            .negotiated
            .map_or((none, none), |settled| (settled.framework, settled.message));
        let mut bytes = [0; HEADER_LEN];
        let parts = [VERSION, kind, self.service, transport]
            .into_iter()
            .chain(self.packet_type.to_le_bytes())
            .chain(self.packet_flags.to_le_bytes())
            .chain(self.transaction.to_le_bytes())
            .chain([framework, message].into_iter().flat_map(version_bytes));
        for (byte, part) in bytes.iter_mut().zip(parts) {
            *byte = part;
        }
        bytes
    }

    /// Decodes the data of a packet, and returns the bytes after the header.
    ///
    /// # Errors
    ///
    /// Any [`HeaderError`].
    pub fn decode(data: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let (header, rest) = data
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(HeaderError::Short(data.len()))?;
        let [version, kind, service, transport, words @ ..] = *header;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let word = |index: usize| {
            let bytes = words.get(2 * index..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
        };
        let transaction = words.get(4..).and_then(<[u8]>::first_chunk);
        let framework = Version::new(word(6), word(7));
        let message = Version::new(word(8), word(9));
        let none = Version::new(0, 0);
        let header = Self {
            kind: match kind {
                1 => Kind::Host,
                2 => Kind::Guest,
                3 => Kind::Event,
                kind => return Err(HeaderError::Kind(kind)),
            },
            service,
            transport: match transport {
                1 => Transport::Ring,
                2 => Transport::Device,
                transport => return Err(HeaderError::Transport(transport)),
            },
            packet_type: word(0),
            packet_flags: word(1),
            transaction: transaction.map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            negotiated: (framework != none || message != none)
                .then_some(Negotiated { framework, message }),
        };
        Ok((header, rest))
    }
}

fn version_bytes(version: Version) -> [u8; 4] {
    let [[a, b], [c, d]] = [version.major, version.minor].map(u16::to_le_bytes);
    [a, b, c, d]
}

/// What happened to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// 1: it was opened.
    Opened,
    /// 2: it was closed.
    Closed,
    /// 3: its device went away.
    Gone,
    /// 4: the outgoing ring is full.
    Full,
    /// 5: the outgoing ring has room again.
    Room,
    /// 6: the kernel refused a reply, because it came too late.
    Refused,
    /// 7: records were dropped; the text is their number.
    Dropped,
    /// 8: the capture begins, and the channel is open.
    Begin,
    /// Any other.
    Other(u32),
}

/// The kinds that have a code, which is their place here and 1.
const EVENTS: [(EventKind, &str); 8] = [
    (EventKind::Opened, "opened"),
    (EventKind::Closed, "closed"),
    (EventKind::Gone, "the device went away"),
    (EventKind::Full, "the ring is full"),
    (EventKind::Room, "the ring has room again"),
    (
        EventKind::Refused,
        "the kernel refused a reply: it came too late",
    ),
    (EventKind::Dropped, "records were dropped"),
    (
        EventKind::Begin,
        "the capture begins with this channel open",
    ),
];

impl EventKind {
    /// Returns the kind with this code.
    pub fn new(code: u32) -> Self {
        let known = (1..).zip(EVENTS).find(|(known, _)| *known == code);
        known.map_or(Self::Other(code), |(_, (kind, _))| kind)
    }

    /// Returns its code.
    pub fn code(self) -> u32 {
        let known = (1..).zip(EVENTS).find(|(_, (kind, _))| *kind == self);
        match (known, self) {
            (Some((code, _)), _) => code,
            (None, Self::Other(code)) => code,
            (None, _) => 0,
        }
    }

    /// Returns what happened, in words.
    pub fn words(self) -> &'static str {
        let known = EVENTS.iter().find(|(kind, _)| *kind == self);
        known.map_or("unknown event", |(_, words)| words)
    }
}

/// An event on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// More about it; may be empty.
    pub text: String,
}

impl Event {
    /// Returns the bytes of the event.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.kind.code().to_le_bytes().to_vec();
        bytes.extend(self.text.as_bytes());
        bytes
    }

    /// Decodes an event; `None` if it has no code. What is not UTF-8 is replaced.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (code, text) = bytes.split_first_chunk()?;
        Some(Self {
            kind: EventKind::new(u32::from_le_bytes(*code)),
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version() -> impl Strategy<Value = Version> {
        (any::<u16>(), any::<u16>()).prop_map(|(major, minor)| Version::new(major, minor))
    }

    pub(in crate::capture) fn header() -> impl Strategy<Value = Header> {
        let kind = prop_oneof![Just(Kind::Host), Just(Kind::Guest), Just(Kind::Event)];
        let transport = prop_oneof![Just(Transport::Ring), Just(Transport::Device)];
        let numbers = (0..4u8, any::<u16>(), any::<u16>(), any::<u64>());
        let settled = proptest::option::of((version(), version()));
        (kind, transport, numbers, settled).prop_map(|(kind, transport, numbers, settled)| {
            let (service, packet_type, packet_flags, transaction) = numbers;
            let none = Version::new(0, 0);
            Header {
                kind,
                service,
                transport,
                packet_type,
                packet_flags,
                transaction,
                negotiated: settled
                    .filter(|settled| *settled != (none, none))
                    .map(|(framework, message)| Negotiated { framework, message }),
            }
        })
    }

    #[test]
    fn the_layout() {
        let header = Header {
            kind: Kind::Guest,
            service: Header::service_number("kvp"),
            transport: Transport::Ring,
            packet_type: 6,
            packet_flags: 0x0102,
            transaction: 0x0807_0605_0403_0201,
            negotiated: Some(Negotiated {
                framework: Version::new(3, 1),
                message: Version::new(5, 2),
            }),
        };
        let wanted = [
            1, 2, 2, 1, 6, 0, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8, 3, 0, 1, 0, 5, 0, 2, 0,
        ];
        assert_eq!(header.encode(), wanted);
    }

    #[test]
    fn every_service_has_a_number() {
        for entry in registry::SERVICES {
            let service = Header::service_number(entry.name);
            let mut data = [0; HEADER_LEN];
            data[..4].copy_from_slice(&[1, 1, service, 1]);
            let (header, _) = Header::decode(&data).unwrap();
            assert_eq!(header.entry().unwrap().name, entry.name);
        }
        assert_eq!(Header::service_number("other"), 0);
    }

    #[test]
    fn what_is_no_header() {
        let mut data = [0; HEADER_LEN];
        assert_eq!(Header::decode(&data), Err(HeaderError::Version(0)));
        data[0] = 1;
        assert_eq!(Header::decode(&data), Err(HeaderError::Kind(0)));
        data[1] = 3;
        assert_eq!(Header::decode(&data), Err(HeaderError::Transport(0)));
        assert_eq!(Header::decode(&data[1..]), Err(HeaderError::Short(23)));
    }

    #[test]
    fn the_codes_of_events() {
        for (code, kind) in [
            (1, EventKind::Opened),
            (7, EventKind::Dropped),
            (8, EventKind::Begin),
            (0, EventKind::Other(0)),
            (9, EventKind::Other(9)),
        ] {
            assert_eq!(EventKind::new(code), kind);
            assert_eq!(kind.code(), code);
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(header in header(), rest: Vec<u8>) {
            let data = [&header.encode()[..], &rest].concat();
            prop_assert_eq!(Header::decode(&data), Ok((header, &rest[..])));
        }

        #[test]
        fn an_event_is_decoded(code: u32, text: String) {
            let event = Event { kind: EventKind::new(code), text };
            prop_assert_eq!(event.kind.code(), code);
            prop_assert_eq!(Event::decode(&event.encode()), Some(event));
        }

        #[test]
        fn no_bytes_make_it_panic(data: Vec<u8>) {
            let _ = Header::decode(&data);
            let _ = Event::decode(&data);
        }
    }
}
