use proptest::prelude::*;

use std::net::IpAddr;

use super::*;
use crate::kvp::request::{Family, IpAddress, IpInfo, Origin};

const REG_SZ: u32 = 1;

/// As the messages of a version before 5.0.
fn decode(encoding: Encoding, body: &[u8]) -> Result<Request, Malformed> {
    super::decode(encoding, IpLayout::Text, body)
}

/// As the messages of a version before 5.0.
fn encode(encoding: Encoding, body: &mut [u8], reply: &Reply) -> Result<(), TooLong> {
    super::encode(encoding, IpLayout::Text, body, reply)
}

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

pub(super) fn configuration() -> impl Strategy<Value = IpConfiguration> {
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
        for (encoding, layout) in [
            (Encoding::Utf16, IpLayout::Text), (Encoding::Utf16, IpLayout::Binary), (Encoding::Utf8, IpLayout::Text),
        ] {
            let _ = super::decode(encoding, layout, &message);
            for reply in [
                Reply::Value(value.clone()),
                Reply::Item { key: value.clone(), value: value.clone() },
                Reply::IpInfo(configuration.clone()),
            ] {
                let _ = super::encode(encoding, layout, &mut message.clone(), &reply);
            }
        }
    }
}

#[test]
fn numbers_become_decimal() {
    let number = 0xfedc_ba98_7654_3210u64.to_le_bytes();
    for (kind, value) in [
        (4, 0x7654_3210u32.to_string()),
        (8, 0xfedc_ba98_7654_3210u64.to_string()),
        (11, 0xfedc_ba98_7654_3210u64.to_string()),
    ] {
        let Ok(Request::Set { value: came, .. }) =
            decode(Encoding::Utf16, &set(kind, &utf16("k"), &number))
        else {
            panic!("type {kind}");
        };
        assert_eq!(came, value);
    }
    for kind in [0, 3, 7, u32::MAX] {
        let message = set(kind, &utf16("k"), &number);
        assert_eq!(
            decode(Encoding::Utf16, &message),
            Err(Malformed::ValueType(kind))
        );
    }
}

#[test]
fn a_string_with_variables_is_a_string() {
    let message = set(2, &utf16("key"), &utf16("%windir%"));
    let wanted = Request::Set {
        pool: PoolId::Guest,
        key: "key".to_owned(),
        value: "%windir%".to_owned(),
    };
    assert_eq!(decode(Encoding::Utf16, &message), Ok(wanted));
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

/// The longest strings of each encoding in units.
const LONGEST: [(Encoding, Write, usize, usize); 2] = [
    (Encoding::Utf16, utf16, 255, 1023),
    (Encoding::Utf8, utf8, 254, 1022),
];

/// Records of other programs are longer.
#[test]
fn the_longest_strings_of_a_reply() {
    for (encoding, write, key_units, value_units) in LONGEST {
        let mut message = vec![0xee; 8 + 2572];
        let (key, value) = ("k".repeat(512), "v".repeat(2048));
        let item = Reply::Item {
            key: key.clone(),
            value: value.clone(),
        };
        encode(encoding, &mut message, &item).unwrap();
        let (key, value) = (write(&key[..key_units]), write(&value[..value_units]));
        assert_eq!(message[12..16], (key.len() as u32).to_le_bytes());
        assert_eq!(message[16..20], (value.len() as u32).to_le_bytes());
        assert_eq!(message[20..532], field(&key, 512));
        assert_eq!(message[532..], field(&value, 2048));
    }
}

/// What is set is told again: in a letter of one byte or more, with a NUL or without.
#[test]
fn what_would_be_truncated_in_a_reply_is_refused() {
    for (encoding, write, key_units, value_units) in LONGEST {
        for (key_len, value_len, refused) in [
            (key_units, value_units, None),
            (key_units + 1, 1, Some(("key", key_units))),
            (1, value_units + 1, Some(("value", value_units))),
        ] {
            let (key, value) = ("k".repeat(key_len), "v".repeat(value_len));
            let mut message = set(REG_SZ, &utf16("key"), &utf16("value"));
            for (at, size, field, text) in [(8, 512, 16, &key), (12, 2048, 528, &value)] {
                // A string that fills the field has no NUL.
                let mut text = write(text);
                text.truncate(size);
                message[at..at + 4].copy_from_slice(&(text.len() as u32).to_le_bytes());
                message[field..field + text.len()].copy_from_slice(&text);
            }
            let wanted = match refused {
                None => Ok(Request::Set {
                    pool: PoolId::Guest,
                    key: key.clone(),
                    value,
                }),
                Some((field, limit)) => Err(Malformed::Long {
                    field,
                    units: limit + 1,
                    limit,
                }),
            };
            assert_eq!(decode(encoding, &message), wanted);
            // Other programs may have stored such a key.
            message[0] = GET;
            let pool = PoolId::Guest;
            assert_eq!(decode(encoding, &message), Ok(Request::Get { pool, key }));
        }
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
