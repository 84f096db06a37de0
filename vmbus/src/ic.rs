//! Integration-component messages: the header that all services share, status codes,
//! and version negotiation. Protocol section 4.
//!
//! Everything here is a pure function of a message that was copied out of shared
//! memory. A message is the payload of one in-band packet: the pipe header and the
//! component header, [`HEADER_LEN`] bytes together, then the body. A reply is built in
//! place and has the request's length.

use std::fmt;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the pipe header and the component header. The body follows.
pub const HEADER_LEN: usize = size_of::<Header>();

/// The most versions, of framework and message together, that a negotiation
/// may offer.
pub const MAX_OFFERED_VERSIONS: usize = 100;

const FLAG_TRANSACTION: u8 = 1;
const FLAG_RESPONSE: u8 = 4;

/// Bytes of the pipe header.
const PIPE_LEN: usize = 8;

/// Bytes of the component header, which the pipe header's size includes.
const COMPONENT_LEN: usize = HEADER_LEN - PIPE_LEN;

/// Bytes of the body of a negotiation's reply: the counts and one version each.
const NEGOTIATED_SIZE: usize = 0x10;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    pipe_flags: U32,
    pipe_size: U32,
    framework_major: U16,
    framework_minor: U16,
    kind: U16,
    message_major: U16,
    message_minor: U16,
    size: U16,
    status: U32,
    transaction: u8,
    flags: u8,
    reserved: U16,
}

const _: () = assert!(HEADER_LEN == 28);

impl Header {
    /// Returns the length of the body of a message that has `carried` bytes after its
    /// headers: as stated in the pipe header, if that many are there. A packet is padded,
    /// so it may be longer than its message.
    fn body_len(&self, carried: usize) -> usize {
        usize::try_from(self.pipe_size.get())
            .ok()
            .and_then(|piped| piped.checked_sub(COMPONENT_LEN))
            .filter(|stated| *stated <= carried)
            .unwrap_or(carried)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct NegotiateHeader {
    frameworks: U16,
    messages: U16,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireVersion {
    major: U16,
    minor: U16,
}

/// The type of a message: the service that it is for, or negotiation. Values without a
/// name here are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageType(pub u16);

impl MessageType {
    /// Version negotiation, common to all services.
    pub const NEGOTIATE: Self = Self(0);
    /// Key-value pairs and IP configuration.
    pub const KVP: Self = Self(2);
    /// Volume snapshots.
    pub const VSS: Self = Self(5);
    /// File copy.
    pub const FILE_COPY: Self = Self(7);
}

/// The outcome of a request that the host receives: an HRESULT.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// Success.
    pub const OK: Self = Self(0);
    /// A failure without a code of its own.
    pub const FAIL: Self = Self(0x8000_4005);
    /// The index of an enumeration is past the end.
    pub const NO_MORE_ITEMS: Self = Self(0x8007_0103);
    /// The request is not supported.
    pub const NOT_SUPPORTED: Self = Self(0x8007_0032);
    /// The request is malformed, or what it requests is invalid.
    pub const INVALID_ARGUMENT: Self = Self(0x8007_0057);
    /// No device has the GUID.
    pub const GUID_NOT_FOUND: Self = Self(0x8004_1002);
    /// The file exists.
    pub const ALREADY_EXISTS: Self = Self(0x8007_0050);
    /// The disk has no room.
    pub const DISK_FULL: Self = Self(0x8007_0070);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match *self {
            Self::OK => "ok",
            Self::FAIL => "fail",
            Self::NO_MORE_ITEMS => "no more items",
            Self::NOT_SUPPORTED => "not supported",
            Self::INVALID_ARGUMENT => "invalid argument",
            Self::GUID_NOT_FOUND => "GUID not found",
            Self::ALREADY_EXISTS => "already exists",
            Self::DISK_FULL => "disk full",
            Self(code) => return write!(f, "{code:#010x}"),
        };
        f.write_str(words)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:#010x})", self.0)
    }
}

/// A version of the framework or of a service's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// Major number.
    pub major: u16,
    /// Minor number.
    pub minor: u16,
}

impl Version {
    /// Returns version `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The outcome of a negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// Version of the framework.
    pub framework: Version,
    /// Version of the service's messages.
    pub message: Version,
}

/// A message whose headers contradict its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IcError {
    /// It is shorter than its two headers, so it has no room for a status.
    #[error("the message has {len} bytes, its headers alone take {HEADER_LEN}")]
    NoHeader {
        /// Bytes in the message.
        len: usize,
    },
    /// The header states a longer body than the packet carries.
    #[error("the header states a body of {stated} bytes, the packet carries {carried}")]
    SizeBeyondPacket {
        /// Bytes stated in the header.
        stated: usize,
        /// Bytes in the packet after the headers.
        carried: usize,
    },
    /// A negotiation is too short for the number of versions that it states.
    #[error("a negotiation of {frameworks} + {messages} versions does not fit its {carried} bytes")]
    VersionsBeyondPacket {
        /// Framework versions stated.
        frameworks: u16,
        /// Message versions stated.
        messages: u16,
        /// Bytes in the packet after the headers.
        carried: usize,
    },
    /// A negotiation states more than [`MAX_OFFERED_VERSIONS`].
    #[error("a negotiation offers {0} versions, more than {MAX_OFFERED_VERSIONS}")]
    TooManyVersions(usize),
}

/// The headers of a message, as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Kind of the packet: 1 for data.
    pub pipe_kind: u32,
    /// Bytes that follow the pipe header, as stated.
    pub pipe_size: u32,
    /// Version of the framework.
    pub framework: Version,
    /// Type of the message.
    pub kind: MessageType,
    /// Version of the message.
    pub message: Version,
    /// Bytes of the body, as stated.
    pub size: u16,
    /// The outcome; it means something in a reply.
    pub status: Status,
    /// The message's transaction id.
    pub transaction: u8,
    /// Flags: 1 transaction, 2 request, 4 response.
    pub flags: u8,
}

/// Returns the headers of a message and its body, without a check: for those who read what
/// others have sent and received. `None` if it is shorter than its headers.
pub fn headers(message: &[u8]) -> Option<(Headers, &[u8])> {
    let (header, body) = Header::ref_from_prefix(message).ok()?;
    let headers = Headers {
        pipe_kind: header.pipe_flags.get(),
        pipe_size: header.pipe_size.get(),
        framework: Version::new(header.framework_major.get(), header.framework_minor.get()),
        kind: MessageType(header.kind.get()),
        message: Version::new(header.message_major.get(), header.message_minor.get()),
        size: header.size.get(),
        status: Status(header.status.get()),
        transaction: header.transaction,
        flags: header.flags,
    };
    Some((headers, body))
}

/// Returns the versions of the framework and of the messages that the body of a negotiation
/// lists: the offered ones, or in a reply the chosen ones.
///
/// # Errors
///
/// [`IcError`] if the body does not have as many as it states, or has too many.
pub fn versions(
    body: &[u8],
) -> Result<(impl Iterator<Item = Version>, impl Iterator<Item = Version>), IcError> {
    let carried = body.len();
    let (counts, rest) = NegotiateHeader::ref_from_prefix(body).map_err(|_| no_counts(carried))?;
    let lists = Lists::new(counts, carried)?;
    let (versions, _) = <[WireVersion]>::ref_from_prefix_with_elems(rest, lists.total())
        .map_err(|_| lists.beyond())?;
    let (frameworks, messages) = versions
        .split_at_checked(lists.frameworks.into())
        .ok_or(lists.beyond())?;
    let read = |version: &WireVersion| Version::new(version.major.get(), version.minor.get());
    Ok((frameworks.iter().map(read), messages.iter().map(read)))
}

fn no_counts(carried: usize) -> IcError {
    IcError::VersionsBeyondPacket {
        frameworks: 0,
        messages: 0,
        carried,
    }
}

/// The lengths of the lists in a negotiation.
#[derive(Clone, Copy)]
struct Lists {
    frameworks: u16,
    messages: u16,
    carried: usize,
}

impl Lists {
    fn new(counts: &NegotiateHeader, carried: usize) -> Result<Self, IcError> {
        let lists = Self {
            frameworks: counts.frameworks.get(),
            messages: counts.messages.get(),
            carried,
        };
        if lists.total() > MAX_OFFERED_VERSIONS {
            return Err(IcError::TooManyVersions(lists.total()));
        }
        Ok(lists)
    }

    fn total(self) -> usize {
        usize::from(self.frameworks) + usize::from(self.messages)
    }

    fn beyond(self) -> IcError {
        let Self {
            frameworks,
            messages,
            carried,
        } = self;
        IcError::VersionsBeyondPacket {
            frameworks,
            messages,
            carried,
        }
    }
}

/// Checks the headers of a message and returns its type.
///
/// # Errors
///
/// [`IcError::NoHeader`] if the message is shorter than its headers;
/// [`IcError::SizeBeyondPacket`] if a header states more than the packet carries.
/// Less is no error: packets are padded.
pub fn decode(message: &[u8]) -> Result<MessageType, IcError> {
    let (header, body) =
        Header::ref_from_prefix(message).map_err(|_| IcError::NoHeader { len: message.len() })?;
    let stated = usize::from(header.size.get());
    if stated > body.len() {
        return Err(IcError::SizeBeyondPacket {
            stated,
            carried: body.len(),
        });
    }
    Ok(MessageType(header.kind.get()))
}

/// Turns a request into its reply, in place: sets the status and the flags. A stated
/// size that exceeds the message is replaced by the real one, in the pipe header and in
/// the component header.
///
/// Does nothing to a message that is shorter than its headers, which [`decode`]
/// refuses.
pub fn encode_reply(message: &mut [u8], status: Status) {
    if let Ok((header, body)) = Header::mut_from_prefix(message) {
        header.status = status.0.into();
        header.flags = FLAG_TRANSACTION | FLAG_RESPONSE;
        let body_len = header.body_len(body.len());
        if let Ok(size) = u32::try_from(COMPONENT_LEN + body_len) {
            header.pipe_size = size.into();
        }
        if usize::from(header.size.get()) > body.len() {
            if let Ok(size) = u16::try_from(body_len) {
                header.size = size.into();
            }
        }
    }
}

/// Answers a negotiation in place. Chooses the first of `frameworks` and the first of
/// `messages` that the host offers; returns `None` if the host offers none of either.
///
/// The reply has the size of the counts and one version each, or less if the offer has
/// no versions. [`encode_reply`] sets the status and the flags.
///
/// # Errors
///
/// Any [`IcError`] if the message does not have as many versions as it states, or has too
/// many. The message is unchanged then.
pub fn negotiate(
    message: &mut [u8],
    frameworks: &[Version],
    messages: &[Version],
) -> Result<Option<Negotiated>, IcError> {
    let len = message.len();
    let (header, body) = Header::mut_from_prefix(message).map_err(|_| IcError::NoHeader { len })?;
    let carried = body.len();
    let (counts, rest) = NegotiateHeader::mut_from_prefix(body).map_err(|_| no_counts(carried))?;
    let lists = Lists::new(counts, carried)?;
    let (versions, _) = <[WireVersion]>::mut_from_prefix_with_elems(rest, lists.total())
        .map_err(|_| lists.beyond())?;
    let (framework_offer, message_offer) = versions
        .split_at_checked(lists.frameworks.into())
        .ok_or(lists.beyond())?;

    let settled = choose(frameworks, framework_offer)
        .zip(choose(messages, message_offer))
        .map(|(framework, message)| Negotiated { framework, message });

    let size = header.body_len(carried).min(NEGOTIATED_SIZE);
    header.size = u16::try_from(size).unwrap_or(u16::MAX).into();
    counts.frameworks = u16::from(settled.is_some()).into();
    counts.messages = counts.frameworks;
    if let Some(Negotiated { framework, message }) = settled {
        for (place, version) in versions.iter_mut().zip([framework, message]) {
            place.major = version.major.into();
            place.minor = version.minor.into();
        }
    }
    Ok(settled)
}

fn choose(ours: &[Version], offered: &[WireVersion]) -> Option<Version> {
    ours.iter().copied().find(|version| {
        offered
            .iter()
            .any(|offer| offer.major == version.major && offer.minor == version.minor)
    })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAMEWORKS: &[Version] = &[Version::new(3, 0), Version::new(1, 0)];
    const MESSAGES: &[Version] = &[Version::new(4, 0), Version::new(3, 0)];

    /// A negotiation as a host sends it.
    fn offer(frameworks: &[(u16, u16)], messages: &[(u16, u16)]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend((frameworks.len() as u16).to_le_bytes());
        body.extend((messages.len() as u16).to_le_bytes());
        body.extend([0; 4]);
        for (major, minor) in frameworks.iter().chain(messages) {
            body.extend(major.to_le_bytes());
            body.extend(minor.to_le_bytes());
        }
        let mut message = message(MessageType::NEGOTIATE, body.len() as u16);
        message.extend(body);
        message
    }

    fn message(kind: MessageType, size: u16) -> Vec<u8> {
        let mut header = vec![0; HEADER_LEN];
        header[0] = 1;
        header[4..8].copy_from_slice(&(20 + u32::from(size)).to_le_bytes());
        header[12..14].copy_from_slice(&kind.0.to_le_bytes());
        header[18..20].copy_from_slice(&size.to_le_bytes());
        header[24] = 77;
        header[25] = 3;
        header
    }

    #[test]
    fn the_preferred_version_among_those_offered_is_chosen() {
        let mut message = offer(&[(1, 0), (3, 0)], &[(5, 0), (3, 0), (1, 0)]);
        let len = message.len();
        assert_eq!(decode(&message), Ok(MessageType::NEGOTIATE));
        let settled = negotiate(&mut message, FRAMEWORKS, MESSAGES).unwrap();
        assert_eq!(
            settled,
            Some(Negotiated {
                framework: Version::new(3, 0),
                message: Version::new(3, 0),
            })
        );
        encode_reply(&mut message, Status::OK);
        assert_eq!(message.len(), len, "a reply has the request's length");
        assert_eq!(message[18..20], [0x10, 0], "message size");
        assert_eq!(message[20..24], [0; 4], "status");
        assert_eq!(message[24..26], [77, 5], "transaction id and flags");
        assert_eq!(message[28..32], [1, 0, 1, 0], "one version each");
        assert_eq!(message[36..44], [3, 0, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn an_offer_without_a_known_version_is_answered_with_no_versions() {
        for (frameworks, messages) in [
            (&[(3, 0)][..], &[(9, 9)][..]),
            (&[(2, 0)], &[(4, 0)]),
            (&[], &[(4, 0)]),
            (&[], &[]),
            // A framework version is no message version.
            (&[(3, 0), (4, 0)], &[]),
        ] {
            let mut message = offer(frameworks, messages);
            assert_eq!(negotiate(&mut message, FRAMEWORKS, MESSAGES), Ok(None));
            assert_eq!(message[28..32], [0; 4]);
        }
    }

    /// Returns the sizes that a message states in its pipe header and in its component
    /// header.
    fn sizes(message: &[u8]) -> (u32, u16) {
        (
            u32::from_le_bytes(message[4..8].try_into().unwrap()),
            u16::from_le_bytes(message[18..20].try_into().unwrap()),
        )
    }

    #[test]
    fn a_negotiation_is_answered_with_the_size_of_its_body() {
        for (frameworks, messages, size) in [
            (&[][..], &[][..], 8),
            (&[(3, 0)], &[], 12),
            (&[(3, 0)], &[(4, 0)], 16),
            (&[(3, 0)], &[(9, 9)], 16),
            (&[(3, 0), (1, 0)], &[(4, 0), (3, 0)], 16),
        ] {
            let mut message = offer(frameworks, messages);
            let (piped, _) = sizes(&message);
            // As a packet pads it.
            message.resize(message.len().next_multiple_of(8), 0);
            negotiate(&mut message, FRAMEWORKS, MESSAGES).unwrap();
            encode_reply(&mut message, Status::OK);
            assert_eq!(sizes(&message), (piped, size));
        }
        // One that is refused keeps its size, which is right.
        let mut short = message(MessageType::NEGOTIATE, 4);
        short.extend([0; 4]);
        assert!(negotiate(&mut short, FRAMEWORKS, MESSAGES).is_err());
        encode_reply(&mut short, Status::INVALID_ARGUMENT);
        assert_eq!(sizes(&short), (24, 4));
    }

    #[test]
    fn a_reply_corrects_a_wrong_size() {
        for (piped, size, expected) in [
            (60, 40, (60, 40)),
            // Padded, and less than there is.
            (57, 37, (57, 37)),
            (60, 8, (60, 8)),
            (60, 0, (60, 0)),
            // More than there is.
            (60, 41, (60, 40)),
            (60, u16::MAX, (60, 40)),
            (57, 100, (57, 37)),
            (61, 40, (60, 40)),
            (u32::MAX, u16::MAX, (60, 40)),
            // Less than the header alone.
            (19, 40, (60, 40)),
            (0, 0, (60, 0)),
        ] {
            let mut message = message(MessageType::KVP, size);
            message[4..8].copy_from_slice(&u32::to_le_bytes(piped));
            message.extend([0; 40]);
            encode_reply(&mut message, Status::OK);
            assert_eq!(sizes(&message), expected, "{piped} and {size}");
        }
    }

    #[test]
    fn the_number_of_versions_is_checked_against_the_message() {
        let mut short = offer(&[(3, 0)], &[(4, 0)]);
        short.truncate(HEADER_LEN + 12);
        let before = short.clone();
        assert_eq!(
            negotiate(&mut short, FRAMEWORKS, MESSAGES),
            Err(IcError::VersionsBeyondPacket {
                frameworks: 1,
                messages: 1,
                carried: 12
            })
        );
        assert_eq!(short, before, "a refused negotiation is left as it is");
        let mut many = offer(&[(3, 0); 51], &[(4, 0); 50]);
        assert_eq!(
            negotiate(&mut many, FRAMEWORKS, MESSAGES),
            Err(IcError::TooManyVersions(101))
        );
        many.truncate(HEADER_LEN + 7);
        assert!(negotiate(&mut many, FRAMEWORKS, MESSAGES).is_err());
    }

    #[test]
    fn a_stated_size_beyond_the_packet_is_refused_and_below_it_is_accepted() {
        let mut message = message(MessageType::FILE_COPY, 8);
        message.extend([0; 8]);
        assert_eq!(decode(&message), Ok(MessageType::FILE_COPY));
        message.extend([0; 8]);
        assert_eq!(decode(&message), Ok(MessageType::FILE_COPY));
        message.truncate(HEADER_LEN + 7);
        assert_eq!(
            decode(&message),
            Err(IcError::SizeBeyondPacket {
                stated: 8,
                carried: 7
            })
        );
        assert_eq!(decode(&message[..27]), Err(IcError::NoHeader { len: 27 }));
    }

    #[test]
    fn what_was_sent_can_be_read() {
        let mut message = offer(&[(1, 0), (3, 0)], &[(5, 0)]);
        let lists = |message: &[u8]| {
            let (headers, body) = headers(message).unwrap();
            let (frameworks, messages) = versions(body).unwrap();
            (headers, frameworks.chain(messages).collect::<Vec<_>>())
        };
        let (sent, offered) = lists(&message);
        assert_eq!((sent.pipe_size, sent.size), (40, 20));
        assert_eq!(
            (sent.kind, sent.transaction, sent.flags),
            (MessageType::NEGOTIATE, 77, 3)
        );
        assert_eq!(
            offered,
            [Version::new(1, 0), Version::new(3, 0), Version::new(5, 0)]
        );
        negotiate(&mut message, FRAMEWORKS, &[Version::new(5, 0)]).unwrap();
        encode_reply(&mut message, Status::OK);
        let (sent, chosen) = lists(&message);
        assert_eq!((sent.status, sent.flags), (Status::OK, 5));
        assert_eq!(chosen, [Version::new(3, 0), Version::new(5, 0)]);
        assert!(headers(&message[..27]).is_none());
    }

    #[test]
    fn statuses_are_displayed_in_words_and_unknown_ones_as_numbers() {
        assert_eq!(Status::DISK_FULL.to_string(), "disk full");
        assert_eq!(Status(0x8007_1234).to_string(), "0x80071234");
    }

    proptest! {
        /// Whatever a host sends, the reply has the length of the message and states no
        /// more than that, and the chosen versions were offered and are known.
        #[test]
        fn any_message_is_survived(
            mut message in prop::collection::vec(any::<u8>(), 0..600),
            frameworks in 0u16..8,
            messages in 0u16..8,
            plausible: bool,
        ) {
            if plausible && message.len() >= HEADER_LEN + 8 {
                message[28..30].copy_from_slice(&frameworks.to_le_bytes());
                message[30..32].copy_from_slice(&messages.to_le_bytes());
                for byte in &mut message[36..] {
                    *byte %= 5;
                }
            }
            let before = message.clone();
            let _ = decode(&message);
            match negotiate(&mut message, FRAMEWORKS, MESSAGES) {
                Ok(Some(settled)) => {
                    prop_assert!(FRAMEWORKS.contains(&settled.framework));
                    prop_assert!(MESSAGES.contains(&settled.message));
                    let offered = before[36..].chunks_exact(4).any(|version| {
                        version[..2] == settled.message.major.to_le_bytes()
                            && version[2..] == settled.message.minor.to_le_bytes()
                    });
                    prop_assert!(offered);
                }
                Ok(None) => prop_assert_eq!(&message[36..], &before[36..]),
                Err(_) => prop_assert_eq!(&message, &before),
            }
            encode_reply(&mut message, Status::FAIL);
            prop_assert_eq!(message.len(), before.len());
            if message.len() >= HEADER_LEN {
                let (piped, size) = sizes(&message);
                let (piped, size) = (piped as usize, usize::from(size));
                prop_assert!((20..=message.len() - 8).contains(&piped));
                prop_assert!(size <= message.len() - HEADER_LEN);
            }
        }
    }
}
