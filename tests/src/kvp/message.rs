//! What the host asks of keys and values, for rings and for the char device.
//! Protocol section 7.

use hyperv_vmbus::ic::Version;

use super::binary;
use super::ip_info::{ADAPTER_UNITS, IpInfo};
use super::text::to_utf8;

/// The first version in which an IP configuration is binary.
pub const BINARY: Version = Version::new(5, 0);

/// Bytes of every message on the char device.
pub const DEVICE_LEN: usize = 7432;

/// Bytes of a key's field.
pub(super) const KEY_BYTES: usize = 512;

/// Bytes of a value's field.
pub(super) const VALUE_BYTES: usize = 2048;

/// Bytes before the fields: operation, pool and padding.
pub(super) const HEADER: usize = 4;

/// Bytes of a body with an IP configuration over rings.
const RING_IP_LEN: usize = 7428;

/// Bytes before the fields of an IP configuration over rings, where there is no
/// padding.
pub(super) const IP_HEADER: usize = 2;

/// Units of the fields of an IP configuration.
pub(super) const ADDRESS_UNITS: usize = 1024;
pub(super) const GATEWAY_UNITS: usize = 512;

/// Types of values.
pub(super) const TEXT: u32 = 1;
const EXPANDABLE: u32 = 2;
const U32: u32 = 4;
const U64: u32 = 8;
/// As Windows has it.
const QWORD: u32 = 11;

/// A value that the host sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, in UTF-16 without its NUL.
    Text(Vec<u16>),
    /// Text with variables to expand, in UTF-16 without its NUL.
    Expandable(Vec<u16>),
    /// A number of 32 bits.
    U32(u32),
    /// A number of 64 bits, under the number that Linux has for these.
    U64(u64),
    /// A number of 64 bits, under the number that Windows has for these.
    Qword(u64),
}

impl Value {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.encode_utf16().collect())
    }
}

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// The value of a key.
    Get {
        /// Pool.
        pool: u8,
        /// Key, in UTF-16 without its NUL.
        key: Vec<u16>,
    },
    /// A key gets a value.
    Set {
        /// Pool.
        pool: u8,
        /// Key, in UTF-16 without its NUL.
        key: Vec<u16>,
        /// Its value.
        value: Value,
    },
    /// A key goes.
    Delete {
        /// Pool.
        pool: u8,
        /// Key, in UTF-16 without its NUL.
        key: Vec<u16>,
    },
    /// What stands at a place.
    Enumerate {
        /// Pool.
        pool: u8,
        /// From 0.
        index: u32,
    },
    /// The IP configuration of an interface.
    GetIpInfo {
        /// Its MAC address, in UTF-16 without its NUL.
        adapter: Vec<u16>,
        /// As in [`IpInfo::family`].
        family: u8,
    },
    /// An interface gets an IP configuration.
    SetIpInfo(IpInfo),
}

fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

impl Operation {
    /// The value of a key.
    pub fn get(pool: u8, key: &str) -> Self {
        let key = units(key);
        Self::Get { pool, key }
    }

    /// A key gets a value.
    pub fn set(pool: u8, key: &str, value: Value) -> Self {
        let key = units(key);
        Self::Set { pool, key, value }
    }

    /// A key goes.
    pub fn delete(pool: u8, key: &str) -> Self {
        let key = units(key);
        Self::Delete { pool, key }
    }

    /// The IP configuration of the interface with this MAC address.
    pub fn get_ip_info(adapter: &str, family: u8) -> Self {
        let adapter = units(adapter);
        Self::GetIpInfo { adapter, family }
    }

    /// Operation and pool.
    fn head(&self) -> [u8; 2] {
        match self {
            Self::Get { pool, .. } => [0, *pool],
            Self::Set { pool, .. } => [1, *pool],
            Self::Delete { pool, .. } => [2, *pool],
            Self::Enumerate { pool, .. } => [3, *pool],
            Self::GetIpInfo { .. } => [4, 0],
            Self::SetIpInfo(_) => [5, 0],
        }
    }

    /// The body as it travels over rings in this version.
    pub fn encode_utf16(&self, version: Version) -> Vec<u8> {
        let mut body = self.head().to_vec();
        body.resize(HEADER, 0);
        match self {
            Self::Get { key, .. } => {
                let (len, key) = utf16_text(key, KEY_BYTES);
                body.extend(numbers(&[TEXT, len, 0]));
                body.extend(key);
                body.resize(body.len() + VALUE_BYTES, 0);
            }
            Self::Set { key, value, .. } => {
                let (key_len, key) = utf16_text(key, KEY_BYTES);
                let (kind, value_len, value) = match value {
                    Value::Text(text) => {
                        let (len, text) = utf16_text(text, VALUE_BYTES);
                        (TEXT, len, text)
                    }
                    Value::Expandable(text) => {
                        let (len, text) = utf16_text(text, VALUE_BYTES);
                        (EXPANDABLE, len, text)
                    }
                    Value::U32(number) => (U32, 4, number.to_le_bytes().to_vec()),
                    Value::U64(number) => (U64, 8, number.to_le_bytes().to_vec()),
                    Value::Qword(number) => (QWORD, 8, number.to_le_bytes().to_vec()),
                };
                body.extend(numbers(&[kind, key_len, value_len]));
                body.extend(key);
                body.extend(padded(value, VALUE_BYTES));
            }
            Self::Delete { key, .. } => {
                let (len, key) = utf16_text(key, KEY_BYTES);
                body.extend(numbers(&[len]));
                body.extend(key);
            }
            Self::Enumerate { index, .. } => {
                body.extend(numbers(&[*index, 0, 0, 0]));
                body.resize(body.len() + KEY_BYTES + VALUE_BYTES, 0);
            }
            Self::GetIpInfo { adapter, family } => {
                let info = IpInfo {
                    family: *family,
                    ..IpInfo::default()
                };
                utf16_ip_info(&mut body, version, adapter, &info);
            }
            Self::SetIpInfo(info) => {
                utf16_ip_info(&mut body, version, &units(&info.adapter), info);
            }
        }
        body
    }

    /// The message as the kernel hands it to the char device. It does not pass
    /// on the type of a value, and knows neither [`Value::Expandable`] nor [`Value::Qword`].
    pub fn encode_utf8(&self) -> Vec<u8> {
        let mut message = self.head().to_vec();
        message.resize(HEADER, 0);
        match self {
            Self::Get { key, .. } => {
                let (len, key) = utf8_text(key, KEY_BYTES);
                message.extend(numbers(&[0, len, 0]));
                message.extend(key);
            }
            Self::Set { key, value, .. } => {
                let (key_len, key) = utf8_text(key, KEY_BYTES);
                let (value_len, value) = match value {
                    Value::Text(text) => utf8_text(text, VALUE_BYTES),
                    Value::U32(number) => utf8_text(&units(&number.to_string()), VALUE_BYTES),
                    Value::U64(number) => utf8_text(&units(&number.to_string()), VALUE_BYTES),
                    Value::Expandable(_) | Value::Qword(_) => (0, Vec::new()),
                };
                message.extend(numbers(&[0, key_len, value_len]));
                message.extend(key);
                message.extend(value);
            }
            Self::Delete { key, .. } => {
                let (len, key) = utf8_text(key, KEY_BYTES);
                message.extend(numbers(&[len]));
                message.extend(key);
            }
            Self::Enumerate { index, .. } => message.extend(numbers(&[*index])),
            Self::GetIpInfo { adapter, family } => {
                let info = IpInfo {
                    family: *family,
                    ..IpInfo::default()
                };
                message.extend(ip_info(adapter, &info, to_utf8));
            }
            Self::SetIpInfo(info) => {
                let adapter = units(&info.adapter);
                message.extend(ip_info(&adapter, info, to_utf8));
            }
        }
        message.resize(DEVICE_LEN, 0);
        message
    }
}

/// What the kernel answers to a registration.
pub(super) fn registered(operation: u8, version: &str) -> Vec<u8> {
    let mut message = vec![operation, 0, 0, 0];
    message.extend(version.as_bytes());
    message.resize(DEVICE_LEN, 0);
    message
}

/// Adds an IP configuration to the head of a body. The body is as long in every version.
fn utf16_ip_info(body: &mut Vec<u8>, version: Version, adapter: &[u16], info: &IpInfo) {
    let text = |text: &[u16], units: usize| utf16_text(text, 2 * units).1;
    if version == BINARY {
        body.extend(text(adapter, ADAPTER_UNITS));
        binary::insert(body, info);
        body.resize(RING_IP_LEN, 0);
    } else {
        body.truncate(IP_HEADER);
        body.extend(ip_info(adapter, info, text));
    }
}

/// The fields of an IP configuration; `text` encodes one of so many units.
fn ip_info(adapter: &[u16], info: &IpInfo, text: impl Fn(&[u16], usize) -> Vec<u8>) -> Vec<u8> {
    let field = |value: &[u16], units: usize| padded(text(value, units), 2 * units);
    let mut bytes = field(adapter, ADAPTER_UNITS);
    bytes.extend([info.family, u8::from(info.dhcp)]);
    for (value, len) in [
        (&info.addresses, ADDRESS_UNITS),
        (&info.subnets, ADDRESS_UNITS),
        (&info.gateways, GATEWAY_UNITS),
        (&info.dns, ADDRESS_UNITS),
    ] {
        bytes.extend(field(&units(value), len));
    }
    bytes
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

/// The bytes with zeros behind them; what is beyond `len` is cut off.
fn padded(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len, 0);
    bytes
}

/// A text in its field, and its size with the NUL, true even where the field is
/// too short for it.
fn utf16_text(text: &[u16], field: usize) -> (u32, Vec<u8>) {
    let len = u32::try_from(2 * (text.len() + 1)).unwrap_or(u32::MAX);
    let bytes = text.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    (len, padded(bytes, field))
}

/// A text as the kernel puts it into its field, and its size with the NUL.
fn utf8_text(text: &[u16], field: usize) -> (u32, Vec<u8>) {
    let bytes = to_utf8(text, field - 1);
    let len = u32::try_from(bytes.len() + 1).unwrap_or(u32::MAX);
    (len, padded(bytes, field))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Version = Version::new(4, 0);

    #[test]
    fn bodies_have_the_lengths_of_the_wire() {
        for (operation, len) in [
            (Operation::get(0, "k"), 2576),
            (Operation::set(0, "k", Value::U32(1)), 2576),
            (Operation::delete(0, "k"), 520),
            (Operation::Enumerate { pool: 0, index: 0 }, 2580),
            (Operation::get_ip_info("m", 3), 7428),
            (Operation::SetIpInfo(IpInfo::default()), 7428),
        ] {
            assert_eq!(operation.encode_utf16(TEXT).len(), len, "{operation:?}");
            assert_eq!(operation.encode_utf16(BINARY).len(), len, "{operation:?}");
            assert_eq!(operation.encode_utf8().len(), 7432, "{operation:?}");
        }
    }

    #[test]
    fn fields_stand_where_each_transport_has_them() {
        let set = Operation::set(3, "ü", Value::text("v"));
        let utf16 = set.encode_utf16(TEXT);
        assert_eq!(
            &utf16[..16],
            [1, 3, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0]
        );
        assert_eq!(&utf16[16..20], [0xfc, 0, 0, 0]);
        assert_eq!(&utf16[528..532], [b'v', 0, 0, 0]);
        let utf8 = set.encode_utf8();
        assert_eq!(
            &utf8[..16],
            [1, 3, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0]
        );
        assert_eq!(&utf8[16..19], "ü\0".as_bytes());
        assert_eq!(&utf8[528..530], b"v\0");

        let set = |value| Operation::set(0, "k", value);
        let utf16 = set(Value::Qword(0x0102)).encode_utf16(TEXT);
        assert_eq!(&utf16[4..16], [11, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(&utf16[528..536], [2, 1, 0, 0, 0, 0, 0, 0]);
        let utf8 = set(Value::U64(u64::MAX)).encode_utf8();
        assert_eq!(&utf8[12..16], [21, 0, 0, 0]);
        assert_eq!(&utf8[528..549], b"18446744073709551615\0");

        let info = IpInfo {
            adapter: "{g}".into(),
            family: 3,
            dhcp: true,
            addresses: "a".into(),
            subnets: "s".into(),
            gateways: "g".into(),
            dns: "d".into(),
            origins: Vec::new(),
        };
        let utf16 = Operation::SetIpInfo(info.clone()).encode_utf16(TEXT);
        let utf8 = Operation::SetIpInfo(info).encode_utf8();
        for (message, base) in [(utf16, 2), (utf8, 4)] {
            assert_eq!(message[0], 5);
            assert_eq!(message[base], b'{');
            assert_eq!(&message[base + 256..base + 259], [3, 1, b'a']);
            assert_eq!(message[base + 258 + 2048], b's');
            assert_eq!(message[base + 258 + 4096], b'g');
            assert_eq!(message[base + 258 + 4096 + 1024], b'd');
        }
    }

    #[test]
    fn a_registration_is_answered_with_the_drivers_version() {
        let answer = registered(100, "3.1");
        assert_eq!(&answer[..8], b"\x64\0\0\x003.1\0");
        assert_eq!(answer.len(), 7432);
    }
}
