//! Messages of an integration service and their replies, and how each transport frames
//! them. Protocol sections 4 and 6.
//!
//! A [`Channel`](crate::Channel) receives a [`Message`]. A service handles the *body* of
//! its requests: on a ring what follows the integration-component header, on a
//! character device the whole payload. A reply is built in place.

use crate::ic::{self, HEADER_LEN, IcError, MessageType, Negotiated, Status, Version};
use crate::packet::{IN_BAND, Packet};

/// How the body of a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As the host writes it, with strings in UTF-16. Rings carry this.
    Utf16,
    /// As the kernel's `hv_utils` rewrites it, with strings in UTF-8. Character devices
    /// carry this.
    Utf8,
}

/// The layout of a reply on a character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyLayout {
    /// The status alone, in four bytes.
    Status,
    /// The body, with the status over its first four bytes.
    StatusInBody,
}

/// A message in the buffer into which it was received.
#[derive(Debug)]
pub enum Message<'a> {
    /// The host offers versions. Only rings carry this: on a character device the
    /// kernel negotiates.
    Negotiation(Negotiation<'a>),
    /// A request to a service.
    Request(Request<'a>),
    /// A message whose headers contradict its length.
    Malformed(Malformed<'a>),
    /// The kernel's answer to the registration on a character device. It needs no reply.
    Registered(&'a [u8]),
    /// A packet of another type, which carries no message. It needs no reply.
    Other(Packet<'a>),
}

impl<'a> Message<'a> {
    /// Decodes the integration-component header of a packet.
    pub fn from_packet(packet: Packet<'a>) -> Self {
        if packet.kind != IN_BAND {
            return Self::Other(packet);
        }
        match ic::decode(packet.payload) {
            Ok(MessageType::NEGOTIATE) => Self::Negotiation(Negotiation(packet)),
            Ok(message_type) => Self::Request(Request {
                flags: packet.flags,
                transaction: packet.transaction,
                framing: Framing::Ring(message_type),
                body: packet.payload.len().min(HEADER_LEN)..packet.payload.len(),
                buffer: packet.payload,
            }),
            Err(error) => Self::Malformed(Malformed { error, packet }),
        }
    }

    /// Returns the message as it came, for a capture.
    pub fn raw(&self) -> Raw<'_> {
        let on_device = |bytes| Raw {
            kind: 0,
            flags: 0,
            transaction: 0,
            bytes,
        };
        match self {
            Self::Request(request) => match request.framing {
                Framing::Ring(_) => Raw {
                    kind: IN_BAND,
                    flags: request.flags,
                    transaction: request.transaction,
                    bytes: request.buffer,
                },
                Framing::Device(_) => {
                    on_device(request.buffer.get(..request.body.end).unwrap_or_default())
                }
            },
            Self::Negotiation(Negotiation(packet))
            | Self::Malformed(Malformed { packet, .. })
            | Self::Other(packet) => Raw {
                kind: packet.kind,
                flags: packet.flags,
                transaction: packet.transaction,
                bytes: packet.payload,
            },
            Self::Registered(answer) => on_device(answer),
        }
    }
}

/// What a capture records of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Type of the VMBus packet. Zero on a character device.
    pub kind: u16,
    /// Flags of the packet. Zero on a character device.
    pub flags: u16,
    /// The transaction id. Zero on a character device.
    pub transaction: u64,
    /// What follows the header of the packet; the whole message on a character device.
    pub bytes: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    /// Over a ring, with the type in the integration-component header.
    Ring(MessageType),
    /// On a character device.
    Device(ReplyLayout),
}

/// A request to a service.
#[derive(Debug)]
pub struct Request<'a> {
    flags: u16,
    transaction: u64,
    framing: Framing,
    /// The message is at its start, and so is the reply.
    buffer: &'a mut [u8],
    /// The body's place in the buffer.
    body: std::ops::Range<usize>,
}

impl<'a> Request<'a> {
    /// A request of `len` bytes at the start of `buffer`.
    pub(crate) fn on_device(buffer: &'a mut [u8], len: usize, layout: ReplyLayout) -> Self {
        Self {
            flags: 0,
            transaction: 0,
            framing: Framing::Device(layout),
            body: 0..len.min(buffer.len()),
            buffer,
        }
    }

    /// Returns the type in the message's header; `None` on a character device,
    /// which carries the requests of one service only.
    pub fn message_type(&self) -> Option<MessageType> {
        match self.framing {
            Framing::Ring(message_type) => Some(message_type),
            Framing::Device(_) => None,
        }
    }

    /// Returns how the body is written.
    pub fn encoding(&self) -> Encoding {
        match self.framing {
            Framing::Ring(_) => Encoding::Utf16,
            Framing::Device(_) => Encoding::Utf8,
        }
    }

    /// Returns the body, which becomes that of the reply.
    pub fn body(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.body.clone()).unwrap_or_default()
    }

    /// Turns the request into its reply, in place.
    pub fn reply(self, status: Status) -> Reply<'a> {
        let Self {
            transaction,
            framing,
            buffer,
            body,
            ..
        } = self;
        let len = match framing {
            Framing::Ring(_) => {
                ic::encode_reply(buffer, status);
                buffer.len()
            }
            // The reply may be longer than the request.
            Framing::Device(ReplyLayout::Status) => write_status(buffer, status),
            Framing::Device(ReplyLayout::StatusInBody) => {
                let end = body.end;
                write_status(buffer.get_mut(body).unwrap_or_default(), status);
                end
            }
        };
        Reply {
            transaction,
            payload: buffer.get(..len).unwrap_or_default(),
        }
    }
}

/// Writes the status to the start of `place` and returns its length, or 0 if `place` is
/// too short.
fn write_status(place: &mut [u8], status: Status) -> usize {
    place.first_chunk_mut().map_or(0, |first| {
        *first = status.0.to_le_bytes();
        first.len()
    })
}

/// An offer of versions.
#[derive(Debug)]
pub struct Negotiation<'a>(Packet<'a>);

impl<'a> Negotiation<'a> {
    /// Chooses the first of `frameworks` and the first of `versions` that the host
    /// offers, and builds the reply. The reply reports a failure unless the outcome, for
    /// which see [`ic::negotiate`], is `Ok(Some(_))`.
    pub fn answer(
        self,
        frameworks: &[Version],
        versions: &[Version],
    ) -> (Result<Option<Negotiated>, IcError>, Reply<'a>) {
        let Packet {
            transaction,
            payload,
            ..
        } = self.0;
        let outcome = ic::negotiate(payload, frameworks, versions);
        let status = match outcome {
            Ok(Some(_)) => Status::OK,
            Ok(None) => Status::FAIL,
            Err(_) => Status::INVALID_ARGUMENT,
        };
        ic::encode_reply(payload, status);
        let reply = Reply {
            transaction,
            payload,
        };
        (outcome, reply)
    }
}

/// A message whose headers contradict its length.
#[derive(Debug)]
pub struct Malformed<'a> {
    error: IcError,
    packet: Packet<'a>,
}

impl<'a> Malformed<'a> {
    /// Returns the contradiction.
    pub fn error(&self) -> IcError {
        self.error
    }

    /// Builds the reply that refuses the message, in place; `None` if that has no room for
    /// a status.
    pub fn refuse(self) -> Option<Reply<'a>> {
        if let IcError::NoHeader { .. } = self.error {
            return None;
        }
        ic::encode_reply(self.packet.payload, Status::INVALID_ARGUMENT);
        Some(Reply {
            transaction: self.packet.transaction,
            payload: self.packet.payload,
        })
    }
}

/// A reply, ready to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The transaction id of the request. Zero on a character device.
    pub transaction: u64,
    /// All of the reply, headers included.
    pub payload: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_device(buffer: &mut [u8], len: usize, layout: ReplyLayout, status: Status) -> &[u8] {
        Request::on_device(buffer, len, layout)
            .reply(status)
            .payload
    }

    #[test]
    fn a_reply_of_a_device_can_be_the_status_alone() {
        let status = [0x70, 0x00, 0x07, 0x80];
        for len in [0, 3, 4, 8, 1000] {
            let mut buffer = [0xee; 8];
            let reply = on_device(&mut buffer, len, ReplyLayout::Status, Status::DISK_FULL);
            assert_eq!(reply, status);
            assert_eq!(buffer[4..], [0xee; 4]);
        }
        for len in [0, 3] {
            let mut buffer = vec![0; len];
            let reply = on_device(&mut buffer, len, ReplyLayout::Status, Status::OK);
            assert_eq!(reply, []);
        }
    }

    #[test]
    fn a_reply_of_a_device_can_be_the_body_behind_the_status() {
        let mut buffer = [0xee; 8];
        let mut request = Request::on_device(&mut buffer, 6, ReplyLayout::StatusInBody);
        assert_eq!(request.encoding(), Encoding::Utf8);
        assert_eq!(request.message_type(), None);
        assert_eq!(request.body(), [0xee; 6]);
        request.body()[5] = 7;
        let reply = request.reply(Status::GUID_NOT_FOUND);
        assert_eq!(reply.payload, [0x02, 0x10, 0x04, 0x80, 0xee, 7]);
        let mut short = [0xee; 8];
        let reply = on_device(&mut short, 3, ReplyLayout::StatusInBody, Status::OK);
        assert_eq!(reply, [0xee; 3], "there is no room for a status");
    }

    /// A packet's payload with a message of this type, of which the header states
    /// `size` bytes.
    fn payload(message_type: MessageType, size: u16, body: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; HEADER_LEN];
        payload[12..14].copy_from_slice(&message_type.0.to_le_bytes());
        payload[18..20].copy_from_slice(&size.to_le_bytes());
        payload.extend(body);
        payload
    }

    fn packet(payload: &mut [u8]) -> Packet<'_> {
        Packet {
            kind: IN_BAND,
            flags: 1,
            transaction: 5,
            payload,
        }
    }

    #[test]
    fn a_request_over_a_ring_is_answered_in_its_header() {
        let mut payload = payload(MessageType::KVP, 3, b"abc");
        let Message::Request(mut request) = Message::from_packet(packet(&mut payload)) else {
            panic!("not a request");
        };
        assert_eq!(request.encoding(), Encoding::Utf16);
        assert_eq!(request.message_type(), Some(MessageType::KVP));
        assert_eq!(request.body(), b"abc");
        request.body()[0] = b'x';
        let reply = request.reply(Status::DISK_FULL);
        assert_eq!(reply.transaction, 5);
        assert_eq!(reply.payload[20..24], Status::DISK_FULL.0.to_le_bytes());
        assert_eq!(reply.payload[HEADER_LEN..], *b"xbc");
    }

    #[test]
    fn a_malformed_message_is_refused_if_it_has_room_for_a_status() {
        let malformed = |payload| match Message::from_packet(packet(payload)) {
            Message::Malformed(malformed) => malformed,
            other => panic!("{other:?} is not malformed"),
        };
        let mut lies = payload(MessageType::KVP, 4, b"abc");
        let lying = malformed(&mut lies);
        assert!(matches!(lying.error(), IcError::SizeBeyondPacket { .. }));
        let status = Status::INVALID_ARGUMENT.0.to_le_bytes();
        assert_eq!(lying.refuse().unwrap().payload[20..24], status);
        let mut short = [0; HEADER_LEN - 1];
        assert!(malformed(&mut short).refuse().is_none());
    }

    #[test]
    fn a_negotiation_is_answered_with_its_outcome() {
        let ours = [Version::new(3, 0)];
        let offer = [1, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0];
        for (offer, status) in [
            (&offer[..], Status::OK),
            (&[0; 8], Status::FAIL),
            (&[9; 8], Status::INVALID_ARGUMENT),
        ] {
            let mut payload = payload(MessageType::NEGOTIATE, 8, offer);
            let Message::Negotiation(negotiation) = Message::from_packet(packet(&mut payload))
            else {
                panic!("not a negotiation");
            };
            let (outcome, reply) = negotiation.answer(&ours, &ours);
            assert_eq!(matches!(outcome, Ok(Some(_))), status == Status::OK);
            assert_eq!(reply.payload[20..24], status.0.to_le_bytes());
        }
    }

    #[test]
    fn a_packet_of_another_type_is_no_message() {
        let packet = Packet {
            kind: 11,
            ..packet(&mut [])
        };
        let message = Message::from_packet(packet);
        assert!(matches!(message, Message::Other(Packet { kind: 11, .. })));
        assert_eq!(message.raw().kind, 11);
    }

    #[test]
    fn a_message_is_captured_as_it_came() {
        for (message_type, size) in [
            (MessageType::KVP, 3),
            (MessageType::NEGOTIATE, 3),
            // Malformed.
            (MessageType::KVP, 4),
        ] {
            let mut came = payload(message_type, size, b"abc");
            let copy = came.clone();
            let message = Message::from_packet(packet(&mut came));
            let raw = Raw {
                kind: IN_BAND,
                flags: 1,
                transaction: 5,
                bytes: &copy,
            };
            assert_eq!(message.raw(), raw);
        }
        let mut buffer = *b"message, and what was there before";
        let request = Request::on_device(&mut buffer, 7, ReplyLayout::Status);
        let raw = Message::Request(request);
        assert_eq!((raw.raw().kind, raw.raw().bytes), (0, &b"message"[..]));
    }
}
