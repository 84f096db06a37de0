//! Offsets are those of the protocol, section 7.

use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::{Status, Version};
use proptest::prelude::*;

use super::describe::describe;
use super::{IpLayout, decode, encode};
use crate::description::{Content, Context, Description, Side, Value};
use crate::kvp::request::{IpAddress, IpConfiguration, Origin, Reply};

fn context(encoding: Encoding, side: Side, request: Option<u32>) -> Context {
    Context {
        encoding,
        side,
        version: Version::new(4, 0),
        request,
        status: (side == Side::Guest && encoding == Encoding::Utf16).then_some(Status::OK),
    }
}

fn request(encoding: Encoding, body: &[u8]) -> Description {
    describe(&context(encoding, Side::Host, None), body)
}

/// Returns each field as text.
fn shown(description: &Description) -> Vec<String> {
    let fields = description.fields.iter();
    let fields = fields.map(|field| format!("{} {:?} {:?}", field.name, field.place, field.value));
    fields.collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A message with parts at offsets.
fn message(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; len];
    for (at, bytes) in parts {
        message[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    message
}

#[test]
fn a_set_in_both_encodings() {
    let (key, value) = (utf16("Rôle"), utf16("db"));
    let ring = message(
        2580,
        &[
            (0, &[1, 1]),
            (4, &[1]),
            (8, &[10, 0, 0, 0, 6]),
            (16, &key),
            (528, &value),
        ],
    );
    assert_eq!(
        shown(&request(Encoding::Utf16, &ring)),
        [
            r#"operation 0..1 Named(1, "SET")"#,
            r#"pool 1..2 Named(1, "guest")"#,
            "key_size 8..12 Number(10)",
            r#"key 16..24 Text("Rôle")"#,
            r#"value_type 4..8 Named(1, "string")"#,
            "value_size 12..16 Number(6)",
            r#"value 528..532 Text("db")"#,
        ]
    );
    let device = message(
        7432,
        &[
            (0, &[1, 1]),
            (8, &[6, 0, 0, 0, 3]),
            (16, "Rôle".as_bytes()),
            (528, b"db"),
        ],
    );
    let described = shown(&request(Encoding::Utf8, &device));
    assert_eq!(described[3], r#"key 16..21 Text("Rôle")"#);
    assert_eq!(described[6], r#"value 528..530 Text("db")"#);
}

#[test]
fn numbers_are_values() {
    for (kind, value, place) in [(4, 0x0807_0605, 528..532), (11, 0xf_0807_0605, 528..536)] {
        let value = u64::to_le_bytes(value);
        let size = place.len();
        let body = message(
            2580,
            &[(0, &[1]), (4, &[kind]), (8, &[2]), (528, &value[..size])],
        );
        let description = request(Encoding::Utf16, &body);
        let field = description.field("value").unwrap();
        assert_eq!((&field.place, field.content), (&place, Content::Value));
        assert_eq!(field.value, Value::Number(u64::from_le_bytes(value)));
    }
}

#[test]
fn replies_have_the_values() {
    let item = Reply::Item {
        key: "k".to_owned(),
        value: "value".to_owned(),
    };
    for (encoding, len, end) in [(Encoding::Utf16, 2580, 10), (Encoding::Utf8, 7432, 5)] {
        for (operation, reply, at) in [
            (0, Reply::Value("value".to_owned()), 528),
            (3, item.clone(), 532),
        ] {
            let mut body = message(len, &[(0, &[operation])]);
            encode(encoding, IpLayout::Text, &mut body, &reply).unwrap();
            let mut at = at;
            if encoding == Encoding::Utf8 {
                body[..4].fill(0);
                at = 532;
            }
            let reply = context(encoding, Side::Guest, Some(operation.into()));
            let description = describe(&reply, &body);
            let value = description.field("value").unwrap();
            assert_eq!(value.value, Value::Text("value".to_owned()));
            assert_eq!(value.place, at..at + end);
            assert_eq!(
                description.field("key").is_some(),
                operation == 3 || len == 2580
            );
        }
    }
}

#[test]
fn replies_that_cannot_be_are_malformed() {
    // The size and the text of the value: no string, or none of this size.
    for (encoding, len, at) in [(Encoding::Utf16, 2580, 12), (Encoding::Utf8, 7432, 16)] {
        for (size, value, why) in [
            (4u32, [0x41, 0], None),
            (4, [0xff, 0xdf], Some("value is not valid Unicode")),
            (4096, [0x41, 0], Some("4096")),
        ] {
            let parts = [
                (at, &size.to_le_bytes()[..]),
                (at - 8, &[1]),
                (at + 516, &value),
            ];
            let body = message(len, &parts);
            let description = describe(&context(encoding, Side::Guest, Some(0)), &body);
            let malformed = description.field("malformed").map(|field| &field.value);
            match (malformed, why) {
                (None, None) => {}
                (Some(Value::Text(text)), Some(why)) if text.contains(why) => {}
                (malformed, why) => panic!("{encoding:?}: {malformed:?}, expected {why:?}"),
            }
        }
    }
    let version = Version::new(5, 0);
    for (count, is_malformed) in [(64, false), (65, true)] {
        let body = message(3716, &[(0, &[4]), (4, &[count])]);
        let context = Context {
            version,
            ..context(Encoding::Utf16, Side::Guest, None)
        };
        let description = describe(&context, &body);
        assert_eq!(description.field("malformed").is_some(), is_malformed);
    }
}

/// The request's key and value are still in a reply that is a failure.
#[test]
fn a_failure_has_nothing_else() {
    let body = message(2580, &[(0, &[0]), (8, &[4]), (16, &utf16("key"))]);
    let failed = Context {
        status: Some(Status::FAIL),
        ..context(Encoding::Utf16, Side::Guest, None)
    };
    assert_eq!(describe(&failed, &body).fields.len(), 1);
    let mut body = message(7432, &[(8, &[4]), (16, b"key")]);
    body[..4].copy_from_slice(&Status::NO_MORE_ITEMS.0.to_le_bytes());
    let description = describe(&context(Encoding::Utf8, Side::Guest, Some(3)), &body);
    assert_eq!(description.operation, "ENUMERATE");
    assert_eq!(
        shown(&description),
        [r#"status 0..4 Named(2147942659, "no more items")"#]
    );
}

#[test]
fn registrations() {
    let register = message(7432, &[(0, &[100]), (4, b"3.1")]);
    let description = request(Encoding::Utf8, &register);
    assert_eq!(description.operation, "REGISTERED");
    assert_eq!(shown(&description)[1], r#"driver_version 4..7 Text("3.1")"#);
    let description = describe(&context(Encoding::Utf8, Side::Guest, None), &register);
    assert_eq!(description.operation, "REGISTER");
    assert_eq!(description.fields.len(), 1);
}

fn configuration() -> IpConfiguration {
    let addresses = [("192.0.2.1", 25), ("fd00::1", 64)];
    IpConfiguration {
        dhcp: true,
        addresses: addresses
            .map(|(ip, prefix)| IpAddress {
                ip: ip.parse().unwrap(),
                prefix,
                origin: Origin::Static,
            })
            .to_vec(),
        gateways: vec!["192.0.2.2".parse().unwrap()],
        dns: vec!["fd00::2".parse().unwrap()],
    }
}

#[test]
fn an_ip_configuration_in_text() {
    for (encoding, len, at) in [(Encoding::Utf16, 7428, 2), (Encoding::Utf8, 7432, 4)] {
        let mut body = message(len, &[(0, &[4])]);
        encode(
            encoding,
            IpLayout::Text,
            &mut body,
            &Reply::IpInfo(configuration()),
        )
        .unwrap();
        if encoding == Encoding::Utf8 {
            body[..4].fill(0);
        }
        let reply = context(encoding, Side::Guest, Some(4));
        let description = describe(&reply, &body);
        for (name, text) in [
            ("addresses", "192.0.2.1;fd00::1"),
            ("subnets", "255.255.255.128;/64"),
            ("gateways", "192.0.2.2"),
            ("name_servers", "fd00::2"),
        ] {
            let field = description.field(name).unwrap();
            assert_eq!(field.value, Value::Text(text.to_owned()));
            assert_eq!(field.content, Content::Address);
        }
        let family = description.field("address_family").unwrap();
        assert_eq!(family.value, Value::Named(3, "IPv4 and IPv6".into()));
        assert_eq!(family.place, at + 256..at + 257);
        assert_eq!(
            description.field("dhcp_enabled").unwrap().value,
            Value::Number(1)
        );
    }
}

#[test]
fn a_binary_ip_configuration() {
    let mut body = message(7428, &[(0, &[4]), (28, &utf16("00:15:5D"))]);
    let reply = Reply::IpInfo(configuration());
    encode(Encoding::Utf16, IpLayout::Binary, &mut body, &reply).unwrap();
    let reply = Context {
        version: Version::new(5, 0),
        ..context(Encoding::Utf16, Side::Guest, None)
    };
    let shown = shown(&describe(&reply, &body));
    for wanted in [
        "ipv4_address_count 4..8 Number(1)",
        r#"adapter_id 28..44 Text("00:15:5D")"#,
        "ipv4_addresses 288..292 V4([192.0.2.1])",
        "ipv6_addresses 544..560 V6([fd00::1])",
        "ipv4_masks 1568..1572 V4([255.255.255.128])",
        "ipv6_prefixes 1824..1828 Numbers([64])",
        "ipv4_gateways 2080..2084 V4([192.0.2.2])",
        "ipv6_gateways 2100..2100 V6([])",
        "ipv6_name_servers 2436..2452 V6([fd00::2])",
        "origins 3460..3464 Numbers([2, 2])",
    ] {
        assert!(
            shown.iter().any(|field| field == wanted),
            "{wanted} in {shown:#?}"
        );
    }
}

proptest! {
    /// What the service would refuse, and nothing else, is malformed.
    #[test]
    fn any_message_is_described(
        start in proptest::collection::vec(0..20u8, 20), fill: u8, len in 0..8000usize,
        wide: bool, guest: bool, five: bool,
    ) {
        let mut body = start;
        body.resize(len, fill);
        let encoding = if wide { Encoding::Utf16 } else { Encoding::Utf8 };
        let side = if guest { Side::Guest } else { Side::Host };
        let version = Version::new(if five { 5 } else { 4 }, 0);
        let context = Context { version, ..context(encoding, side, Some(4)) };
        let description = describe(&context, &body);
        prop_assert!(description.fields.iter().all(|field| field.place.end <= len));
        if !guest {
            let refused = decode(encoding, IpLayout::of(version), &body).is_err();
            prop_assert_eq!(description.field("malformed").is_some(), refused);
        }
    }
}
