//! Messages of the key-value service, in each encoding and layout: any bytes are
//! decoded or refused, and what is decoded can be answered.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyperv_services::kvp::request::{IpAddress, IpConfiguration, Origin, Reply, Request};
use hyperv_services::kvp::wire::{self, IpLayout};
use hyperv_vmbus::Encoding;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for (encoding, layout) in [
        (Encoding::Utf16, IpLayout::Text),
        (Encoding::Utf16, IpLayout::Binary),
        (Encoding::Utf8, IpLayout::Text),
    ] {
        let mut message = bytes.to_vec();
        if let Ok(request) = wire::decode(encoding, layout, bytes) {
            let _ = wire::encode(encoding, layout, &mut message, &reply(&request));
        }
    }
    let _ = wire::driver_version(bytes);
});

/// A reply with what came in: as long as the host can make it.
fn reply(request: &Request) -> Reply {
    match request.clone() {
        Request::Get { key, .. } => Reply::Value(key),
        Request::Set { key, value, .. } => Reply::Item { key, value },
        Request::Delete { key, .. } => Reply::Item {
            key: key.clone(),
            value: key,
        },
        Request::Enumerate { .. } => Reply::Done,
        Request::GetIpInfo { adapter, family } => Reply::IpInfo(configuration(&adapter, family.0)),
        Request::SetIpInfo(info) => Reply::IpInfo(configuration(&info.addresses, info.family.0)),
    }
}

/// As many addresses as the text has letters.
fn configuration(text: &str, prefix: u8) -> IpConfiguration {
    let ips = || {
        text.chars().map(|letter| match letter {
            '\0'..='9' => IpAddr::V4(Ipv4Addr::from_bits(u32::MAX - u32::from(letter))),
            _ => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX - u128::from(letter))),
        })
    };
    let addresses = ips().map(|ip| IpAddress {
        ip,
        prefix,
        origin: Origin::Static,
    });
    IpConfiguration {
        dhcp: prefix & 4 != 0,
        addresses: addresses.collect(),
        gateways: ips().collect(),
        dns: ips().collect(),
    }
}
