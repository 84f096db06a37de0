//! The binary layout of an IP configuration, in version 5.0: counts, and arrays of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::Malformed;
use super::fields::string;
use super::text_ip::mask;
use crate::kvp::encoding::Utf16;
use crate::kvp::request::{Family, IpAddress, IpConfiguration, IpInfo, Origin};

/// Length of the arrays of addresses and DNS servers of one family.
const MANY: usize = 64;

/// Length of the arrays of gateways of one family.
const FEW: usize = 5;

// Origins of an address.
const ORIGIN_OTHER: u16 = 1;
const ORIGIN_STATIC: u16 = 2;

pub(super) type V4 = [u8; 4];
pub(super) type V6 = [u8; 16];

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BinaryIpFields {
    pub(super) v4_count: U32,
    pub(super) v6_count: U32,
    pub(super) v4_gateway_count: U32,
    pub(super) v6_gateway_count: U32,
    pub(super) v4_dns_count: U32,
    pub(super) v6_dns_count: U32,
    pub(super) adapter: [u8; 256],
    pub(super) family: u8,
    pub(super) dhcp: u8,
    padding: [u8; 2],
    pub(super) v4: [V4; MANY],
    pub(super) v6: [V6; MANY],
    pub(super) v4_masks: [V4; MANY],
    pub(super) v6_prefixes: [U32; MANY],
    pub(super) v4_gateways: [V4; FEW],
    pub(super) v6_gateways: [V6; FEW],
    pub(super) v4_dns: [V4; MANY],
    pub(super) v6_dns: [V6; MANY],
    /// Those of the IPv4 addresses, then at once those of the IPv6 addresses.
    pub(super) origins: [U16; 2 * MANY],
}

const _: () = assert!(size_of::<BinaryIpFields>() == 3712);

/// Offset of the fields in the body: the host aligns them.
pub(super) const BINARY_IP_AT: usize = 4;

impl BinaryIpFields {
    pub(super) fn adapter(&self) -> Result<String, Malformed> {
        string::<Utf16>("adapter", &self.adapter)
    }

    pub(super) fn family(&self) -> Family {
        Family(self.family)
    }

    /// Decodes a configuration that the host sets, without the origins: they mean nothing
    /// there.
    pub(super) fn info(&self) -> Result<IpInfo, Malformed> {
        let v4 = counted("IPv4 addresses", self.v4_count, &self.v4)?;
        let masks = counted("IPv4 addresses", self.v4_count, &self.v4_masks)?;
        let v6 = counted("IPv6 addresses", self.v6_count, &self.v6)?;
        let prefixes = counted("IPv6 addresses", self.v6_count, &self.v6_prefixes)?;
        let v4_gateways = counted("IPv4 gateways", self.v4_gateway_count, &self.v4_gateways)?;
        let v6_gateways = counted("IPv6 gateways", self.v6_gateway_count, &self.v6_gateways)?;
        let v4_dns = counted("IPv4 DNS servers", self.v4_dns_count, &self.v4_dns)?;
        let v6_dns = counted("IPv6 DNS servers", self.v6_dns_count, &self.v6_dns)?;

        let masks = masks.iter().map(|mask| Ipv4Addr::from(*mask).to_string());
        let prefixes = prefixes.iter().map(|prefix| format!("/{prefix}"));
        Ok(IpInfo {
            adapter: self.adapter()?,
            family: self.family(),
            dhcp: self.dhcp != 0,
            addresses: joined(both(v4, v6)),
            subnets: joined(masks.chain(prefixes)),
            gateways: joined(both(v4_gateways, v6_gateways)),
            dns: joined(both(v4_dns, v6_dns)),
        })
    }

    /// Writes everything but the adapter: of each list as much as its array holds.
    pub(super) fn write(&mut self, configuration: &IpConfiguration) {
        let adapter = self.adapter;
        self.zero();
        self.adapter = adapter;
        self.dhcp = configuration.dhcp.into();
        let addresses = configuration.addresses.iter();
        let (v4, v6): (Vec<&IpAddress>, Vec<_>) =
            addresses.partition(|address| address.ip.is_ipv4());
        self.v4_count = fill(&mut self.v4, v4.iter().filter_map(|a| v4_octets(a.ip)));
        self.v6_count = fill(&mut self.v6, v6.iter().filter_map(|a| v6_octets(a.ip)));
        fill(
            &mut self.v4_masks,
            v4.iter().map(|a| mask(a.prefix).octets()),
        );
        let prefixes = v6.iter().map(|a| u32::from(a.prefix).into());
        fill(&mut self.v6_prefixes, prefixes);
        let told = || v4.iter().take(MANY).chain(v6.iter().take(MANY));
        fill(&mut self.origins, told().map(|a| origin(a.origin)));
        self.family = told().fold(0, |family, a| family | Family::of(a.ip).0);
        let ips = || configuration.gateways.iter().copied();
        self.v4_gateway_count = fill(&mut self.v4_gateways, ips().filter_map(v4_octets));
        self.v6_gateway_count = fill(&mut self.v6_gateways, ips().filter_map(v6_octets));
        let ips = || configuration.dns.iter().copied();
        self.v4_dns_count = fill(&mut self.v4_dns, ips().filter_map(v4_octets));
        self.v6_dns_count = fill(&mut self.v6_dns, ips().filter_map(v6_octets));
    }
}

/// Returns the elements of an array that count.
fn counted<'a, T>(field: &'static str, count: U32, array: &'a [T]) -> Result<&'a [T], Malformed> {
    let count = count.get();
    let elements = usize::try_from(count)
        .ok()
        .and_then(|count| array.get(..count));
    elements.ok_or(Malformed::Count {
        field,
        count,
        limit: array.len(),
    })
}

fn both(v4: &[V4], v6: &[V6]) -> impl Iterator<Item = String> {
    let v4 = v4.iter().map(|octets| Ipv4Addr::from(*octets).to_string());
    v4.chain(v6.iter().map(|octets| Ipv6Addr::from(*octets).to_string()))
}

fn joined(elements: impl Iterator<Item = String>) -> String {
    elements.collect::<Vec<_>>().join(";")
}

fn origin(origin: Origin) -> U16 {
    match origin {
        Origin::Automatic => ORIGIN_OTHER,
        Origin::Static => ORIGIN_STATIC,
    }
    .into()
}

fn v4_octets(ip: IpAddr) -> Option<V4> {
    match ip {
        IpAddr::V4(ip) => Some(ip.octets()),
        IpAddr::V6(_) => None,
    }
}

fn v6_octets(ip: IpAddr) -> Option<V6> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(ip.octets()),
    }
}

/// Fills the start of an array, and returns how many elements it got.
fn fill<T>(array: &mut [T], elements: impl Iterator<Item = T>) -> U32 {
    let mut count = 0;
    for (place, element) in array.iter_mut().zip(elements) {
        *place = element;
        count += 1;
    }
    U32::new(count)
}
