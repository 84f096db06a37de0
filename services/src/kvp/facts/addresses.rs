//! The machine's addresses in one value.

use std::net::IpAddr;

use wildmatch::WildMatch;

use crate::kvp::interfaces::Interface;
use crate::kvp::wire::{VALUE_UNITS, text_ip};

/// How likely the addresses of an interface are the wanted ones, most likely first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It has a gateway, or is a device of the host.
    Main,
    Hardware,
    /// Created by software: a bridge, a tunnel.
    Virtual,
}

/// Joins the addresses of one family with `;`, by [`Rank`] and with link-local ones last.
/// Leaves out those of interfaces that are down, and those that do not fit the value.
/// `on_vmbus` returns whether the interface of that name is a VMBus device.
pub(super) fn list(
    interfaces: &[Interface],
    ignored: &[WildMatch],
    on_vmbus: impl Fn(&str) -> bool,
    of_family: fn(&IpAddr) -> bool,
) -> String {
    let mut found = Vec::new();
    for interface in interfaces {
        let name = interface.name.as_str();
        if interface.loopback
            || !interface.up
            || is_slave(interface, interfaces)
            || ignored.iter().any(|pattern| pattern.matches(name))
        {
            continue;
        }
        let has_gateway = !interface.gateways.is_empty();
        let rank = match &interface.kind {
            _ if has_gateway || on_vmbus(name) => Rank::Main,
            None => Rank::Hardware,
            Some(_) => Rank::Virtual,
        };
        for address in &interface.addresses {
            if !address.tentative && of_family(&address.ip) {
                let order = (address.is_link_local(), rank, !has_gateway);
                found.push((order, address.ip));
            }
        }
    }
    // A stable sort: equal ones keep the kernel's order.
    found.sort_by_key(|(order, _)| *order);
    // An address is ASCII: a byte of it is a UTF-16 unit.
    text_ip::join(found.iter().map(|(_, ip)| ip), VALUE_UNITS)
}

/// Whether the master of the interface has its addresses, as the netvsc interface has
/// those of its VF. Interfaces of a VRF have their own.
fn is_slave(interface: &Interface, interfaces: &[Interface]) -> bool {
    interface.master.is_some_and(|master| {
        !interfaces
            .iter()
            .any(|other| other.index == master && other.kind.as_deref() == Some("vrf"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::interfaces::{Address, testing};

    /// An interface with these addresses, `?` before a tentative one.
    fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
        let address = |text: &&str| Address {
            tentative: text.starts_with('?'),
            ..testing::address(text.trim_start_matches('?'), 24)
        };
        Interface {
            addresses: addresses.iter().map(address).collect(),
            ..testing::interface(index, name)
        }
    }

    fn v4(interfaces: &[Interface]) -> String {
        list(interfaces, &[], |_| false, IpAddr::is_ipv4)
    }

    #[test]
    fn addresses_of_one_family_are_listed() {
        let both = [interface(2, "eth0", &["10.0.0.1", "fd00::1", "10.0.0.2"])];
        assert_eq!(v4(&both), "10.0.0.1;10.0.0.2");
        assert_eq!(list(&both, &[], |_| false, IpAddr::is_ipv6), "fd00::1");
        assert_eq!(v4(&[]), "");
    }

    #[test]
    fn addresses_are_sorted_by_rank() {
        let mut bridge = interface(2, "br0", &["10.2.0.1"]);
        bridge.kind = Some("bridge".to_owned());
        let hardware = interface(3, "eth1", &["169.254.3.3", "10.3.0.1"]);
        let on_vmbus = interface(4, "eth2", &["169.254.4.4", "10.4.0.1"]);
        let mut tunnel = interface(5, "wg0", &["10.5.0.1"]);
        tunnel.kind = Some("wireguard".to_owned());
        tunnel.gateways = vec!["10.5.0.2".parse().unwrap()];
        let all = [bridge, hardware, on_vmbus, tunnel];
        let value = list(&all, &[], |name| name == "eth2", IpAddr::is_ipv4);
        assert_eq!(
            value,
            "10.5.0.1;10.4.0.1;10.3.0.1;10.2.0.1;169.254.4.4;169.254.3.3"
        );
    }

    #[test]
    fn some_interfaces_are_left_out() {
        let mut lo = interface(1, "lo", &["127.0.0.1"]);
        lo.loopback = true;
        let eth0 = interface(2, "eth0", &["?10.0.0.1", "10.0.0.2"]);
        let mut vf = interface(3, "enP1", &["10.0.0.3"]);
        vf.master = Some(2);
        let docker = interface(4, "docker0", &["172.17.0.1"]);
        let mut off = interface(5, "eth1", &["10.0.0.4"]);
        off.up = false;
        let all = [lo, eth0, vf, docker, off];
        let ignored = [WildMatch::new("docker*")];
        let value = list(&all, &ignored, |_| false, IpAddr::is_ipv4);
        assert_eq!(value, "10.0.0.2");
    }

    #[test]
    fn an_interface_of_a_vrf_has_its_own_addresses() {
        let mut vrf = interface(2, "vrf-blue", &[]);
        vrf.kind = Some("vrf".to_owned());
        let mut eth0 = interface(3, "eth0", &["10.0.0.1"]);
        eth0.master = Some(2);
        assert_eq!(v4(&[vrf, eth0]), "10.0.0.1");
    }

    #[test]
    fn a_long_list_is_cut_between_addresses() {
        let texts: Vec<_> = (0..200).map(|i| format!("10.100.100.{i}")).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let value = v4(&[interface(2, "eth0", &texts)]);
        assert!(value.len() <= VALUE_UNITS && value.len() > VALUE_UNITS - 15);
        let listed: Vec<_> = value.split(';').collect();
        assert_eq!(listed, texts[..listed.len()]);
    }
}
