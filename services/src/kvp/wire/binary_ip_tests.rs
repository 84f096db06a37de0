//! The offsets are those of the table in the protocol, section 7.

use std::net::IpAddr;

use hyperv_vmbus::Encoding;
use proptest::prelude::*;

use super::tests::configuration;
use super::{IpLayout, Malformed, decode, encode, text_ip};
use crate::kvp::request::{Family, IpAddress, IpConfiguration, IpInfo, Origin, Reply, Request};

const BODY_LEN: usize = 7428;

const GET_IP_INFO: u8 = 4;
const SET_IP_INFO: u8 = 5;

/// Where the message has its parts.
const COUNTS: [(usize, &str, usize); 6] = [
    (4, "IPv4 addresses", 64),
    (8, "IPv6 addresses", 64),
    (12, "IPv4 gateways", 5),
    (16, "IPv6 gateways", 5),
    (20, "IPv4 DNS servers", 64),
    (24, "IPv6 DNS servers", 64),
];
const ADAPTER: usize = 28;
const FAMILY: usize = 284;
const DHCP: usize = 285;
const V4: usize = 288;
const V6: usize = 544;
const MASKS: usize = 1568;
const PREFIXES: usize = 1824;
const V4_GATEWAYS: usize = 2080;
const V6_GATEWAYS: usize = 2100;
const V4_DNS: usize = 2180;
const V6_DNS: usize = 2436;
const ORIGINS: usize = 3460;
const END: usize = 3716;

fn message(operation: u8, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; BODY_LEN];
    message[0] = operation;
    for (at, bytes) in parts {
        message[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    message
}

const NAME: &[u8] = b"n\0a\0m\0e\0";

fn v6(last: u8) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[15] = last;
    octets
}

fn set() -> Vec<u8> {
    let both = [v6(1), v6(2)].concat();
    message(
        SET_IP_INFO,
        &[
            (1, &[1]),
            (4, &[2, 0, 0, 0, 2]),
            (12, &[1, 0, 0, 0, 1]),
            (20, &[2, 0, 0, 0, 1]),
            (ADAPTER, NAME),
            (FAMILY, &[3, 1]),
            (V4, &[10, 0, 0, 1, 192, 0, 2, 1]),
            (V6, &both),
            (MASKS, &[255, 0, 0, 0, 255, 255, 255, 128]),
            (PREFIXES, &[64, 0, 0, 0, 129]),
            (V4_GATEWAYS, &[10, 0, 0, 2]),
            (V6_GATEWAYS, &v6(3)),
            (V4_DNS, &[10, 0, 0, 3, 10, 0, 0, 4]),
            (V6_DNS, &v6(5)),
            (ORIGINS, &[0xff; 256]),
        ],
    )
}

fn decoded(message: &[u8]) -> Result<Request, Malformed> {
    decode(Encoding::Utf16, IpLayout::Binary, message)
}

#[test]
fn a_set_is_decoded() {
    let wanted = IpInfo {
        adapter: "name".to_owned(),
        family: Family::BOTH,
        dhcp: true,
        addresses: "10.0.0.1;192.0.2.1;fd00::1;fd00::2".to_owned(),
        // Whoever parses it refuses the last one.
        subnets: "255.0.0.0;255.255.255.128;/64;/129".to_owned(),
        gateways: "10.0.0.2;fd00::3".to_owned(),
        dns: "10.0.0.3;10.0.0.4;fd00::5".to_owned(),
    };
    assert_eq!(decoded(&set()), Ok(Request::SetIpInfo(wanted)));
    let nothing = message(SET_IP_INFO, &[]);
    let wanted = Request::SetIpInfo(IpInfo::default());
    assert_eq!(decoded(&nothing[..END]), Ok(wanted));
    let len = END - 1;
    let short = decoded(&nothing[..len]);
    assert_eq!(short, Err(Malformed::TooShort { len }));
}

#[test]
fn a_get_is_decoded() {
    // The counts mean nothing.
    let parts = [(4, &[0xff; 24][..]), (ADAPTER, NAME), (FAMILY, &[2])];
    let wanted = Request::GetIpInfo {
        adapter: "name".to_owned(),
        family: Family::V6,
    };
    assert_eq!(decoded(&message(GET_IP_INFO, &parts)), Ok(wanted));
}

#[test]
fn a_count_that_is_larger_than_its_array_is_refused() {
    for (at, field, limit) in COUNTS {
        let largest = u32::try_from(limit).unwrap();
        let with = |count: u32| message(SET_IP_INFO, &[(at, &count.to_le_bytes())]);
        assert!(decoded(&with(largest)).is_ok());
        for count in [largest + 1, 1 << 16, 1 << 31, u32::MAX] {
            let wanted = Err(Malformed::Count {
                field,
                count,
                limit,
            });
            assert_eq!(decoded(&with(count)), wanted);
        }
    }
}

#[test]
fn a_character_device_has_text() {
    let mut asked = message(GET_IP_INFO, &[(4, b"name")]);
    asked.resize(7432, 0);
    let wanted = Request::GetIpInfo {
        adapter: "name".to_owned(),
        family: Family::default(),
    };
    let (encoding, layout) = (Encoding::Utf8, IpLayout::Binary);
    assert_eq!(decode(encoding, layout, &asked), Ok(wanted));
    let reply = Reply::IpInfo(IpConfiguration {
        gateways: vec!["10.0.0.1".parse().unwrap()],
        ..IpConfiguration::default()
    });
    encode(encoding, layout, &mut asked, &reply).unwrap();
    assert_eq!(asked[4358..4367], *b"10.0.0.1\0");
}

#[test]
fn a_reply_has_its_parts_in_their_places() {
    let address = |ip: &str, prefix, origin| IpAddress {
        ip: ip.parse().unwrap(),
        prefix,
        origin,
    };
    let ips = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
    let reply = Reply::IpInfo(IpConfiguration {
        dhcp: true,
        addresses: vec![
            address("fd00::1", 64, Origin::Static),
            address("10.0.0.1", 8, Origin::Automatic),
            address("192.0.2.1", 25, Origin::Static),
            address("fd00::2", 128, Origin::Automatic),
        ],
        gateways: ips(&["fd00::3", "10.0.0.2"]),
        dns: ips(&["10.0.0.3", "fd00::5", "10.0.0.4"]),
    });
    let mut message = message(GET_IP_INFO, &[(ADAPTER, NAME)]);
    message[FAMILY..].fill(0xee);
    message[4..ADAPTER].fill(0xee);
    encode(Encoding::Utf16, IpLayout::Binary, &mut message, &reply).unwrap();
    let mut wanted = set();
    wanted[..2].copy_from_slice(&[GET_IP_INFO, 0]);
    wanted[PREFIXES + 4] = 128;
    wanted[ORIGINS..END].fill(0);
    wanted[ORIGINS..ORIGINS + 8].copy_from_slice(&[1, 0, 2, 0, 2, 0, 1, 0]);
    wanted[END..].fill(0xee);
    assert!(message == wanted);
    assert_eq!(message[DHCP], 1);
}

/// Returns what the arrays hold of these, those of IPv4 first.
fn held(ips: &[IpAddr], len: usize) -> Vec<IpAddr> {
    let v4 = ips.iter().filter(|ip| ip.is_ipv4()).take(len);
    let v6 = ips.iter().filter(|ip| ip.is_ipv6()).take(len);
    v4.chain(v6).copied().collect()
}

proptest! {
    /// Both layouts have the same configuration, where both have room for it.
    #[test]
    fn a_configuration_travels_both_ways(sent in configuration(), noise: u8) {
        let mut message = message(GET_IP_INFO, &[(ADAPTER, NAME)]);
        message[FAMILY..].fill(noise);
        encode(Encoding::Utf16, IpLayout::Binary, &mut message, &Reply::IpInfo(sent.clone())).unwrap();
        message[0] = SET_IP_INFO;
        let came = match decoded(&message) {
            Ok(Request::SetIpInfo(came)) => came,
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        let ips: Vec<IpAddr> = sent.addresses.iter().map(|address| address.ip).collect();
        prop_assert_eq!(came.addresses, text_ip::join(&held(&ips, 64), usize::MAX));
        prop_assert_eq!(came.gateways, text_ip::join(&held(&sent.gateways, 5), usize::MAX));
        prop_assert_eq!(came.dns, text_ip::join(&held(&sent.dns, 64), usize::MAX));
        prop_assert_eq!(came.dhcp, sent.dhcp);
        let family = ips.iter().fold(0, |family, ip| family | Family::of(*ip).0);
        prop_assert_eq!(came.family, Family(family));
        let subnets = |v4: bool| {
            let addresses = sent.addresses.iter().filter(move |address| address.ip.is_ipv4() == v4);
            addresses.take(64).map(move |address| match v4 {
                true => text_ip::mask(address.prefix).to_string(),
                false => format!("/{}", address.prefix),
            })
        };
        let wanted: Vec<String> = subnets(true).chain(subnets(false)).collect();
        prop_assert_eq!(came.subnets, wanted.join(";"));
    }
}
