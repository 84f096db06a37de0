//! The machine's addresses in one value.

use std::net::IpAddr;

use wildmatch::WildMatch;

use crate::kvp::config::DEFAULT_IGNORED;
use crate::kvp::interfaces::{self, Interface};
use crate::kvp::wire::{VALUE_UNITS, text_ip};

/// A glob of interfaces whose addresses are left out.
pub(super) struct Pattern {
    glob: WildMatch,
    /// It does not apply to interfaces that may have the machine's own address.
    is_default: bool,
}

impl Pattern {
    pub(super) fn new(glob: &str) -> Self {
        Self {
            glob: WildMatch::new(glob),
            is_default: DEFAULT_IGNORED.contains(&glob),
        }
    }
}

/// How likely the addresses of an interface are the wanted ones, most likely first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// A device of the host, or above one.
    OnVmbus,
    /// It has a default route, as a VPN may have.
    Routed,
    Hardware,
    /// Created by software: a bridge, a tunnel.
    Virtual,
}

/// Joins the addresses of one family with `;`, by [`Interface::order`] and [`Rank`]. Leaves out
/// those of interfaces that are down, and those that do not fit the value.
pub(super) fn list(
    interfaces: &[Interface],
    ignored: &[Pattern],
    of_family: fn(&IpAddr) -> bool,
) -> String {
    let devices = interfaces
        .iter()
        .filter(|interface| interface.vmbus_device.is_some());
    let devices: Vec<u32> = devices.map(|interface| interface.index).collect();
    let above_vmbus = interfaces::stack::above(&devices, interfaces);
    let mut found = Vec::new();
    for interface in interfaces {
        let above_vmbus = above_vmbus.contains(&interface.index);
        let may_be_main = above_vmbus || interface.default_route;
        let is_ignored = ignored.iter().any(|pattern| {
            pattern.glob.matches(&interface.name) && !(pattern.is_default && may_be_main)
        });
        // The master of an interface has its addresses, as the netvsc interface has its VF's.
        let is_port = interfaces::stack::top(interface, interfaces).index != interface.index;
        if interface.loopback || !interface.up || is_port || is_ignored {
            continue;
        }
        let rank = match &interface.kind {
            _ if above_vmbus => Rank::OnVmbus,
            _ if interface.default_route => Rank::Routed,
            None => Rank::Hardware,
            Some(_) => Rank::Virtual,
        };
        // Policy routing is for further adapters.
        let route = (interface.gateways.is_empty(), !interface.default_route);
        for address in &interface.addresses {
            if !address.tentative && of_family(&address.ip) && !address.ip.is_loopback() {
                let (link_local, deprecated, is_virtual) = interface.order(address);
                let order = (link_local, deprecated, rank, route, is_virtual);
                found.push((order, address.ip));
            }
        }
    }
    // A stable sort: equal ones keep the kernel's order.
    found.sort_by_key(|(order, _)| *order);
    // An address is ASCII: a byte of it is a UTF-16 unit.
    text_ip::join(found.iter().map(|(_, ip)| ip), VALUE_UNITS)
}

#[cfg(test)]
mod tests {
    use hyperv_vmbus::Guid;

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
        list(interfaces, &[], IpAddr::is_ipv4)
    }

    #[test]
    fn addresses_of_one_family_are_listed() {
        let both = [interface(2, "eth0", &["10.0.0.1", "fd00::1", "10.0.0.2"])];
        assert_eq!(v4(&both), "10.0.0.1;10.0.0.2");
        assert_eq!(list(&both, &[], IpAddr::is_ipv6), "fd00::1");
        assert_eq!(v4(&[]), "");
    }

    fn of_kind(kind: &str, interface: Interface) -> Interface {
        Interface {
            kind: Some(kind.to_owned()),
            ..interface
        }
    }

    #[test]
    fn addresses_are_sorted_by_rank() {
        let bridge = of_kind("bridge", interface(2, "br0", &["10.2.0.1"]));
        let hardware = interface(3, "eth1", &["169.254.3.3", "10.3.0.1"]);
        let on_vmbus = |interface| Interface {
            vmbus_device: Some(Guid::from_u128(7)),
            ..interface
        };
        let plain = interface(4, "eth2", &["169.254.4.4", "10.4.0.1"]);
        let tunnel = Interface {
            gateways: vec!["10.5.0.2".parse().unwrap()],
            default_route: true,
            ..of_kind("wireguard", interface(5, "wg0", &["10.5.0.1"]))
        };
        let by_policy = Interface {
            policy_gateways: vec!["10.6.0.2".parse().unwrap()],
            default_route: true,
            ..interface(6, "eth3", &["10.6.0.1"])
        };
        let main = Interface {
            gateways: vec!["10.7.0.2".parse().unwrap()],
            default_route: true,
            ..interface(7, "eth4", &["10.7.0.1"])
        };
        let devices = [plain, by_policy, main].map(on_vmbus);
        let all = [&[bridge, hardware, tunnel][..], &devices].concat();
        assert_eq!(
            v4(&all),
            "10.7.0.1;10.6.0.1;10.4.0.1;10.5.0.1;10.3.0.1;10.2.0.1;169.254.4.4;169.254.3.3"
        );
    }

    #[test]
    fn of_one_interface_the_preferred_address_of_a_subnet_comes_first() {
        let mut eth0 = interface(2, "eth0", &["10.0.0.1", "10.0.0.9", "10.0.0.2", "fd00::1"]);
        eth0.addresses[0].deprecated = true;
        eth0.addresses[1].prefix = 32;
        assert_eq!(v4(&[eth0]), "10.0.0.2;10.0.0.9;10.0.0.1");
        // Some clouds give nothing but /32.
        let mut eth1 = interface(3, "eth1", &["10.1.0.1", "10.1.0.2"]);
        eth1.addresses[0].prefix = 32;
        eth1.addresses[1].prefix = 32;
        let eth2 = interface(4, "eth2", &["10.2.0.1"]);
        assert_eq!(v4(&[eth1, eth2]), "10.1.0.1;10.1.0.2;10.2.0.1");
        // DHCPv6 leases a /128.
        let mut eth3 = interface(5, "eth3", &["fd00::9", "fd00::8", "fd00::1"]);
        eth3.addresses[0].prefix = 128;
        eth3.addresses[1].prefix = 128;
        eth3.addresses[1].dynamic = true;
        let value = list(&[eth3], &[], IpAddr::is_ipv6);
        assert_eq!(value, "fd00::8;fd00::1;fd00::9");
    }

    #[test]
    fn a_default_pattern_does_not_hide_the_machines_address() {
        let defaults = DEFAULT_IGNORED.map(Pattern::new);
        let bridge = |index, name, ip| of_kind("bridge", interface(index, name, &[ip]));
        let routed = Interface {
            default_route: true,
            ..bridge(3, "br-ex", "10.3.0.1")
        };
        let port = Interface {
            master: Some(4),
            vmbus_device: Some(Guid::from_u128(7)),
            ..interface(2, "eth0", &[])
        };
        let all = [
            port,
            routed,
            bridge(4, "br-lan", "10.4.0.1"),
            bridge(5, "br-0123", "172.18.0.1"),
        ];
        let value = |patterns: &[Pattern]| list(&all, patterns, IpAddr::is_ipv4);
        assert_eq!(value(&defaults), "10.4.0.1;10.3.0.1");
        // An administrator's pattern applies to all.
        assert_eq!(value(&["br-?*"].map(Pattern::new)), "");
        assert_eq!(value(&[]), "10.4.0.1;10.3.0.1;172.18.0.1");
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
        let ignored = [Pattern::new("docker*")];
        let value = list(&all, &ignored, IpAddr::is_ipv4);
        assert_eq!(value, "10.0.0.2");
    }

    #[test]
    fn an_interface_of_a_vrf_has_its_own_addresses() {
        let vrf = of_kind("vrf", interface(2, "vrf-blue", &["127.0.0.1"]));
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
