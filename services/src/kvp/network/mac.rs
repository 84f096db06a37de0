//! Finds the interface that a request names by its MAC address.

use crate::kvp::interfaces::{Address, Interface};

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

/// Returns the interface with this MAC address. Several can have the same: a netvsc
/// interface and its VF, a bridge or bond and its ports, a VLAN and its parent. This
/// prefers the one with the addresses.
pub(super) fn find(interfaces: &[Interface], mac: [u8; 6]) -> Option<&Interface> {
    interfaces
        .iter()
        .filter(|interface| interface.mac == Some(mac))
        .min_by_key(|interface| {
            (
                interface.master.is_some(),
                interface.addresses.iter().all(Address::is_link_local),
                interface.kind.is_some(),
            )
        })
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

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
