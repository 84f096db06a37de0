//! The text layout of an IP configuration: lists that are joined with `;` and truncated to the
//! size of their fields.

use std::net::{IpAddr, Ipv4Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{Malformed, TooLong};
use super::fields::string;
use crate::kvp::encoding::Form;
use crate::kvp::request::{Family, IpConfiguration, IpInfo};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct TextIpFields {
    pub(super) adapter: [u8; 256],
    pub(super) family: u8,
    pub(super) dhcp: u8,
    pub(super) addresses: [u8; 2048],
    pub(super) subnets: [u8; 2048],
    pub(super) gateways: [u8; 1024],
    pub(super) dns: [u8; 2048],
}

const _: () = assert!(size_of::<TextIpFields>() == 7426);

impl TextIpFields {
    pub(super) fn adapter<E: Form>(&self) -> Result<String, Malformed> {
        string::<E>("adapter", &self.adapter)
    }

    pub(super) fn family(&self) -> Family {
        Family(self.family)
    }

    pub(super) fn info<E: Form>(&self) -> Result<IpInfo, Malformed> {
        Ok(IpInfo {
            adapter: self.adapter::<E>()?,
            family: self.family(),
            dhcp: self.dhcp != 0,
            addresses: string::<E>("list of addresses", &self.addresses)?,
            subnets: string::<E>("list of subnets", &self.subnets)?,
            gateways: string::<E>("list of gateways", &self.gateways)?,
            dns: string::<E>("list of DNS servers", &self.dns)?,
        })
    }

    /// Writes everything but the adapter.
    pub(super) fn write<E: Form>(
        &mut self,
        configuration: &IpConfiguration,
    ) -> Result<(), TooLong> {
        let info = lists(configuration);
        self.family = info.family.0;
        self.dhcp = info.dhcp.into();
        let lists: [(&'static str, &str, &mut [u8]); 4] = [
            ("list of addresses", &info.addresses, &mut self.addresses),
            ("list of subnets", &info.subnets, &mut self.subnets),
            ("list of gateways", &info.gateways, &mut self.gateways),
            ("list of DNS servers", &info.dns, &mut self.dns),
        ];
        for (name, list, field) in lists {
            E::write(list, field).ok_or(TooLong(name))?;
        }
        Ok(())
    }
}

/// Longest list of addresses, subnets or DNS servers in UTF-16 units without the NUL. The
/// lists are ASCII: a byte is a unit.
const LONG: usize = 1023;

/// Longest list of gateways in UTF-16 units without the NUL.
const SHORT: usize = 511;

/// Returns the lists of a reply, which names no adapter.
pub(in crate::kvp) fn lists(configuration: &IpConfiguration) -> IpInfo {
    let mut lists = IpInfo {
        dhcp: configuration.dhcp,
        gateways: join(&configuration.gateways, SHORT),
        dns: join(&configuration.dns, LONG),
        ..IpInfo::default()
    };
    for address in &configuration.addresses {
        let ip = address.ip.to_string();
        let subnet = match address.ip {
            IpAddr::V4(_) => mask(address.prefix).to_string(),
            IpAddr::V6(_) => format!("/{}", address.prefix),
        };
        if !(has_room(&lists.addresses, &ip, LONG) && has_room(&lists.subnets, &subnet, LONG)) {
            break;
        }
        push(&mut lists.addresses, &ip);
        push(&mut lists.subnets, &subnet);
        lists.family.0 |= Family::of(address.ip).0;
    }
    lists
}

/// Joins those that fit `max` bytes with `;`.
pub(in crate::kvp) fn join<'a>(ips: impl IntoIterator<Item = &'a IpAddr>, max: usize) -> String {
    let mut list = String::new();
    for ip in ips {
        let ip = ip.to_string();
        if !has_room(&list, &ip, max) {
            break;
        }
        push(&mut list, &ip);
    }
    list
}

fn has_room(list: &str, element: &str, max: usize) -> bool {
    let separator = usize::from(!list.is_empty());
    list.len() + separator + element.len() <= max
}

fn push(list: &mut String, element: &str) {
    if !list.is_empty() {
        list.push(';');
    }
    list.push_str(element);
}

/// Returns the subnet mask of an IPv4 prefix.
pub(in crate::kvp) fn mask(prefix: u8) -> Ipv4Addr {
    let bits = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into()));
    Ipv4Addr::from_bits(bits.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::request::{IpAddress, Origin};

    fn of(addresses: &[(&str, u8)]) -> IpInfo {
        let addresses = addresses.iter().map(|&(ip, prefix)| IpAddress {
            ip: ip.parse().unwrap(),
            prefix,
            origin: Origin::Static,
        });
        lists(&IpConfiguration {
            addresses: addresses.collect(),
            ..IpConfiguration::default()
        })
    }

    #[test]
    fn each_address_has_a_subnet() {
        let both = of(&[("10.0.0.1", 8), ("192.0.2.1", 25), ("fe80::1", 64)]);
        assert_eq!(both.addresses, "10.0.0.1;192.0.2.1;fe80::1");
        assert_eq!(both.subnets, "255.0.0.0;255.255.255.128;/64");
        assert_eq!(both.family, Family::BOTH);
        assert_eq!(of(&[("10.0.0.1", 8)]).family, Family::V4);
        assert_eq!(of(&[("fd00::1", 48)]).family, Family::V6);
        assert_eq!(of(&[]).family, Family::default());
    }

    #[test]
    fn every_prefix_has_a_mask() {
        assert_eq!(mask(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(mask(1), Ipv4Addr::new(128, 0, 0, 0));
        assert_eq!(mask(32), Ipv4Addr::BROADCAST);
        assert_eq!(mask(255), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn full_lists_end_with_a_whole_element() {
        // The masks are longer than the addresses.
        let many = of(&[("10.0.0.1", 32); 200]);
        assert_eq!(many.subnets.len(), 64 * 16 - 1);
        assert_eq!(many.subnets.split(';').count(), 64);
        assert_eq!(many.addresses.split(';').count(), 64);
        assert!(many.subnets.ends_with(";255.255.255.255"));
        // The addresses are longer than the prefixes.
        let many = of(&[("fd00:1111:2222:3333:4444:5555:6666:7777", 64); 200]);
        assert_eq!(many.addresses.split(';').count(), 25);
        assert_eq!(many.subnets.split(';').count(), 25);

        let many: Vec<IpAddr> = vec!["255.255.255.255".parse().unwrap(); 200];
        let lists = lists(&IpConfiguration {
            gateways: many.clone(),
            dns: many,
            ..IpConfiguration::default()
        });
        assert_eq!(lists.gateways.len(), 32 * 16 - 1);
        assert_eq!(lists.dns.len(), 64 * 16 - 1);
    }
}
