//! Formats the lists of a reply, truncated to the size of their fields.

use std::net::{IpAddr, Ipv4Addr};

use crate::kvp::interfaces::Address;
use crate::kvp::request::Family;

/// Longest list of addresses, subnets or DNS servers in UTF-16 units without the NUL. The
/// lists are ASCII: a byte is a unit.
const LONG: usize = 1023;

/// Longest list of gateways in UTF-16 units without the NUL.
const SHORT: usize = 511;

/// Addresses, their subnets in the same order, and the families of the addresses.
#[derive(Default)]
pub(super) struct Addresses {
    pub(super) addresses: String,
    pub(super) subnets: String,
    pub(super) family: Family,
}

/// Lists the addresses of these families.
pub(super) fn addresses(addresses: &[Address], family: Family) -> Addresses {
    let mut lists = Addresses::default();
    for address in addresses {
        if !family.includes(address.ip) {
            continue;
        }
        let ip = address.ip.to_string();
        let (subnet, its_family) = match address.ip {
            IpAddr::V4(_) => (mask(address.prefix).to_string(), Family::V4),
            IpAddr::V6(_) => (format!("/{}", address.prefix), Family::V6),
        };
        if !(has_room(&lists.addresses, &ip, LONG) && has_room(&lists.subnets, &subnet, LONG)) {
            break;
        }
        push(&mut lists.addresses, &ip);
        push(&mut lists.subnets, &subnet);
        lists.family.0 |= its_family.0;
    }
    lists
}

/// Lists the gateways of these families.
pub(super) fn gateways(gateways: &[IpAddr], family: Family) -> String {
    join(gateways.iter().filter(|ip| family.includes(**ip)), SHORT)
}

/// Lists all DNS servers: those of one family resolve names for both.
pub(super) fn dns(servers: &[IpAddr]) -> String {
    join(servers.iter(), LONG)
}

/// Joins those that fit `max` bytes with `;`.
pub(in crate::kvp) fn join<'a>(ips: impl Iterator<Item = &'a IpAddr>, max: usize) -> String {
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
    use crate::kvp::interfaces::testing::address;

    #[test]
    fn each_address_has_a_subnet() {
        let both = [
            address("10.0.0.1", 8),
            address("192.0.2.1", 25),
            address("fe80::1", 64),
        ];
        let lists = addresses(&both, Family::BOTH);
        assert_eq!(lists.addresses, "10.0.0.1;192.0.2.1;fe80::1");
        assert_eq!(lists.subnets, "255.0.0.0;255.255.255.128;/64");
        assert_eq!(lists.family, Family::BOTH);
    }

    #[test]
    fn addresses_of_the_other_family_are_left_out() {
        let both = [address("10.0.0.1", 8), address("fd00::1", 48)];
        let lists = addresses(&both, Family::V6);
        assert_eq!((&*lists.addresses, &*lists.subnets), ("fd00::1", "/48"));
        assert_eq!(lists.family, Family::V6);
        assert_eq!(addresses(&both[1..], Family::V4).family, Family::default());
        let both = both.map(|address| address.ip);
        assert_eq!(gateways(&both, Family::V4), "10.0.0.1");
        assert_eq!(dns(&both), "10.0.0.1;fd00::1");
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
        let many = vec![address("10.0.0.1", 32); 200];
        let lists = addresses(&many, Family::BOTH);
        assert_eq!(lists.subnets.len(), 64 * 16 - 1);
        assert_eq!(lists.subnets.split(';').count(), 64);
        assert_eq!(lists.addresses.split(';').count(), 64);
        assert!(lists.subnets.ends_with(";255.255.255.255"));
        // The addresses are longer than the prefixes.
        let many = vec![address("fd00:1111:2222:3333:4444:5555:6666:7777", 64); 200];
        let lists = addresses(&many, Family::BOTH);
        assert_eq!(lists.addresses.split(';').count(), 25);
        assert_eq!(lists.subnets.split(';').count(), 25);

        let many: Vec<IpAddr> = vec!["255.255.255.255".parse().unwrap(); 200];
        assert_eq!(gateways(&many, Family::V4).len(), 32 * 16 - 1);
        assert_eq!(dns(&many).len(), 64 * 16 - 1);
    }
}
