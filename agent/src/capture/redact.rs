//! Removes what may be private from a capture, and leaves what others need to follow it.
//!
//! A placeholder has the length and the kind of what it stands for, and is the same for the
//! same text in one capture, and another for another text. Each name in a path has its own, so
//! that paths share their directories. A random key makes the placeholders, and is forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use hyperv_services::description::{Content, Description, Field, Value};
use hyperv_services::kvp::facts::KEYS;
use hyperv_services::kvp::facts::keys::FULL_NAME;
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::HEADER_LEN;

use super::{Decoder, Kind, Level, Record, Transport};

/// Redacts the records of a capture one after another.
#[derive(Debug)]
pub struct Redactor {
    level: Level,
    decoder: Decoder,
    key: RandomState,
    /// Which text a placeholder stands for, both as hashes.
    used: HashMap<u64, u64>,
}

/// How many placeholders are remembered.
const MAX_USED: usize = 1 << 20;

/// How many placeholders are tried for one that stands for no other text. There are few for
/// a text of one letter.
const TRIES: u32 = 100;

impl Redactor {
    /// A redactor with a key of its own.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            decoder: Decoder::default(),
            key: RandomState::new(),
            used: HashMap::new(),
        }
    }

    /// Replaces what may be private. Bytes that the decoders do not know become zeros.
    pub fn redact(&mut self, mut record: Record) -> Record {
        if self.level == Level::Full {
            return record;
        }
        let description = self.decoder.describe(&record);
        if record.header.kind == Kind::Event {
            return record;
        }
        let mut redacted = vec![0; record.bytes.len()];
        let mut put = |place: Range<usize>, bytes: &[u8]| {
            if let Some(to) = redacted.get_mut(place).filter(|to| to.len() == bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        if record.header.transport == Transport::Ring {
            let header = 0..HEADER_LEN.min(record.bytes.len());
            put(header.clone(), record.bytes.get(header).unwrap_or_default());
        }
        let encoding = record.header.transport.encoding();
        for field in &description.fields {
            let bytes = record.bytes.get(field.place.clone()).unwrap_or_default();
            if is_public(&description, field) {
                put(field.place.clone(), bytes);
            } else {
                put(
                    field.place.clone(),
                    &self.placeholder(field, bytes, encoding),
                );
            }
        }
        // The data of a file is the end of its message, or padding follows.
        let mut fields = description.fields.iter();
        if let Some(data) = fields.find(|field| field.content == Content::Data) {
            redacted.truncate(data.place.start);
            // Otherwise the agent has left it out already.
            if let Some(data) = record.bytes.get(data.place.clone()) {
                record.comment = comment(self.level, data);
            }
        }
        record.bytes = redacted;
        record
    }

    fn placeholder(&mut self, field: &Field, bytes: &[u8], encoding: Encoding) -> Vec<u8> {
        match &field.value {
            Value::Text(text) => self.text(text, bytes, encoding),
            Value::V4(list) => list.iter().flat_map(|it| self.v4(*it).octets()).collect(),
            Value::V6(list) => list.iter().flat_map(|it| self.v6(*it).octets()).collect(),
            Value::Number(number) => {
                // Not more digits than it had.
                let limit = 10_u64.saturating_pow(number.checked_ilog10().unwrap_or(0) + 1);
                let other = self.random(number) % limit.min(*number | 9);
                other.to_le_bytes().into_iter().take(bytes.len()).collect()
            }
            _ => vec![0; bytes.len()],
        }
    }

    fn text(&mut self, text: &str, bytes: &[u8], encoding: Encoding) -> Vec<u8> {
        let encode = |text: &str| match encoding {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Utf16 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        };
        let encoded = encode(&self.words(text));
        if encode(text) == bytes && encoded.len() == bytes.len() {
            return encoded;
        }
        // Of what is no valid Unicode nothing is left but that: the guest refuses it.
        match encoding {
            Encoding::Utf8 => vec![0xff; bytes.len()],
            Encoding::Utf16 => 0xd800_u16.to_le_bytes().repeat(bytes.len() / 2),
        }
    }

    /// Replaces letters and digits; addresses become other addresses.
    fn words(&mut self, text: &str) -> String {
        let parts = text.split(';').map(|part| match part.parse() {
            Ok(IpAddr::V4(address)) => self.v4(address).to_string(),
            Ok(IpAddr::V6(_)) => self.v6_text(part),
            // The length of a prefix.
            Err(_) if part.strip_prefix('/').is_some_and(is_number) => part.to_owned(),
            Err(_) => {
                let names = part.split_inclusive(['/', '\\']);
                names.map(|name| self.name(name)).collect()
            }
        });
        parts.collect::<Vec<_>>().join(";")
    }

    /// Replaces a name in a path, with the separator at its end, or any text without one.
    fn name(&mut self, name: &str) -> String {
        let (name, separator) = match name.strip_suffix(['/', '\\']) {
            Some(rest) => name.split_at(rest.len()),
            None => (name, ""),
        };
        // A GUID, or the address of a network adapter.
        let is_hex = |it: char| it.is_ascii_hexdigit() || "-:{}".contains(it);
        let is_hex = name.len() >= 12 && name.chars().all(is_hex);
        let hash = self.random(name);
        let mut other = String::new();
        for attempt in 0..TRIES {
            other = self.letters(name, is_hex, attempt);
            let used = self.random(&other);
            if self.used.get(&used).is_none_or(|text| *text == hash) {
                if self.used.len() < MAX_USED {
                    self.used.insert(used, hash);
                }
                break;
            }
        }
        other + separator
    }

    /// Replaces letters and digits, in another way in another attempt.
    fn letters(&self, text: &str, is_hex: bool, attempt: u32) -> String {
        let replace = |(at, char): (usize, char)| {
            let another = |first: char, count| {
                let old = u32::from(char).wrapping_sub(u32::from(first)) % count;
                let new = self.another(old, count, (text, at, attempt));
                char::from_u32(u32::from(first) + new).unwrap_or(char)
            };
            match char {
                'a'..='f' if is_hex => another('a', 6),
                'A'..='F' if is_hex => another('A', 6),
                'a'..='z' => another('a', 26),
                'A'..='Z' => another('A', 26),
                '0'..='9' => another('0', 10),
                char if char.is_ascii() => char,
                // As long in both encodings.
                char if char.len_utf8() == 2 => another('à', 23),
                char if char.len_utf8() == 3 => another('一', 20_000),
                _ => another('😀', 64),
            }
        };
        text.char_indices().map(replace).collect()
    }

    /// Another address with as many digits, in the placeholder of its network. Masks stay.
    fn v4(&self, address: Ipv4Addr) -> Ipv4Addr {
        let bits = address.to_bits();
        if bits.leading_ones() + bits.trailing_zeros() >= u32::BITS || address.is_loopback() {
            return address;
        }
        let octets = address.octets();
        let mut other = octets;
        for (at, octet) in other.iter_mut().enumerate() {
            let (first, count) = match *octet {
                0 | 255 => continue,
                1..10 => (1, 9),
                10..100 => (10, 90),
                _ => (100, 100),
            };
            let new = self.another(u32::from(*octet) - first, count, octets.get(..=at));
            *octet = u8::try_from(first + new).unwrap_or_default();
        }
        other.into()
    }

    fn v6(&self, address: Ipv6Addr) -> Ipv6Addr {
        let text = self.v6_text(&address.to_string());
        text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// Another address with the same groups, the last of which may be an IPv4 address.
    fn v6_text(&self, text: &str) -> String {
        let mapped = text.rsplit_once(':').and_then(|(groups, last)| {
            let last: Ipv4Addr = last.parse().ok()?;
            let groups = self.letters(groups, true, 0);
            Some(format!("{groups}:{}", self.v4(last)))
        });
        mapped.unwrap_or_else(|| self.letters(text, true, 0))
    }

    /// Returns another number below `count`, which depends on `what`.
    fn another(&self, number: u32, count: u32, what: impl Hash) -> u32 {
        let random = self.random(what) % u64::from(count - 1);
        (number + 1 + u32::try_from(random).unwrap_or_default()) % count
    }

    fn random(&self, what: impl Hash) -> u64 {
        self.key.hash_one(what)
    }
}

/// Returns what a record says of data that is left out.
pub(super) fn comment(level: Level, data: &[u8]) -> Option<String> {
    let checksum = || {
        let checksum = crc32fast::hash(data);
        format!("data: {} bytes, crc32 {checksum:08x}", data.len())
    };
    (level == Level::Hash).then(checksum)
}

/// Whether a field stays: it belongs to the protocol, or says which system the guest is.
fn is_public(description: &Description, field: &Field) -> bool {
    let is_fact = |field: &Field| match &field.value {
        Value::Text(key) => KEYS.contains(&key.as_str()),
        _ => false,
    };
    match field.content {
        Content::Protocol => true,
        Content::Name => field.name == "key" && is_fact(field),
        Content::Value => description
            .field("key")
            .is_some_and(|key| match &key.value {
                Value::Text(name) => {
                    is_fact(key) && name != FULL_NAME && !name.starts_with("NetworkAddress")
                }
                _ => false,
            }),
        Content::Address | Content::Data => false,
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<u8>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use hyperv_vmbus::ic::MessageType;
    use proptest::prelude::*;

    use super::*;
    use crate::capture::Header;

    fn redactor() -> Redactor {
        Redactor::new(Level::None)
    }

    fn from_host(service: u8, transport: Transport, bytes: Vec<u8>) -> Record {
        let header = Header {
            kind: Kind::Host,
            service,
            transport,
            packet_type: 6,
            packet_flags: 0,
            transaction: 9,
            negotiated: None,
        };
        Record::new(UNIX_EPOCH, 0, header, bytes)
    }

    /// The host sets a key-value pair, over a ring.
    fn set(key: &str, value: &str) -> Record {
        let mut bytes = vec![0; HEADER_LEN];
        let kind = MessageType::KVP.0.to_le_bytes();
        bytes[12..14].copy_from_slice(&kind);
        // SET in pool 1: type 1, lengths in bytes, then key and value in fields of their own.
        bytes.extend([1, 1, 0, 0, 1, 0, 0, 0]);
        let encode = |text: &str| -> Vec<u8> {
            let units = text.encode_utf16().chain([0]);
            units.flat_map(u16::to_le_bytes).collect()
        };
        let (key, value) = (encode(key), encode(value));
        for text in [&key, &value] {
            bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        }
        for (text, len) in [(&key, 512), (&value, 2048)] {
            let end = bytes.len() + len;
            bytes.extend(text);
            // What was in the memory before.
            bytes.resize(end, b'p');
        }
        from_host(2, Transport::Ring, bytes)
    }

    fn text(record: &Record, name: &str) -> String {
        let said = Decoder::default().describe(record);
        match &said.field(name).unwrap().value {
            Value::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_says_the_same_about_something_else() {
        let record = set("Secret-7", "hid/den; 10.20.30.140");
        let mut redactor = redactor();
        let kept = redactor.redact(record.clone());
        assert_eq!(kept, redactor.redact(record.clone()), "it is stable");
        let fixed = HEADER_LEN + 16;
        assert_eq!(kept.bytes[..fixed], record.bytes[..fixed]);
        assert_eq!(kept.bytes.len(), record.bytes.len());
        let key = text(&kept, "key");
        assert_eq!((key.len(), key.chars().nth(6)), (8, Some('-')), "{key}");
        let value = text(&kept, "value").encode_utf16().count();
        let rest = fixed + 512 + 2 * value;
        assert!(
            kept.bytes[rest..].iter().all(|byte| *byte == 0),
            "old memory"
        );
        let others = self::redactor().redact(record.clone());
        assert_ne!(
            text(&others, "value"),
            text(&kept, "value"),
            "each capture has its key"
        );
        let full = Redactor::new(Level::Full).redact(record.clone());
        assert_eq!(full, record);
    }

    #[test]
    fn facts_about_the_system_stay_and_names_and_addresses_do_not() {
        let mut redactor = redactor();
        let mut value = |key: &str, value: &str| {
            let kept = redactor.redact(set(key, value));
            assert_eq!(text(&kept, "key"), key);
            text(&kept, "value")
        };
        assert_eq!(value("OSName", "Debian"), "Debian");
        assert_ne!(value("FullyQualifiedDomainName", "host"), "host");
        let addresses = value("NetworkAddressIPv4", "10.1.22.133;10.1.22.7;255.255.255.0");
        let list: Vec<Ipv4Addr> = addresses.split(';').map(|it| it.parse().unwrap()).collect();
        assert_eq!(list[0].octets()[..3], list[1].octets()[..3]);
        assert_ne!(list[0], Ipv4Addr::new(10, 1, 22, 133));
        assert_eq!(list[2], Ipv4Addr::new(255, 255, 255, 0));
        let addresses = value(
            "NetworkAddressIPv6",
            "fe80::1a2b:3c4d;::ffff:10.1.22.133;/64",
        );
        let list: Vec<_> = addresses.split(';').collect();
        assert!(
            list[..2].iter().all(|it| it.parse::<Ipv6Addr>().is_ok()),
            "{addresses}"
        );
        assert_eq!((list[2], addresses.len()), ("/64", 38));
    }

    #[test]
    fn the_data_of_a_file_is_cut_off() {
        // WRITE with 36 bytes of header, the offset and the length.
        let data = b"some data of a file";
        let mut bytes = vec![1, 0, 0, 0];
        bytes.resize(48, 0);
        bytes.extend([19, 0, 0, 0]);
        bytes.extend(data);
        let record = from_host(1, Transport::Device, bytes);
        let kept = Redactor::new(Level::Hash).redact(record.clone());
        let checksum = format!("data: 19 bytes, crc32 {:08x}", crc32fast::hash(data));
        assert_eq!(kept.comment, Some(checksum));
        assert_eq!(
            (&kept.bytes[..], kept.original_len),
            (&record.bytes[..52], 71)
        );
        assert_eq!(redactor().redact(record).comment, None);
    }

    /// Also an empty string, or no data, is somewhere behind the header of a ring.
    #[test]
    fn a_write_without_data_is_whole() {
        let mut bytes = vec![0; HEADER_LEN];
        let kind = MessageType::FILE_COPY.0.to_le_bytes();
        bytes[12..14].copy_from_slice(&kind);
        bytes.extend([1, 0, 0, 0]);
        // The offset is 7, the size 0.
        bytes.resize(HEADER_LEN + 52, 0);
        bytes[HEADER_LEN + 40] = 7;
        let record = from_host(1, Transport::Ring, bytes);
        assert_eq!(redactor().redact(record.clone()), record);
    }

    /// The placeholder of a value.
    fn other(redactor: &mut Redactor, value: &str) -> String {
        text(&redactor.redact(set("key", value)), "value")
    }

    #[test]
    fn paths_share_their_directories() {
        let mut redactor = redactor();
        let name = other(&mut redactor, "made");
        let path = other(&mut redactor, "/one/two-3");
        assert_eq!(other(&mut redactor, "one/two-3"), path[1..]);
        let below = other(&mut redactor, "/one/two-3/made/below");
        assert!(
            below.starts_with(&format!("{path}/{name}/")),
            "{path} {name} {below}"
        );
        let windows = other(&mut redactor, "C:\\one\\made");
        assert!(windows.ends_with(&format!("\\{name}")), "{windows} {name}");
    }

    #[test]
    fn what_is_no_unicode_stays_none() {
        let mut record = set("key", "value");
        let value = HEADER_LEN + 16 + 512;
        let lone = 0xdc01_u16.to_le_bytes();
        record.bytes[value + 2..value + 4].copy_from_slice(&lone);
        let kept = redactor().redact(record);
        let units = kept.bytes[value..value + 10].chunks_exact(2);
        let units: Vec<_> = units.map(|it| u16::from_le_bytes([it[0], it[1]])).collect();
        assert!(String::from_utf16(&units).is_err(), "{units:x?}");
        assert!(!units.contains(&0xdc01) && !units.contains(&0));
    }

    #[test]
    fn different_texts_have_different_placeholders() {
        for texts in ["abcdefghijklm", "0123", "abc", "àäéöü", "ääÄÖü", "一二三四"] {
            let mut redactor = redactor();
            let mut others = std::collections::BTreeMap::new();
            for text in texts.chars().map(String::from) {
                let other = other(&mut redactor, &text);
                assert_eq!(other.len(), text.len());
                let text_of = others.entry(other).or_insert(text.clone());
                assert_eq!(*text_of, text, "in {texts}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_letter_and_no_digit_survives(word in "\\PC{0,60}") {
            let kept = redactor().redact(set("key", &word));
            let other = text(&kept, "value");
            prop_assert_eq!(other.encode_utf16().count(), word.encode_utf16().count());
            if !word.split(';').any(|it| it.parse::<IpAddr>().is_ok() || it.starts_with('/')) {
                for (old, new) in word.chars().zip(other.chars()) {
                    prop_assert!(old != new || !old.is_ascii_alphanumeric(), "{} {}", word, other);
                }
            }
        }

        #[test]
        fn any_bytes_are_redacted(
            service in 0..4_u8,
            is_ring: bool,
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let transport = if is_ring { Transport::Ring } else { Transport::Device };
            let record = from_host(service, transport, bytes);
            let kept = redactor().redact(record.clone());
            prop_assert!(kept.bytes.len() <= record.bytes.len());
            let said = |record| Decoder::default().describe(record).operation;
            prop_assert_eq!(said(&kept), said(&record));
        }
    }
}
