//! What a message says, for people and programs that read captures.
//!
//! Each service describes its own messages ([`Entry::describe`](crate::service::Entry)),
//! with its own decoder. The names of fields are the words of `docs/protocol.md`.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::{Status, Version};

/// Describes the body of a message: what follows the integration-component header on a ring,
/// and the whole message on a character device.
pub type Describe = fn(&Context, &[u8]) -> Description;

/// Who sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The host, or the kernel in its place: a request.
    Host,
    /// The guest: a reply, or a registration on a character device.
    Guest,
}

/// What must be known to describe a message, and is not in its body.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// How the body is written.
    pub encoding: Encoding,
    /// Who sent it.
    pub side: Side,
    /// The negotiated version of the messages; 0.0 if none is known.
    pub version: Version,
    /// The operation of the request that a reply on a character device answers: the status
    /// lies over it there. `None` if no request waits for a reply.
    pub request: Option<u32>,
    /// The status of a reply over a ring, from its header. On a character device, and in
    /// requests, it is `None`.
    pub status: Option<Status>,
}

/// What a message says. What cannot be decoded is a field `malformed` with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// What is asked for or answered, such as `WRITE`.
    pub operation: Cow<'static, str>,
    /// The number of the operation, if it has one.
    pub code: Option<u32>,
    /// The parts of the message, in their order there.
    pub fields: Vec<Field>,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub value: Value,
    /// Its bytes in what was described; empty if it has none of its own. That of a string is
    /// without the NUL.
    pub place: Range<usize>,
    /// Whether it may be private.
    pub content: Content,
}

/// What a field says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string in the encoding of the message. What is not valid Unicode is replaced.
    Text(String),
    /// A number, little-endian in its place.
    Number(u64),
    /// A number that has a name.
    Named(u64, Cow<'static, str>),
    /// Several numbers of two or four bytes each.
    Numbers(Vec<u64>),
    /// IPv4 addresses or masks, four bytes each.
    V4(Vec<Ipv4Addr>),
    /// IPv6 addresses, 16 bytes each.
    V6(Vec<Ipv6Addr>),
    /// So many bytes of data.
    Bytes(usize),
}

/// What is private in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing: it belongs to the protocol.
    Protocol,
    /// The name of a file, a directory, a key or an adapter.
    Name,
    /// The value of a key.
    Value,
    /// Network addresses.
    Address,
    /// Data of a file.
    Data,
}

impl Description {
    /// A description without fields.
    pub fn new(operation: impl Into<Cow<'static, str>>, code: Option<u32>) -> Self {
        Self {
            operation: operation.into(),
            code,
            fields: Vec::new(),
        }
    }

    /// Adds a field. `bytes` is its part of `message`.
    pub fn add(
        &mut self,
        message: &[u8],
        name: &'static str,
        bytes: &[u8],
        value: Value,
        content: Content,
    ) {
        let place = place(message, bytes).unwrap_or_default();
        self.fields.push(Field {
            name,
            value,
            place,
            content,
        });
    }

    /// Adds a number of the protocol.
    pub fn number(&mut self, message: &[u8], name: &'static str, bytes: &[u8], number: u64) {
        self.add(
            message,
            name,
            bytes,
            Value::Number(number),
            Content::Protocol,
        );
    }

    /// Adds a status.
    pub fn status(&mut self, message: &[u8], bytes: &[u8], status: Status) {
        let value = Value::Named(status.0.into(), status.to_string().into());
        self.add(message, "status", bytes, value, Content::Protocol);
    }

    /// Adds why the message, or the rest of it, cannot be decoded.
    pub fn malformed(&mut self, why: &impl ToString) {
        let value = Value::Text(why.to_string());
        self.add(&[], "malformed", &[], value, Content::Protocol);
    }

    /// Returns the field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Returns where `part`, a slice of `whole`, is in it.
fn place(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_knows_its_place() {
        let message = [0; 8];
        let mut description = Description::new("TEST", None);
        description.number(&message, "inside", &message[2..6], 0);
        description.number(&message, "all", &message, 0);
        description.number(&message[..4], "outside", &message[2..6], 0);
        let places = description.fields.iter().map(|field| field.place.clone());
        assert_eq!(places.collect::<Vec<_>>(), [2..6, 0..8, 0..0]);
        assert_eq!(description.field("all").unwrap().place, 0..8);
    }
}
