//! Removes what may be private from a capture, and leaves what others need to follow it.
//!
//! A placeholder has the length and the kind of what it stands for, and is the same for the
//! same text in one capture, and another for another text. Each name in a path has its own, so
//! that paths share their directories. An address has one of the same kind, and the length of its
//! prefix stays, so that a configuration is as valid as it was. A random key makes the
//! placeholders, and is forgotten.

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
            Value::Text(text) => self.text(text, field.content, bytes, encoding),
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

    fn text(&mut self, text: &str, content: Content, bytes: &[u8], encoding: Encoding) -> Vec<u8> {
        let encode = |text: &str| match encoding {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Utf16 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        };
        let encoded = encode(&self.words(text, content));
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
    fn words(&mut self, text: &str, content: Content) -> String {
        let parts = text.split(';').map(|part| {
            let word = part.trim_matches(' ');
            let (before, after) = part.split_once(word).unwrap_or_default();
            format!("{before}{}{after}", self.word(word, content))
        });
        parts.collect::<Vec<_>>().join(";")
    }

    fn word(&mut self, word: &str, content: Content) -> String {
        let (address, prefix) = match word.rsplit_once('/') {
            Some((address, prefix)) if is_prefix(prefix) => word.split_at(address.len()),
            _ => (word, ""),
        };
        match address.parse() {
            Ok(IpAddr::V4(address)) => self.v4(address).to_string() + prefix,
            Ok(IpAddr::V6(_)) => self.v6_text(address) + prefix,
            // Without an address, as the subnet of one. Between addresses it needs no slash.
            Err(_) if address.is_empty() => word.to_owned(),
            Err(_) if content == Content::Address && is_prefix(word) => word.to_owned(),
            Err(_) => {
                let names = word.split_inclusive(['/', '\\']);
                names.map(|name| self.name(name)).collect()
            }
        }
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
        let mut other = String::new();
        for attempt in 0..TRIES {
            other = self.letters(name, is_hex, attempt);
            if self.take(&other, name) {
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

    /// Takes a placeholder for a text, or for a part of an address, if it stands for no other.
    fn take(&mut self, placeholder: impl Hash, text: impl Hash) -> bool {
        let (placeholder, text) = (self.random(placeholder), self.random(text));
        let other = self.used.get(&placeholder);
        let is_free = other.is_none_or(|other| *other == text);
        if is_free && self.used.len() < MAX_USED {
            self.used.insert(placeholder, text);
        }
        is_free
    }

    /// Another address with as many digits, in the placeholder of its network. Masks stay, and
    /// addresses that no machine has on a network.
    fn v4(&mut self, address: Ipv4Addr) -> Ipv4Addr {
        let bits = address.to_bits();
        let is_mask = bits.leading_ones() + bits.trailing_zeros() >= u32::BITS;
        if is_mask || address.is_loopback() || address.is_multicast() {
            return address;
        }
        let octets = address.octets();
        let mut other = octets;
        for (at, octet) in octets.into_iter().enumerate() {
            let (first, count) = match octet {
                0 | 255 => continue,
                1..10 => (1, 9),
                10..100 => (10, 90),
                // Neither loopback nor multicast.
                _ if at == 0 => (128, 96),
                _ => (100, 155),
            };
            for attempt in 0..TRIES {
                let what = (octets.get(..=at), attempt);
                let old = u32::from(octet).saturating_sub(first);
                let new = first + self.another(old, count, what);
                if let Some(place) = other.get_mut(at) {
                    *place = u8::try_from(new).unwrap_or_default();
                }
                if self.take(other.get(..=at), octets.get(..=at)) {
                    break;
                }
            }
        }
        other.into()
    }

    fn v6(&mut self, address: Ipv6Addr) -> Ipv6Addr {
        let text = self.v6_text(&address.to_string());
        text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// Another address of the same kind with the same groups, the last of which may be an IPv4
    /// address.
    fn v6_text(&mut self, text: &str) -> String {
        let kind = |text: &str| {
            let address: Ipv6Addr = text.parse().ok()?;
            Some((
                address.is_loopback() || address.is_unspecified(),
                address.is_multicast(),
                address.is_unicast_link_local(),
                address.to_ipv4_mapped().is_some(),
            ))
        };
        let (groups, last) = match text.rsplit_once(':') {
            Some((groups, last)) if last.contains('.') => (groups, last.parse().ok()),
            _ => (text, None),
        };
        let last = last
            .map(|last| format!(":{}", self.v4(last)))
            .unwrap_or_default();
        let first = groups.split(':').next().unwrap_or_default().len();
        // What says of which kind it is.
        let kept = match kind(text) {
            Some((false, false, false, false)) | None => 0,
            Some((_, _, true, _)) => first,
            Some(_) => groups.len(),
        };
        let (kept, rest) = groups.split_at(kept);
        let mut other = String::new();
        for attempt in 0..TRIES {
            other = format!("{kept}{}{last}", self.letters(rest, true, attempt));
            if kind(&other) == kind(text) && self.take(&other, text) {
                break;
            }
        }
        other
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

/// Whether it may be the length of a prefix.
fn is_prefix(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u8>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use hyperv_services::kvp::network::settings::Settings;
    use hyperv_services::kvp::request::{Family, IpInfo};
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

    #[test]
    fn the_prefix_of_an_address_stays() {
        let mut redactor = redactor();
        for (value, suffixes) in [
            ("10.20.30.40/24", &["/24"][..]),
            ("fe80::1a/64", &["/64"]),
            (
                "10.0.0.1/8; 10.0.0.2/32 ;fd00::5/48",
                &["/8", "/32 ", "/48"],
            ),
            ("192.0.2.9;/24;/64", &["", "/24", "/64"]),
            (
                "255.255.255.0;255.0.0.0/8",
                &["255.255.255.0", "255.0.0.0/8"],
            ),
        ] {
            let other = other(&mut redactor, value);
            assert_eq!(other.len(), value.len());
            let elements = || value.split(';').zip(other.split(';'));
            for ((old, new), suffix) in elements().zip(suffixes) {
                let (old, new) = [old, new].map(|it| it.strip_suffix(suffix).unwrap()).into();
                assert_eq!(old == new, old.is_empty(), "{value} {other}");
            }
        }
        // What is no prefix may be private.
        for value in ["24", "name/24", "10.0.0.1/256", "/one/24"] {
            let other = other(&mut redactor, value);
            let last = |text: &str| text.rsplit('/').next().map(ToOwned::to_owned);
            assert_ne!(last(&other), last(value));
        }
    }

    /// The host sets an IP configuration.
    fn set_ip(transport: Transport, info: &IpInfo) -> Record {
        let mut bytes = match transport {
            Transport::Ring => {
                let mut bytes = vec![0; HEADER_LEN];
                bytes[12..14].copy_from_slice(&MessageType::KVP.0.to_le_bytes());
                bytes.extend([5, 0]);
                bytes
            }
            Transport::Device => vec![5, 0, 0, 0],
        };
        let mut put = |text: &str, len| {
            let end = bytes.len() + len;
            match transport.encoding() {
                Encoding::Utf8 => bytes.extend(text.as_bytes()),
                Encoding::Utf16 => bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes)),
            }
            bytes.resize(end, 0);
        };
        put("{f8615163-df3e-46c5-913f-f2d2f965ed0e}", 256);
        put("", 2);
        put(&info.addresses, 2048);
        put(&info.subnets, 2048);
        put(&info.gateways, 1024);
        put(&info.dns, 2048);
        put("", 2);
        from_host(2, transport, bytes)
    }

    #[test]
    fn a_configuration_is_as_valid_as_it_was() {
        let prefixes = |info: &IpInfo| {
            let settings = Settings::parse(info).ok()?;
            let addresses = settings.addresses();
            let addresses = addresses.map(|(ip, prefix)| (ip.is_ipv4(), prefix));
            Some((addresses.collect::<Vec<_>>(), settings.dns.len()))
        };
        let many: Vec<String> = (1..9).map(|last| format!("10.0.0.{last}")).collect();
        let many_masks = ["255.255.255.0"; 8].join(";");
        let cases = [
            ("192.0.2.7", "255.255.255.128", "192.0.2.1", Some(1)),
            ("fd00::5;fe80::5", "/64;/64", "fe80::1", Some(1)),
            (&many.join(";"), &many_masks, "172.31.0.1", Some(8)),
            (
                " 10.0.0.5; 192.168.1.9 ;FD00::5;fd00::6;",
                "255.255.255.0;/16;64; 128",
                "10.0.0.1; 198.51.100.1;2001:db8::1",
                Some(4),
            ),
            ("10.0.0.1/24", "255.255.255.0", "", None),
            ("10.0.0.1", "/33", "", None),
            ("10.0.0.1", "255.0.255.0", "", None),
            ("10.0.0.1", "wide", "", None),
            ("127.0.0.2", "/8", "", None),
            ("224.0.0.9", "/8", "", None),
            ("fd00::1;ff02::5", "/64;/64", "", None),
            ("fd00::1;::1", "/64;/128", "", None),
            ("fd00::1;::ffff:10.0.0.1", "/64;/96", "", None),
        ];
        for (addresses, subnets, gateways, count) in cases {
            let info = IpInfo {
                family: Family::BOTH,
                addresses: addresses.to_owned(),
                subnets: subnets.to_owned(),
                gateways: gateways.to_owned(),
                dns: gateways.to_owned(),
                ..IpInfo::default()
            };
            let before = prefixes(&info);
            assert_eq!(before.as_ref().map(|(all, _)| all.len()), count, "{info:?}");
            for transport in [Transport::Ring, Transport::Device] {
                // Which placeholders there are is by chance.
                for _ in 0..50 {
                    let kept = redactor().redact(set_ip(transport, &info));
                    let kept = IpInfo {
                        family: Family::BOTH,
                        addresses: text(&kept, "addresses"),
                        subnets: text(&kept, "subnets"),
                        gateways: text(&kept, "gateways"),
                        dns: text(&kept, "name_servers"),
                        ..IpInfo::default()
                    };
                    assert_eq!(prefixes(&kept), before, "{info:?} {kept:?}");
                    assert_eq!(kept.subnets == info.subnets, subnets != "wide");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_letter_and_no_digit_survives(word in "\\PC{0,60}") {
            let kept = redactor().redact(set("key", &word));
            let other = text(&kept, "value");
            prop_assert_eq!(other.encode_utf16().count(), word.encode_utf16().count());
            let stays = |it: &str| {
                let address = it.trim_matches(' ').split('/').next().unwrap_or_default();
                address.is_empty() || address.parse::<IpAddr>().is_ok()
            };
            if !word.split(';').any(stays) {
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
