//! IP configurations of the host: what is accepted, and what every manager's
//! back-end makes of it. A text is the same whichever way the host wrote the
//! values, so nothing of its own text can be in there.

#![no_main]

use std::fmt::Display;

use arbitrary::Arbitrary;
use hyperv_services::kvp::network::renderings;
use hyperv_services::kvp::network::settings::{Settings, device};
use hyperv_services::kvp::request::{Family, IpInfo};
use hyperv_vmbus::Guid;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    family: u8,
    dhcp: bool,
    adapter: String,
    addresses: Vec<Element>,
    subnets: Vec<Subnet>,
    gateways: Vec<Element>,
    dns: Vec<Element>,
}

/// Mostly well-formed, so that what lies behind the parser is reached.
#[derive(Arbitrary, Debug)]
enum Element {
    V4([u8; 4]),
    V6([u16; 8]),
    Blank(Box<Element>),
    Other(String),
}

#[derive(Arbitrary, Debug)]
enum Subnet {
    Prefix(u8),
    Mask(u8),
    Other(String),
}

impl Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4(octets) => std::net::Ipv4Addr::from(*octets).fmt(f),
            Self::V6(groups) => {
                let groups = groups.map(|group| format!("{group:04X}"));
                groups.join(":").fmt(f)
            }
            Self::Blank(element) => write!(f, "  {element} "),
            Self::Other(text) => text.fmt(f),
        }
    }
}

impl Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prefix(prefix) => write!(f, "/{prefix}"),
            Self::Mask(ones) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(ones % 33)).unwrap_or(0);
                std::net::Ipv4Addr::from_bits(mask).fmt(f)
            }
            Self::Other(text) => text.fmt(f),
        }
    }
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(";")
}

/// What another host would send for the same configuration.
fn sent(settings: &Settings) -> IpInfo {
    let gateways4 = settings.gateways4.iter().map(|ip| ip.to_string());
    let gateways6 = settings.gateways6.iter().map(|ip| ip.to_string());
    IpInfo {
        adapter: String::new(),
        family: settings.families,
        dhcp: settings.dhcp4,
        addresses: joined(settings.addresses().map(|(ip, _)| ip)),
        subnets: joined(settings.addresses().map(|(_, prefix)| format!("/{prefix}"))),
        gateways: joined(gateways4.chain(gateways6)),
        dns: joined(&settings.dns),
    }
}

fuzz_target!(|input: Input| {
    let _ = device(&input.adapter);
    let parsed = Settings::parse(&IpInfo {
        adapter: input.adapter,
        family: Family(input.family),
        dhcp: input.dhcp,
        addresses: joined(input.addresses),
        subnets: joined(input.subnets),
        gateways: joined(input.gateways),
        dns: joined(input.dns),
    });
    let Ok(settings) = parsed else {
        return;
    };
    let again = Settings::parse(&sent(&settings)).unwrap();
    let render = |settings| renderings("eth0", Some([0; 6]), Guid::from_u128(7), settings);
    let texts = render(&settings);
    assert_eq!(texts, render(&again));
    for text in texts {
        assert!(
            text.bytes()
                .all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte))
        );
    }
});
