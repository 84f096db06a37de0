//! Finds the interface that a request names by its MAC address.

use crate::kvp::interfaces::{self, Address, Interface};

/// Parses a MAC address: six pairs of hexadecimal digits in either case, separated by `:`,
/// `-` or nothing.
pub(super) fn parse(text: &str) -> Option<[u8; 6]> {
    let text = text.trim();
    let digits = match text.len() {
        12 => text.to_owned(),
        17 => {
            let separator = if text.contains('-') { "-" } else { ":" };
            let pairs: Vec<_> = text.split(separator).collect();
            if pairs.len() != 6 || pairs.iter().any(|pair| pair.len() != 2) {
                return None;
            }
            pairs.concat()
        }
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(&digits, 16).ok()?;
    let [_, _, mac @ ..] = number.to_be_bytes();
    Some(mac)
}

/// Formats a MAC address in lower case, with colons.
pub(super) fn format([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Returns the topmost master of the interface with this MAC address, current or permanent; the
/// interface itself if it is no port. Several can have the same address: a netvsc interface and its
/// VF, a bridge or bond and its ports, a VLAN and its parent. This prefers the one with the
/// addresses, then that of a VMBus device.
pub(super) fn find(interfaces: &[Interface], mac: [u8; 6]) -> Option<&Interface> {
    interfaces
        .iter()
        .filter(|interface| [interface.mac, interface.permanent_mac].contains(&Some(mac)))
        .map(|interface| (interface, interfaces::stack::top(interface, interfaces)))
        .min_by_key(|(interface, top)| {
            (
                top.addresses.iter().all(Address::is_link_local),
                interface.vmbus_device.is_none(),
                interface.kind.is_some(),
            )
        })
        .map(|(_, top)| top)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kvp::interfaces::testing;

    const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 0x0a, 0xff, 0x03];

    fn interface(index: u32) -> Interface {
        Interface {
            mac: Some(MAC),
            ..testing::interface(index, &format!("eth{index}"))
        }
    }

    fn with_address(index: u32, ip: &str) -> Interface {
        Interface {
            addresses: vec![testing::address(ip, 8)],
            ..interface(index)
        }
    }

    #[track_caller]
    fn assert_found(interfaces: &[Interface], index: u32) {
        assert_eq!(find(interfaces, MAC).unwrap().index, index);
    }

    #[test]
    fn a_mac_address_is_parsed_in_several_forms() {
        for text in [
            "00:15:5D:0A:FF:03",
            "00:15:5d:0a:ff:03",
            "00-15-5D-0A-FF-03",
            "00155D0AFF03",
            " 00:15:5D:0A:FF:03 ",
        ] {
            assert_eq!(parse(text), Some(MAC), "{text:?}");
        }
        for text in [
            "",
            "00:15:5D:0A:FF",
            "00:15:5D:0A:FF:0G",
            "+0:15:5D:0A:FF:03",
            "00:15-5D:0A:FF:03",
            "0015:5D:0A:FF:03:",
            "00:15:5D:0A:FF:03:04",
            "ä0155d0aff0",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_netvsc_interface_comes_before_its_vf() {
        let mut vf = with_address(2, "10.0.0.1");
        vf.master = Some(3);
        assert_found(&[vf.clone(), interface(3)], 3);
        assert_found(&[vf], 2);
        // Before the VF has its master.
        assert_found(&[interface(2), with_address(3, "10.0.0.1")], 3);
    }

    #[test]
    fn the_interface_with_the_addresses_is_found() {
        let mut vlan = with_address(3, "10.0.0.1");
        vlan.kind = Some("vlan".to_owned());
        // The parent of a VLAN has a link-local address.
        assert_found(&[with_address(2, "fe80::1"), vlan.clone()], 3);
        assert_found(&[vlan, with_address(4, "10.0.0.1")], 4);
    }

    #[test]
    fn an_unknown_mac_address_finds_nothing() {
        assert!(find(&[interface(2)], [0; 6]).is_none());
        let mut tunnel = interface(2);
        tunnel.mac = None;
        assert!(find(&[tunnel], MAC).is_none());
    }

    #[test]
    fn the_topmost_master_of_a_port_is_found() {
        let of_kind = |kind: &str, mac, interface| Interface {
            kind: Some(kind.to_owned()),
            mac,
            ..interface
        };
        let vf = Interface {
            master: Some(3),
            ..interface(2)
        };
        let netvsc = Interface {
            master: Some(4),
            ..interface(3)
        };
        let bond = Interface {
            master: Some(5),
            ..of_kind("bond", Some(MAC), interface(4))
        };
        // A bridge may have a MAC address of its own.
        let bridge = of_kind("bridge", Some([2; 6]), with_address(5, "10.0.0.1"));
        assert_found(&[vf, netvsc.clone(), bond.clone(), bridge], 5);
        // An interface of a VRF has its own addresses.
        let vrf = of_kind("vrf", None, interface(4));
        assert_found(&[netvsc, vrf], 3);
        // The second port of a bond has the address of the first.
        let second = Interface {
            mac: Some([2; 6]),
            permanent_mac: Some(MAC),
            master: Some(4),
            ..interface(3)
        };
        let bond = Interface {
            master: None,
            mac: Some([2; 6]),
            ..bond
        };
        assert_found(&[second, bond], 4);
    }

    #[test]
    fn the_device_of_the_host_is_preferred() {
        let mut both = [with_address(2, "10.0.0.1"), with_address(3, "10.0.0.2")];
        assert_found(&both, 2);
        both[1].vmbus_device = Some(hyperv_vmbus::Guid::from_u128(7));
        assert_found(&both, 3);
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
