//! What the stanzas of an interface say.

use std::path::Path;

use super::interfaces::{Family, Interfaces, logical};
use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::servers;
use crate::kvp::network::state::ManagerState;
use crate::program;

/// Returns whether ifupdown may be in charge of interfaces: it is installed.
pub(super) fn in_charge(root: &Path) -> bool {
    root.join("etc/network/interfaces").exists() && program::find(root, "ifup").is_ok()
}

/// Returns whether ifupdown has brought the interface up.
pub(super) fn is_up(root: &Path, interface: &Interface) -> bool {
    logical(root, &interface.name).is_some()
}

pub(in crate::kvp::network) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let interfaces = Interfaces::read(root);
    let logical = logical(root, &interface.name);
    let logical = logical.unwrap_or_else(|| interfaces.name_at_boot(&interface.name));
    let stanzas = interfaces.stanzas(&logical);
    if stanzas.is_empty() {
        return None;
    }
    let mut state = ManagerState {
        dhcp: Some(false),
        ..ManagerState::default()
    };
    for stanza in stanzas {
        let mut dhcp = stanza.family == Some(Family::V4) && stanza.method == "dhcp";
        for (key, value) in &stanza.options {
            match &**key {
                "dns-nameservers" | "dns-nameserver" => state.dns.extend(servers(value)),
                // ifupdown-ng, and ifupdown2.
                "use" => dhcp |= value.split_whitespace().any(|word| word == "dhcp"),
                "address" => dhcp |= stanza.family != Some(Family::V6) && value == "dhcp",
                _ => {}
            }
        }
        if dhcp {
            state.dhcp = Some(true);
        }
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::*;

    fn settings(files: &[(&str, &str)]) -> Option<ManagerState> {
        let root = root(files);
        read(root.path(), &eth0(&[]))
    }

    #[test]
    fn the_stanzas_of_the_interface_are_used() {
        let text = "
            # iface eth0 inet dhcp
            auto lo eth0
            iface lo inet loopback
                dns-nameservers 10.0.0.9

            iface eth0 inet static
                address 10.0.0.7/24
                dns-nameservers 10.0.0.1 \\
                                10.0.0.2
            iface eth0 inet6 static
                address fd00::7/64
                dns-nameserver fd00::1
            allow-hotplug eth1
            iface eth1 inet dhcp
                dns-nameservers 10.0.0.8
        ";
        let found = settings(&[("etc/network/interfaces", text)]).unwrap();
        assert_eq!(found.dhcp, Some(false));
        assert_eq!(found.dns, ips(&["10.0.0.1", "10.0.0.2", "fd00::1"]));
    }

    #[test]
    fn dhcp_is_that_of_ipv4_in_any_stanza() {
        for (text, expected) in [
            ("iface eth0 inet dhcp", Some(true)),
            ("iface eth0 inet dhcp\niface eth0 inet6 static", Some(true)),
            ("iface eth0 inet static\niface eth0 inet dhcp", Some(true)),
            ("iface eth0 inet6 dhcp", Some(false)),
            ("iface eth0 inet manual", Some(false)),
            ("iface eth0 inet", Some(false)),
            ("iface eth0", Some(false)),
            // ifupdown-ng.
            ("iface eth0\n use dhcp", Some(true)),
            ("iface eth0\n use link\n use dhcp", Some(true)),
            ("template t\n use dhcp\niface eth0\n inherit t", Some(true)),
            ("iface eth0\n use ppp\n dhcp-hostname x", Some(false)),
            ("iface eth0\nauto eth1\n use dhcp", Some(false)),
            // ifupdown2.
            ("iface eth0\n address dhcp", Some(true)),
            ("iface eth0 inet6 static\n address dhcp", Some(false)),
            ("iface", None),
            ("iface eth00 inet dhcp", None),
        ] {
            let found = settings(&[("etc/network/interfaces", text)]);
            assert_eq!(found.and_then(|found| found.dhcp), expected, "{text:?}");
        }
        assert_eq!(settings(&[]), None);
    }

    #[test]
    fn sourced_files_are_read_in_their_place() {
        let main = |line| ("etc/network/interfaces", line);
        let cloud = (
            "etc/network/interfaces.d/50-cloud-init",
            "iface eth0 inet dhcp\n",
        );
        let backup = ("etc/network/interfaces.d/old.bak", "iface eth0 inet dhcp\n");
        for line in [
            "source /etc/network/interfaces.d/*",
            "source interfaces.d/*",
            "source interfaces.d/50-*",
            "source-directory /etc/network/interfaces.d",
            "source-directory interfaces.d",
        ] {
            assert!(settings(&[main(line), cloud]).is_some(), "{line}");
        }
        assert!(settings(&[main("source interfaces.d/*.cfg"), cloud]).is_none());
        assert!(settings(&[main("source interfaces.d/*"), backup]).is_some());
        assert!(settings(&[main("source-directory interfaces.d"), backup]).is_none());
    }

    #[test]
    fn a_mapping_selects_other_stanzas() {
        let interfaces = "iface eth0 inet dhcp\niface office inet static\n\
                          dns-nameservers 10.0.0.1\n";
        for (state, dhcp, dns) in [
            ("lo=lo\neth0=office\n", false, &["10.0.0.1"][..]),
            ("lo=lo\neth0=eth0\n", true, &[]),
            ("lo=lo\neth00=office\neth0=\n", true, &[]),
        ] {
            let found = settings(&[
                ("etc/network/interfaces", interfaces),
                ("run/network/ifstate", state),
            ])
            .unwrap();
            assert_eq!(found.dhcp, Some(dhcp), "{state:?}");
            assert_eq!(found.dns, ips(dns), "{state:?}");
        }
    }

    #[test]
    fn a_pattern_selects_other_stanzas_before_the_boot_does() {
        let stanza = "\niface office inet static\ndns-nameservers 10.0.0.1\n";
        for (line, selects) in [
            ("auto /eth*=office", true),
            ("allow-hotplug lo /e?h*/1=office", true),
            ("auto eth0=office", true),
            ("auto /eth*", false),
            ("auto /en*=office", false),
            ("auto eth00=office eth0=", false),
        ] {
            let text = line.to_owned() + stanza;
            let found = settings(&[("etc/network/interfaces", &text)]);
            assert_eq!(found.is_some(), selects, "{line}");
        }
    }

    #[test]
    fn a_file_that_sources_itself_ends() {
        let text = "iface eth0 inet dhcp\nsource /etc/network/inter*\nsource /etc/network/*\n";
        let found = settings(&[("etc/network/interfaces", text)]).unwrap();
        assert_eq!(found.dhcp, Some(true));
    }
}
