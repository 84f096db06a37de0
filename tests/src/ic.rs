//! Integration-component messages as the host makes and checks them. Protocol
//! section 4.

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::{Status, Version};

/// Bytes of the pipe header and the component header.
pub const HEADER_LEN: usize = 28;

/// Bytes of the pipe header.
const PIPE_LEN: usize = 8;

/// Bytes of the body of a negotiation's reply that has room for a version of
/// each kind.
const SETTLED_LEN: usize = 16;

/// The message type of a negotiation.
pub const NEGOTIATE: u16 = 0;

/// The message type of keys and values.
pub const KEY_VALUE: u16 = 2;

/// The message type of a backup.
pub const BACKUP: u16 = 5;

/// The message type of a file copy.
pub const FILE_COPY: u16 = 7;

const REQUEST_FLAGS: u8 = 1 | 2;
const REPLY_FLAGS: u8 = 1 | 4;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Framework version.
    pub framework: Version,
    /// Message type.
    pub kind: u16,
    /// Message version.
    pub version: Version,
    /// Transaction id of the message; that of its packet is another.
    pub id: u8,
    /// What the header states as the body's size, true or not.
    pub stated: u16,
    /// What the pipe header states as the size of all behind it, true or not.
    pub piped: u32,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A negotiation that offers these versions.
    ///
    /// # Errors
    ///
    /// If they are more than a message can count.
    pub fn negotiation(id: u8, frameworks: &[Version], messages: &[Version]) -> Result<Self> {
        let mut body = Vec::new();
        body.extend(u16::try_from(frameworks.len())?.to_le_bytes());
        body.extend(u16::try_from(messages.len())?.to_le_bytes());
        body.extend([0; 4]);
        for version in frameworks.iter().chain(messages) {
            body.extend(version.major.to_le_bytes());
            body.extend(version.minor.to_le_bytes());
        }
        Self::new(NEGOTIATE, id, body)
    }

    /// A request of this type, in the versions of a current file copy.
    ///
    /// # Errors
    ///
    /// If the body is longer than a message can state.
    pub fn new(kind: u16, id: u8, body: Vec<u8>) -> Result<Self> {
        Ok(Self {
            framework: Version::new(3, 0),
            kind,
            version: Version::new(1, 1),
            id,
            stated: u16::try_from(body.len())?,
            piped: u32::try_from(HEADER_LEN - PIPE_LEN + body.len())?,
            body,
        })
    }

    /// The message, pipe header first.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.body.len());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(self.piped.to_le_bytes());
        for version in [Some(self.framework), None, Some(self.version)] {
            match version {
                Some(version) => {
                    bytes.extend(version.major.to_le_bytes());
                    bytes.extend(version.minor.to_le_bytes());
                }
                None => bytes.extend(self.kind.to_le_bytes()),
            }
        }
        bytes.extend(self.stated.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend([self.id, REQUEST_FLAGS, 0, 0]);
        bytes.extend(&self.body);
        bytes
    }
}

/// What of a reply is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How the request went.
    pub status: Status,
    /// The body, padded to whole words of the message.
    pub body: Vec<u8>,
}

impl Reply {
    /// Checks that `reply` is one to the message `request`, and reads it.
    ///
    /// # Errors
    ///
    /// If its length, its flags or what it repeats of the request is wrong.
    pub fn to(request: &[u8], reply: &[u8]) -> Result<Self> {
        let expected = request.len().next_multiple_of(8);
        ensure!(
            reply.len() == expected,
            "expected a reply of {expected} bytes, as long as the request; it has {}",
            reply.len()
        );
        let part = |at: usize, len: usize| -> Result<(&[u8], &[u8])> {
            let places = request.get(at..at + len).zip(reply.get(at..at + len));
            places.context("the reply is shorter than its header")
        };
        for (at, len, what) in [
            (0, 4, "pipe flags"),
            (8, 4, "framework version"),
            (12, 2, "message type"),
            (14, 4, "message version"),
            (24, 1, "transaction id"),
        ] {
            let (sent, came) = part(at, len)?;
            ensure!(
                sent == came,
                "expected the reply to repeat the {what} {sent:?}; it has {came:?}"
            );
        }
        Self::check_sizes(request, reply)?;
        let (_, flags) = part(25, 1)?;
        ensure!(
            flags == [REPLY_FLAGS],
            "expected a reply's flags {REPLY_FLAGS}; they are {flags:?}"
        );
        let (_, status) = part(20, 4)?;
        let status: [u8; 4] = status.try_into()?;
        Ok(Self {
            status: Status(u32::from_le_bytes(status)),
            body: reply.get(HEADER_LEN..).unwrap_or_default().to_vec(),
        })
    }

    /// Checks that the reply repeats the sizes that the request has, and corrects
    /// those that it does not have. A negotiation that is answered has the size
    /// of its versions, or less where it has no room for them.
    fn check_sizes(request: &[u8], reply: &[u8]) -> Result<()> {
        let number = |message: &[u8], at: usize, len: usize| {
            let bytes = message.iter().skip(at).take(len).rev();
            bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
        };
        let (piped, size) = (number(request, 4, 4), number(request, 18, 2));
        let whole = HEADER_LEN - PIPE_LEN..=reply.len() - PIPE_LEN;
        let expected = match whole.contains(&piped) {
            true => piped,
            false => *whole.end(),
        };
        let came = number(reply, 4, 4);
        ensure!(
            came == expected,
            "expected the reply to a message of {} bytes to state {expected} in its pipe header; it has {came}, the request {piped}",
            reply.len()
        );
        let body = expected - whole.start();
        let kept = match size > reply.len() - HEADER_LEN {
            true => body,
            false => size,
        };
        let settled = body.min(SETTLED_LEN);
        let came = number(reply, 18, 2);
        let negotiation = number(request, 12, 2) == usize::from(NEGOTIATE);
        ensure!(
            came == kept || negotiation && came == settled,
            "expected the reply to a body of {body} bytes to state {kept}; it has {came}, the request {size}"
        );
        Ok(())
    }

    /// Returns the versions that a negotiation chose; `None` if there are none.
    ///
    /// # Errors
    ///
    /// If the body is no negotiation's reply.
    pub fn settled(&self) -> Result<Option<(Version, Version)>> {
        let field = |at: usize| -> Result<u16> {
            let bytes = self
                .body
                .get(at..at + 2)
                .context("the reply is cut short")?;
            Ok(u16::from_le_bytes(bytes.try_into()?))
        };
        match (field(0)?, field(2)?) {
            (0, 0) => Ok(None),
            (1, 1) => Ok(Some((
                Version::new(field(8)?, field(10)?),
                Version::new(field(12)?, field(14)?),
            ))),
            (frameworks, messages) => anyhow::bail!(
                "expected a negotiation to choose one version of each, or none; the reply counts {frameworks} and {messages}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negotiation_has_the_layout_of_the_wire() {
        let request = Request::negotiation(
            9,
            &[Version::new(1, 0), Version::new(3, 0)],
            &[Version::new(1, 1)],
        )
        .unwrap()
        .encode();
        assert_eq!(
            request,
            [
                1, 0, 0, 0, 40, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 1, 0, 20, 0, 0, 0, 0, 0, 9, 3, 0,
                0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 1, 0
            ]
        );
    }

    #[test]
    fn a_reply_is_known_by_flags_length_and_ids() {
        let request = Request::new(FILE_COPY, 7, vec![0; 36]).unwrap().encode();
        let mut reply = request.clone();
        assert!(Reply::to(&request, &reply).is_err());
        reply[25] = 5;
        assert_eq!(Reply::to(&request, &reply).unwrap().status, Status::OK);
        reply[20..24].copy_from_slice(&0x8007_0050u32.to_le_bytes());
        assert_eq!(
            Reply::to(&request, &reply).unwrap().status,
            Status::ALREADY_EXISTS
        );
        reply[24] = 8;
        assert!(Reply::to(&request, &reply).is_err());
        assert!(Reply::to(&request, &reply[..56]).is_err());
    }

    #[test]
    fn a_reply_keeps_no_size_that_lied() {
        let mut request = Request::new(FILE_COPY, 7, vec![0; 36]).unwrap();
        request.stated = 37;
        request.piped = u32::MAX;
        let mut reply = request.encode();
        reply[25] = 5;
        assert!(Reply::to(&request.encode(), &reply).is_err());
        reply[18..20].copy_from_slice(&36u16.to_le_bytes());
        assert!(Reply::to(&request.encode(), &reply).is_err());
        reply[4..8].copy_from_slice(&56u32.to_le_bytes());
        assert!(Reply::to(&request.encode(), &reply).is_ok());
    }

    #[test]
    fn a_negotiation_without_versions_has_no_room_for_them() {
        let request = Request::negotiation(7, &[], &[]).unwrap().encode();
        let mut reply = request.clone();
        reply.extend([0; 4]);
        reply[25] = 5;
        assert!(Reply::to(&request, &reply).is_ok());
        reply[18] = 16;
        assert!(Reply::to(&request, &reply).is_err());
    }
}
