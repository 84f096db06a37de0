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
    /// Several numbers of the same size.
    Numbers(Vec<u64>),
    /// A version: major and minor of two bytes each.
    Version(Version),
    /// Several versions.
    Versions(Vec<Version>),
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

    /// Returns the field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Describes a message, field by field. The bytes of a field are a slice of the message.
#[derive(Debug)]
pub struct Describer<'a> {
    message: &'a [u8],
    encoding: Encoding,
    description: Description,
}

impl<'a> Describer<'a> {
    /// Begins to describe a message.
    pub fn new(message: &'a [u8], encoding: Encoding) -> Self {
        Self {
            message,
            encoding,
            description: Description::new("unknown", None),
        }
    }

    /// Says which operation the message is about. It is a field, too, if it has bytes.
    pub fn operation(&mut self, bytes: &[u8], code: u32, name: Option<&'static str>) {
        let name = name.unwrap_or("unknown");
        self.description.operation = name.into();
        self.description.code = Some(code);
        if !bytes.is_empty() {
            self.named("operation", bytes, code.into(), name);
        }
    }

    /// Says what the message is, if it is about no operation.
    pub fn called(&mut self, name: &'static str) {
        self.description.operation = name.into();
    }

    /// Adds a field.
    pub fn add(&mut self, name: &'static str, bytes: &[u8], value: Value, content: Content) {
        let place = place(self.message, bytes).unwrap_or_default();
        self.description.fields.push(Field {
            name,
            value,
            place,
            content,
        });
    }

    /// Adds a number of the protocol.
    pub fn number(&mut self, name: &'static str, bytes: &[u8], number: impl Into<u64>) {
        self.add(name, bytes, Value::Number(number.into()), Content::Protocol);
    }

    /// Adds a number of the protocol that has a name.
    pub fn named(
        &mut self,
        name: &'static str,
        bytes: &[u8],
        number: u64,
        words: impl Into<Cow<'static, str>>,
    ) {
        let value = Value::Named(number, words.into());
        self.add(name, bytes, value, Content::Protocol);
    }

    /// Adds the string at the start of `bytes`, up to the first NUL or the end.
    pub fn text(&mut self, name: &'static str, bytes: &[u8], content: Content) {
        let (text, bytes) = decoded(self.encoding, bytes);
        self.add(name, bytes, Value::Text(text), content);
    }

    /// Adds a status.
    pub fn status(&mut self, bytes: &[u8], status: Status) {
        self.named("status", bytes, status.0.into(), status.to_string());
    }

    /// Adds the status at the start of a reply on a character device and returns it, if it is
    /// there.
    pub fn status_in_body(&mut self) -> Option<Status> {
        let bytes = self.message.first_chunk()?;
        let status = Status(u32::from_le_bytes(*bytes));
        self.status(bytes, status);
        Some(status)
    }

    /// Adds why the message, or the rest of it, cannot be decoded.
    pub fn malformed(&mut self, why: &impl ToString) {
        let value = Value::Text(why.to_string());
        self.add("malformed", &[], value, Content::Protocol);
    }

    /// Returns the description.
    pub fn finish(self) -> Description {
        self.description
    }
}

/// Decodes the string at the start of `bytes`, and returns it with its own bytes. What is not
/// valid Unicode is replaced.
fn decoded(encoding: Encoding, bytes: &[u8]) -> (String, &[u8]) {
    let unit = match encoding {
        Encoding::Utf16 => 2,
        Encoding::Utf8 => 1,
    };
    let units = bytes.chunks_exact(unit);
    let len = units.take_while(|unit| unit.iter().any(|&byte| byte != 0));
    let own = bytes.get(..unit * len.count()).unwrap_or(bytes);
    let text = match encoding {
        Encoding::Utf16 => {
            let units = own
                .chunks_exact(2)
                .filter_map(|unit| unit.try_into().ok())
                .map(u16::from_le_bytes);
            let letters = char::decode_utf16(units);
            letters
                .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        Encoding::Utf8 => String::from_utf8_lossy(own).into_owned(),
    };
    (text, own)
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
    fn a_string_ends_at_its_nul() {
        for (encoding, bytes, text, len) in [
            (Encoding::Utf8, &b"ab\0c"[..], "ab", 2),
            (Encoding::Utf8, b"a\xff", "a\u{fffd}", 2),
            (Encoding::Utf8, b"", "", 0),
            (Encoding::Utf16, b"a\0\0\x01\0\0b\0", "a\u{100}", 4),
            (Encoding::Utf16, b"\0\xd8a\0b", "\u{fffd}a", 4),
        ] {
            assert_eq!(decoded(encoding, bytes), (text.to_owned(), &bytes[..len]));
        }
    }

    #[test]
    fn a_field_knows_its_place() {
        let message = [0; 8];
        let mut describer = Describer::new(&message[..6], Encoding::Utf8);
        describer.number("inside", &message[2..6], 0u8);
        describer.number("all", &message[..6], 0u8);
        describer.number("outside", &message[4..8], 0u8);
        let description = describer.finish();
        let places = description.fields.iter().map(|field| field.place.clone());
        assert_eq!(places.collect::<Vec<_>>(), [2..6, 0..6, 0..0]);
        assert_eq!(description.field("all").unwrap().place, 0..6);
    }
}
