//! What a reply means, whatever carries it: how the request went, and what came with it.
//! What depends on the machine or on the time is no part of it.

use std::fmt;

use anyhow::{Result, ensure};
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::{Status, Version};

use super::operation::Operation;
use crate::ic::Reply;
use crate::{kvp, vss};

/// What a reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    /// How the request went.
    pub(super) status: Status,
    /// What came with it.
    pub(super) answer: Answer,
}

/// What comes with a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing that counts.
    Nothing,
    /// The versions that a negotiation chose.
    Versions(Option<(Version, Version)>),
    /// The value of a key.
    Value(String),
    /// A key and its value.
    Item(kvp::Item),
    /// An IP configuration.
    IpConfiguration,
    /// The flags of a backup.
    Flags(u32),
}

/// Reads the reply to a negotiation.
pub(super) fn of_negotiation(reply: &Reply) -> Result<Meaning> {
    Ok(Meaning {
        status: reply.status,
        answer: match reply.status {
            Status::OK => Answer::Versions(reply.settled()?),
            _ => Answer::Nothing,
        },
    })
}

/// Reads the reply to an operation in a version of the messages.
pub(super) fn of(
    operation: Option<&Operation>,
    encoding: Encoding,
    version: Version,
    reply: &Reply,
) -> Result<Meaning> {
    let status = reply.status;
    let utf16 = encoding == Encoding::Utf16;
    let answer = match operation {
        _ if status != Status::OK => Answer::Nothing,
        Some(Operation::Kvp(operation)) => match operation {
            kvp::Operation::Get { .. } => Answer::Value(kvp::value(utf16, &reply.body)?),
            kvp::Operation::Enumerate { .. } => Answer::Item(kvp::item(utf16, &reply.body)?),
            kvp::Operation::GetIpInfo { .. } => {
                kvp::ip_info(utf16, version, &reply.body)?;
                Answer::IpConfiguration
            }
            _ => Answer::Nothing,
        },
        // The kernel passes no flags on.
        Some(Operation::Vss(vss::Operation::HotBackup | vss::Operation::GetDmInfo)) if utf16 => {
            match vss::flags(reply)? {
                Ok(flags) => Answer::Flags(flags),
                Err(_) => Answer::Nothing,
            }
        }
        _ => Answer::Nothing,
    };
    Ok(Meaning { status, answer })
}

/// The reply that was written to a character device.
pub(super) fn on_device(len: usize, reply: &[u8]) -> Result<Reply> {
    ensure!(
        reply.len() == len,
        "expected a reply of {len} bytes; it has {}",
        reply.len()
    );
    let (status, body) = reply.split_first_chunk().unwrap_or((&[0; 4], &[]));
    Ok(Reply {
        status: Status(u32::from_le_bytes(*status)),
        body: body.to_vec(),
    })
}

impl Meaning {
    /// Says how `came` differs from this; `None` if it does not. Values of `facts` are the
    /// machine's.
    pub(super) fn difference(&self, came: &Self, facts: bool) -> Option<String> {
        if self.status != came.status {
            return Some(format!(
                "expected the status {:?}, the guest replied {:?}",
                self.status, came.status
            ));
        }
        let same = match (&self.answer, &came.answer) {
            (Answer::Value(_), Answer::Value(_)) if facts => true,
            (Answer::Item(expected), Answer::Item(came)) if facts => expected.key == came.key,
            // One of both came by a character device.
            (Answer::Flags(_), Answer::Nothing) | (Answer::Nothing, Answer::Flags(_)) => true,
            (expected, came) => expected == came,
        };
        (!same).then(|| {
            format!(
                "expected {}, the guest replied {}",
                self.answer, came.answer
            )
        })
    }
}

impl Meaning {
    /// Whether this and `came` differ only in that one guest has an interface and the other
    /// does not.
    pub(super) fn depends_on_interfaces(&self, came: &Self, operation: Option<&Operation>) -> bool {
        let Some(Operation::Kvp(operation)) = operation else {
            return false;
        };
        matches!(operation, kvp::Operation::GetIpInfo { .. })
            && self.status != came.status
            && [self.status, came.status]
                .iter()
                .all(|status| [Status::OK, Status::GUID_NOT_FOUND].contains(status))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Versions(None) => f.write_str("no version"),
            Self::Versions(Some((framework, message))) => {
                write!(f, "framework {framework} and messages {message}")
            }
            Self::Value(value) => write!(f, "the value {value:?}"),
            Self::Item(kvp::Item { key, value }) => write!(f, "{key:?} with the value {value:?}"),
            Self::IpConfiguration => f.write_str("an IP configuration"),
            Self::Flags(flags) => write!(f, "the flags {flags:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: Status, answer: Answer) -> Meaning {
        Meaning { status, answer }
    }

    fn item(key: &str, value: &str) -> Answer {
        let (key, value) = (key.to_owned(), value.to_owned());
        Answer::Item(kvp::Item { key, value })
    }

    #[test]
    fn values_of_facts_are_the_machines() {
        let expected = meaning(Status::OK, item("OSName", "a"));
        let other = meaning(Status::OK, item("OSName", "b"));
        assert_eq!(expected.difference(&other, true), None);
        let difference = expected.difference(&other, false).unwrap();
        assert!(difference.contains("\"b\""), "{difference}");
        let other_key = meaning(Status::OK, item("OSVersion", "a"));
        assert!(expected.difference(&other_key, true).is_some());
    }

    #[test]
    fn a_status_counts_before_all_else() {
        let expected = meaning(Status::OK, Answer::Value("a".into()));
        let came = meaning(Status::FAIL, Answer::Nothing);
        assert_eq!(
            expected.difference(&came, true).unwrap(),
            "expected the status ok (0x00000000), the guest replied fail (0x80004005)"
        );
    }

    #[test]
    fn flags_do_not_pass_a_character_device() {
        let with = meaning(Status::OK, Answer::Flags(5));
        let without = meaning(Status::OK, Answer::Nothing);
        assert_eq!(with.difference(&without, false), None);
        let others = meaning(Status::OK, Answer::Flags(1));
        assert!(with.difference(&others, false).is_some());
    }
}
