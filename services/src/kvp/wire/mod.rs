//! The layout of a message in either encoding. Protocol section 7.

pub(super) mod text_ip;

use hyperv_vmbus::Encoding;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::encoding::{Form, NotUnicode, Utf8, Utf16};
use super::request::{Family, IpInfo, PoolId, Reply, Request};

/// Length of the longest key that the host accepts, in UTF-16 units without the NUL.
pub const KEY_UNITS: usize = 254;

/// Length of the longest value that the host accepts, in UTF-16 units without the NUL.
pub const VALUE_UNITS: usize = 1022;

const KEY_LEN: usize = 512;
const VALUE_LEN: usize = 2048;

const GET: u8 = 0;
const SET: u8 = 1;
const DELETE: u8 = 2;
const ENUMERATE: u8 = 3;
const GET_IP_INFO: u8 = 4;
const SET_IP_INFO: u8 = 5;

// Types of a value.
const REG_SZ: u32 = 1;
const REG_U32: u32 = 4;
const REG_U64: u32 = 8;
const REG_QWORD: u32 = 11;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    operation: u8,
    pool: u8,
    padding: [u8; 2],
}

const HEADER_LEN: usize = size_of::<Header>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ValueFields {
    kind: U32,
    key_size: U32,
    value_size: U32,
    key: [u8; KEY_LEN],
    value: [u8; VALUE_LEN],
}

const _: () = assert!(size_of::<ValueFields>() == 2572);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EnumerateFields {
    index: U32,
    item: ValueFields,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DeleteFields {
    key_size: U32,
    key: [u8; KEY_LEN],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct IpFields {
    adapter: [u8; 256],
    family: u8,
    dhcp: u8,
    addresses: [u8; 2048],
    subnets: [u8; 2048],
    gateways: [u8; 1024],
    dns: [u8; 2048],
}

const _: () = assert!(size_of::<IpFields>() == 7426);

/// Why a message cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message is shorter than the fields of its operation.
    #[error("the message of {len} bytes is too short for its operation")]
    TooShort {
        /// Size of the message in bytes.
        len: usize,
    },
    /// The operation is unknown.
    #[error("unknown operation {0}")]
    Operation(u8),
    /// There is no such pool.
    #[error("unknown pool {0}")]
    Pool(u8),
    /// The type of the value is unknown.
    #[error("unknown value type {0}")]
    ValueType(u32),
    /// A size is larger than its field, or no multiple of the size of a unit.
    #[error("invalid size of the {field}: {size} bytes")]
    Size {
        /// The field.
        field: &'static str,
        /// The size in the message.
        size: u32,
    },
    /// A string is not valid Unicode.
    #[error("the {0} is not valid Unicode")]
    NotUnicode(&'static str),
}

/// The reply does not fit the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {0} is too long for a reply")]
pub struct TooLong(pub &'static str);

/// Decodes the body of a message.
///
/// # Errors
///
/// [`Malformed`] if the body is no valid request.
pub fn decode(encoding: Encoding, body: &[u8]) -> Result<Request, Malformed> {
    match encoding {
        Encoding::Utf16 => decode_as::<Utf16>(body),
        Encoding::Utf8 => decode_as::<Utf8>(body),
    }
}

/// Encodes the reply in place of its request.
///
/// # Errors
///
/// [`TooLong`] if the reply does not fit the body.
pub fn encode(encoding: Encoding, body: &mut [u8], reply: &Reply) -> Result<(), TooLong> {
    match encoding {
        Encoding::Utf16 => encode_as::<Utf16>(body, reply),
        Encoding::Utf8 => encode_as::<Utf8>(body, reply),
    }
}

/// Reads the version of the kernel's driver from the reply to the registration.
pub fn driver_version(answer: &[u8]) -> Option<String> {
    let version = Utf8::read(answer.get(4..)?).ok()?;
    let plain = |letter: char| letter.is_ascii_graphic() || letter == ' ';
    (!version.is_empty() && version.chars().all(plain)).then_some(version)
}

fn decode_as<E: Form>(message: &[u8]) -> Result<Request, Malformed> {
    let header: &Header = fields(message, 0)?;
    let pool = || PoolId::new(header.pool).ok_or(Malformed::Pool(header.pool));
    match header.operation {
        operation @ (GET | SET) => {
            let fields: &ValueFields = fields(message, HEADER_LEN)?;
            let (pool, key) = (pool()?, key::<E>(&fields.key, fields.key_size)?);
            if operation == GET {
                return Ok(Request::Get { pool, key });
            }
            let value = value::<E>(fields)?;
            Ok(Request::Set { pool, key, value })
        }
        DELETE => {
            let fields: &DeleteFields = fields(message, HEADER_LEN)?;
            let (pool, key) = (pool()?, key::<E>(&fields.key, fields.key_size)?);
            Ok(Request::Delete { pool, key })
        }
        ENUMERATE => {
            let fields: &EnumerateFields = fields(message, HEADER_LEN)?;
            let (pool, index) = (pool()?, fields.index.get());
            Ok(Request::Enumerate { pool, index })
        }
        GET_IP_INFO => {
            let fields: &IpFields = fields(message, E::IP_INFO_AT)?;
            Ok(Request::GetIpInfo {
                adapter: string::<E>("adapter", &fields.adapter)?,
                family: Family(fields.family),
            })
        }
        SET_IP_INFO => {
            let fields: &IpFields = fields(message, E::IP_INFO_AT)?;
            Ok(Request::SetIpInfo(IpInfo {
                adapter: string::<E>("adapter", &fields.adapter)?,
                family: Family(fields.family),
                dhcp: fields.dhcp != 0,
                addresses: string::<E>("list of addresses", &fields.addresses)?,
                subnets: string::<E>("list of subnets", &fields.subnets)?,
                gateways: string::<E>("list of gateways", &fields.gateways)?,
                dns: string::<E>("list of DNS servers", &fields.dns)?,
            }))
        }
        operation => Err(Malformed::Operation(operation)),
    }
}

fn encode_as<E: Form>(message: &mut [u8], reply: &Reply) -> Result<(), TooLong> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Value(value) => {
            let fields: &mut ValueFields = fields_mut(message, E::GET_VALUE_AT)?;
            write_value::<E>(fields, value)
        }
        Reply::Item { key, value } => {
            let fields: &mut EnumerateFields = fields_mut(message, HEADER_LEN)?;
            let key = truncate(key, KEY_UNITS, KEY_LEN - 1);
            let size = E::write(key, &mut fields.item.key).ok_or(TooLong("key"))?;
            fields.item.key_size.set(size);
            write_value::<E>(&mut fields.item, value)
        }
        Reply::IpInfo(configuration) => {
            let fields: &mut IpFields = fields_mut(message, E::IP_INFO_AT)?;
            let info = text_ip::lists(configuration);
            fields.family = info.family.0;
            fields.dhcp = info.dhcp.into();
            let lists: [(&'static str, &str, &mut [u8]); 4] = [
                ("list of addresses", &info.addresses, &mut fields.addresses),
                ("list of subnets", &info.subnets, &mut fields.subnets),
                ("list of gateways", &info.gateways, &mut fields.gateways),
                ("list of DNS servers", &info.dns, &mut fields.dns),
            ];
            for (name, list, field) in lists {
                E::write(list, field).ok_or(TooLong(name))?;
            }
            Ok(())
        }
    }
}

fn write_value<E: Form>(fields: &mut ValueFields, value: &str) -> Result<(), TooLong> {
    let value = truncate(value, VALUE_UNITS, VALUE_LEN - 1);
    let size = E::write(value, &mut fields.value).ok_or(TooLong("value"))?;
    fields.kind.set(REG_SZ);
    fields.value_size.set(size);
    Ok(())
}

/// Truncates the text to this many UTF-16 units and bytes. Records of other programs can
/// be longer than the host accepts, and an enumeration that fails there would hide all
/// later records.
pub(super) fn truncate(text: &str, max_units: usize, max_bytes: usize) -> &str {
    let mut units = 0;
    let end = text.char_indices().find_map(|(at, letter)| {
        units += letter.len_utf16();
        (units > max_units || at + letter.len_utf8() > max_bytes).then_some(at)
    });
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

fn fields<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    message: &[u8],
    at: usize,
) -> Result<&T, Malformed> {
    let len = message.len();
    let rest = message.get(at..).unwrap_or_default();
    T::ref_from_prefix(rest)
        .map(|(fields, _)| fields)
        .map_err(|_| Malformed::TooShort { len })
}

fn fields_mut<T: FromBytes + IntoBytes + KnownLayout + Unaligned>(
    message: &mut [u8],
    at: usize,
) -> Result<&mut T, TooLong> {
    let rest = message.get_mut(at..).unwrap_or_default();
    let (fields, _) = T::mut_from_prefix(rest).map_err(|_| TooLong("message"))?;
    Ok(fields)
}

fn key<E: Form>(field: &[u8; KEY_LEN], size: U32) -> Result<String, Malformed> {
    sized_string::<E>("key", field, size.get())
}

fn value<E: Form>(fields: &ValueFields) -> Result<String, Malformed> {
    let (kind, size) = (fields.kind.get(), fields.value_size.get());
    if !E::HAS_NUMBERS || kind == REG_SZ {
        return sized_string::<E>("value", &fields.value, size);
    }
    // The type implies the size of a number; like the kernel, this ignores the size
    // field.
    let number = U64::read_from_prefix(&fields.value).map_or(0, |(number, _)| number.get());
    match kind {
        REG_U32 => Ok((number & u64::from(u32::MAX)).to_string()),
        REG_U64 | REG_QWORD => Ok(number.to_string()),
        kind => Err(Malformed::ValueType(kind)),
    }
}

/// Reads a string whose size is in the message.
fn sized_string<E: Form>(name: &'static str, field: &[u8], size: u32) -> Result<String, Malformed> {
    let wrong = Malformed::Size { field: name, size };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| E::is_valid_size(*size));
    let stated = size.and_then(|size| field.get(..size)).ok_or(wrong)?;
    string::<E>(name, stated)
}

fn string<E: Form>(name: &'static str, field: &[u8]) -> Result<String, Malformed> {
    E::read(field).map_err(|NotUnicode| Malformed::NotUnicode(name))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation)]
mod tests {
    use proptest::prelude::*;

    use std::net::IpAddr;

    use super::super::request::{IpAddress, IpConfiguration, Origin};
    use super::*;

    type Write = fn(&str) -> Vec<u8>;

    /// An encoding, and how a test writes a string in it.
    const ENCODINGS: [(Encoding, Write); 2] = [(Encoding::Utf16, utf16), (Encoding::Utf8, utf8)];

    fn utf16(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().chain([0]);
        units.flat_map(u16::to_le_bytes).collect()
    }

    fn utf8(text: &str) -> Vec<u8> {
        [text.as_bytes(), &[0]].concat()
    }

    fn field(text: &[u8], len: usize) -> Vec<u8> {
        let mut field = text.to_vec();
        field.resize(len, 0);
        field
    }

    fn value_fields(kind: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
        let sizes = [kind, key.len() as u32, value.len() as u32];
        let mut fields: Vec<u8> = sizes.into_iter().flat_map(u32::to_le_bytes).collect();
        fields.extend(field(key, 512));
        fields.extend(field(value, 2048));
        fields
    }

    fn set(kind: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
        [&[SET, 1, 0, 0][..], &value_fields(kind, key, value)].concat()
    }

    fn ip_message(at: usize, texts: [&[u8]; 5], family: u8, dhcp: u8) -> Vec<u8> {
        let mut message = field(&[SET_IP_INFO, 0], at);
        message.extend(field(texts[0], 256));
        message.extend([family, dhcp]);
        for (text, len) in texts[1..].iter().zip([2048, 2048, 1024, 2048]) {
            message.extend(field(text, len));
        }
        message
    }

    fn text(max_chars: usize) -> impl Strategy<Value = String> {
        let letter = any::<char>().prop_filter("NUL", |&letter| letter != '\0');
        proptest::collection::vec(letter, 0..=max_chars)
            .prop_map(|letters| letters.into_iter().collect())
    }

    fn configuration() -> impl Strategy<Value = IpConfiguration> {
        use proptest::collection::vec;
        let address = (any::<IpAddr>(), any::<u8>(), any::<bool>());
        let address = address.prop_map(|(ip, prefix, automatic)| IpAddress {
            ip,
            prefix,
            origin: if automatic {
                Origin::Automatic
            } else {
                Origin::Static
            },
        });
        let ips = || vec(any::<IpAddr>(), 0..150);
        (any::<bool>(), vec(address, 0..150), ips(), ips()).prop_map(
            |(dhcp, addresses, gateways, dns)| IpConfiguration {
                dhcp,
                addresses,
                gateways,
                dns,
            },
        )
    }

    proptest! {
        #[test]
        fn every_request_is_decoded(key in text(120), value in text(500), number in 0..5u8, index: u32) {
            let pool = PoolId::new(number).unwrap();
            for (encoding, write) in ENCODINGS {
                let (wire_key, wire_value) = (write(&key), write(&value));
                let mut message = set(REG_SZ, &wire_key, &wire_value);
                message[1] = number;
                let wanted = Request::Set { pool, key: key.clone(), value: value.clone() };
                prop_assert_eq!(decode(encoding, &message), Ok(wanted));
                message[0] = GET;
                prop_assert_eq!(decode(encoding, &message), Ok(Request::Get { pool, key: key.clone() }));
                let mut message = vec![DELETE, number, 0, 0];
                message.extend((wire_key.len() as u32).to_le_bytes());
                message.extend(field(&wire_key, 512));
                prop_assert_eq!(decode(encoding, &message), Ok(Request::Delete { pool, key: key.clone() }));
                let mut message = vec![ENUMERATE, number, 0, 0];
                message.extend(index.to_le_bytes());
                message.resize(8 + 2572, 0xee);
                prop_assert_eq!(decode(encoding, &message), Ok(Request::Enumerate { pool, index }));
            }
        }

        #[test]
        fn an_encoded_item_has_its_key_and_value(key in text(120), value in text(500), noise: u8) {
            for (encoding, _) in ENCODINGS {
                let mut message = vec![noise; 8 + 2572];
                message[..4].copy_from_slice(&[ENUMERATE, 0, 0, 0]);
                let item = Reply::Item { key: key.clone(), value: value.clone() };
                encode(encoding, &mut message, &item).unwrap();
                // The fields of a SET are those of an item without its index.
                let mut echo = vec![SET, 0, 0, 0];
                echo.extend(&message[8..]);
                let wanted = Request::Set { pool: PoolId::External, key: key.clone(), value: value.clone() };
                prop_assert_eq!(decode(encoding, &echo), Ok(wanted));
                prop_assert_eq!(&echo[4..8], [1, 0, 0, 0]);
            }
        }

        #[test]
        fn the_answer_to_a_get_has_its_value_where_each_host_looks(value in text(400)) {
            for ((encoding, write), at) in ENCODINGS.into_iter().zip([528, 532]) {
                let mut message = vec![0xee; 7432];
                encode(encoding, &mut message, &Reply::Value(value.clone())).unwrap();
                prop_assert_eq!(&message[..4], [0xee; 4]);
                let written = write(&value);
                prop_assert_eq!(&message[at..at + written.len()], &written[..]);
            }
        }

        #[test]
        fn an_ip_configuration_is_decoded(
            adapter in text(60), lists in proptest::array::uniform4(text(200)),
            family in 0..4u8, dhcp: bool,
        ) {
            for (at, (encoding, write)) in [2, 4].into_iter().zip(ENCODINGS) {
                let written: Vec<_> = std::iter::once(&adapter).chain(&lists).map(|text| write(text)).collect();
                let texts = std::array::from_fn(|index| written[index].as_slice());
                let message = ip_message(at, texts, family, dhcp.into());
                let [addresses, subnets, gateways, dns] = lists.clone();
                let info = IpInfo {
                    adapter: adapter.clone(), family: Family(family), dhcp, addresses, subnets, gateways, dns,
                };
                prop_assert_eq!(decode(encoding, &message), Ok(Request::SetIpInfo(info)));
                let mut asked = message;
                asked[0] = GET_IP_INFO;
                asked[at + 256..].fill(0xee);
                let wanted = Request::GetIpInfo { adapter: adapter.clone(), family: Family(0xee) };
                prop_assert_eq!(decode(encoding, &asked), Ok(wanted));
            }
        }

        #[test]
        fn an_ip_configuration_is_encoded(adapter in text(60), configuration in configuration()) {
            for (at, (encoding, write)) in [2, 4].into_iter().zip(ENCODINGS) {
                let mut message = ip_message(at, [&write(&adapter), &[], &[], &[], &[]], 0, 0);
                message[at + 256..].fill(0xee);
                encode(encoding, &mut message, &Reply::IpInfo(configuration.clone())).unwrap();
                message[0] = SET_IP_INFO;
                let info = IpInfo { adapter: adapter.clone(), ..text_ip::lists(&configuration) };
                prop_assert_eq!(decode(encoding, &message), Ok(Request::SetIpInfo(info)));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(operation in 0..7u8, bytes: Vec<u8>, fill: u8, len in 0..8000usize, value in text(3000), configuration in configuration()) {
            let mut message = vec![operation];
            message.extend(bytes);
            message.resize(len, fill);
            for (encoding, _) in ENCODINGS {
                let _ = decode(encoding, &message);
                let _ = encode(encoding, &mut message.clone(), &Reply::Value(value.clone()));
                let _ = encode(encoding, &mut message.clone(), &Reply::Item { key: value.clone(), value: value.clone() });
                let _ = encode(encoding, &mut message.clone(), &Reply::IpInfo(configuration.clone()));
            }
        }

        #[test]
        fn truncated_text_ends_with_a_whole_character(text in text(400), units in 0..300usize, bytes in 0..600usize) {
            let short = truncate(&text, units, bytes);
            prop_assert!(text.starts_with(short));
            prop_assert!(short.encode_utf16().count() <= units && short.len() <= bytes);
            if let Some(next) = text[short.len()..].chars().next() {
                let more = &text[..short.len() + next.len_utf8()];
                prop_assert!(more.encode_utf16().count() > units || more.len() > bytes);
            }
        }
    }

    #[test]
    fn numbers_become_decimal() {
        let number = 0xfedc_ba98_7654_3210u64.to_le_bytes();
        for (kind, value) in [
            (REG_U32, 0x7654_3210u32.to_string()),
            (REG_U64, 0xfedc_ba98_7654_3210u64.to_string()),
            (REG_QWORD, 0xfedc_ba98_7654_3210u64.to_string()),
        ] {
            let Ok(Request::Set { value: came, .. }) =
                decode(Encoding::Utf16, &set(kind, &utf16("k"), &number))
            else {
                panic!("type {kind}");
            };
            assert_eq!(came, value);
        }
        for kind in [0, 2, 3, 7, u32::MAX] {
            let message = set(kind, &utf16("k"), &number);
            assert_eq!(
                decode(Encoding::Utf16, &message),
                Err(Malformed::ValueType(kind))
            );
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        let good = set(REG_SZ, &utf16("key"), &utf16("value"));
        for (at, field, sizes) in [
            (8, "key", [513, 514, 7, u32::MAX]),
            (12, "value", [2049, 2050, 11, u32::MAX]),
        ] {
            for size in sizes {
                let mut message = good.clone();
                message[at..at + 4].copy_from_slice(&size.to_le_bytes());
                assert_eq!(
                    decode(Encoding::Utf16, &message),
                    Err(Malformed::Size { field, size })
                );
            }
        }
        let mut long = set(REG_SZ, &utf8("key"), &utf8("value"));
        long[8..12].copy_from_slice(&513u32.to_le_bytes());
        let (field, size) = ("key", 513);
        assert_eq!(
            decode(Encoding::Utf8, &long),
            Err(Malformed::Size { field, size })
        );
    }

    #[test]
    fn a_string_ends_at_its_nul_or_with_its_size() {
        let mut message = set(REG_SZ, &utf16("key\0more"), &utf16("value"));
        // Some hosts do not count the NUL.
        message[12..16].copy_from_slice(&8u32.to_le_bytes());
        let Ok(Request::Set { key, value, .. }) = decode(Encoding::Utf16, &message) else {
            panic!("refused");
        };
        assert_eq!((key.as_str(), value.as_str()), ("key", "valu"));
    }

    #[test]
    fn what_is_not_unicode_is_refused() {
        let lone = [0x00, 0xd8, 0, 0];
        let message = set(REG_SZ, &lone, &utf16("value"));
        assert_eq!(
            decode(Encoding::Utf16, &message),
            Err(Malformed::NotUnicode("key"))
        );
        let message = set(REG_SZ, &utf16("key"), &lone);
        assert_eq!(
            decode(Encoding::Utf16, &message),
            Err(Malformed::NotUnicode("value"))
        );
        let message = set(REG_SZ, b"\xff\0", b"value\0");
        assert_eq!(
            decode(Encoding::Utf8, &message),
            Err(Malformed::NotUnicode("key"))
        );
    }

    #[test]
    fn an_invalid_message_is_refused() {
        for (encoding, _) in ENCODINGS {
            assert_eq!(decode(encoding, &[]), Err(Malformed::TooShort { len: 0 }));
            assert_eq!(
                decode(encoding, &[6, 0, 0, 0]),
                Err(Malformed::Operation(6))
            );
            for operation in 0..=5 {
                let len = 500;
                let mut message = vec![0; len];
                message[0] = operation;
                assert_eq!(decode(encoding, &message), Err(Malformed::TooShort { len }));
            }
            let mut message = set(REG_SZ, b"k\0", b"v\0");
            message[1] = 5;
            assert_eq!(decode(encoding, &message), Err(Malformed::Pool(5)));
        }
    }

    #[test]
    fn the_longest_strings_of_a_reply() {
        for (encoding, _) in ENCODINGS {
            let mut message = vec![0; 8 + 2572];
            let (key, value) = ("k".repeat(300), "v".repeat(2047));
            encode(encoding, &mut message, &Reply::Item { key, value }).unwrap();
            let size = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
            let units = |at| match message[21] {
                0 => size(at) / 2,
                _ => size(at),
            };
            assert_eq!((units(12), units(16)), (255, 1023));
        }
    }

    #[test]
    fn the_drivers_version_is_what_it_says() {
        let answer = |version: &[u8]| [&[100, 0, 0, 0][..], version, &[0; 100]].concat();
        let version = driver_version(&answer(b"3.1"));
        assert_eq!(version.as_deref(), Some("3.1"));
        for none in [&b""[..], b"3.1\n", b"\xff"] {
            assert_eq!(driver_version(&answer(none)), None);
        }
        assert_eq!(driver_version(&[100]), None);
    }
}
