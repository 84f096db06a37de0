//! Reads what network managers know about an interface and the kernel does not: whether
//! it uses DHCP, and its DNS servers.
//!
//! The files of each manager are read in `ORDER`: first those that state that the manager
//! controls the interface, then configuration files, which may be left over from another
//! manager, then the leases of plain DHCP clients. The first result counts, separately
//! for DHCP and DNS. The DNS servers of the whole machine are the last resort.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::kvp::interfaces::Interface;

pub mod dhclient;
pub mod dhcpcd;
pub mod ifcfg;
pub mod ifupdown;
pub mod ini;
mod networkd;
mod networkmanager;
pub mod resolv_conf;
mod resolved;

/// What a manager knows about an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Whether IPv4 is configured by DHCP; `None` if that is unknown.
    pub dhcp: Option<bool>,
    /// DNS servers in order of preference.
    pub dns: Vec<IpAddr>,
}

/// Reads the settings of an interface from the files of one manager; returns `None` if
/// the manager does not control it.
type Query = fn(&Path, &Interface) -> Option<Settings>;

const ORDER: [Query; 7] = [
    resolved::query,
    networkd::query,
    networkmanager::query,
    ifupdown::query,
    ifcfg::query,
    dhclient::query,
    dhcpcd::query,
];

/// Returns what all managers know about the interface. `root` stands for `/`.
pub(super) fn query(root: &Path, interface: &Interface) -> Settings {
    let mut known = Settings::default();
    for query in ORDER {
        if known.dhcp.is_some() && !known.dns.is_empty() {
            break;
        }
        if let Some(settings) = query(root, interface) {
            known.dhcp = known.dhcp.or(settings.dhcp);
            if known.dns.is_empty() {
                known.dns = settings.dns;
            }
        }
    }
    if known.dns.is_empty() {
        known.dns = resolv_conf::servers(root);
    }
    known
}

/// Parses a DNS server: an address, with an optional port, zone or, after `#`, name.
fn server(text: &str) -> Option<IpAddr> {
    let text = text.split('#').next()?;
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => text,
    };
    let bare = bare.split('%').next()?;
    let plain = bare.parse().ok();
    plain.or_else(|| bare.parse().ok().map(|socket: SocketAddr| socket.ip()))
}

/// Parses a list of DNS servers separated by spaces, commas or semicolons; skips invalid
/// ones.
fn servers(text: &str) -> Vec<IpAddr> {
    text.split(|letter: char| letter.is_whitespace() || matches!(letter, ',' | ';'))
        .filter_map(server)
        .collect()
}

/// Whether the interface has the address of a lease: the files of leases stay when an
/// interface no longer uses DHCP.
fn in_use(address: Ipv4Addr, interface: &Interface) -> bool {
    let mut own = interface.addresses.iter();
    own.any(|own| own.ip == IpAddr::V4(address))
}

#[cfg(test)]
pub(super) mod testing {
    //! Files of a machine for the tests of the managers.

    use std::fs;

    use super::*;
    use crate::kvp::interfaces::Address;

    /// Creates a directory with these files.
    pub(crate) fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// Returns interface 2, `eth0`, with these IPv4 addresses.
    pub(crate) fn eth0(addresses: &[&str]) -> Interface {
        Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some([0x00, 0x15, 0x5d, 0x01, 0x02, 0x03]),
            up: true,
            loopback: false,
            master: None,
            kind: None,
            addresses: addresses
                .iter()
                .map(|ip| Address {
                    ip: ip.parse().unwrap(),
                    prefix: 24,
                    dynamic: false,
                    tentative: false,
                })
                .collect(),
            gateways: Vec::new(),
        }
    }

    pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::*;
    use super::*;

    #[test]
    fn a_server_is_parsed_in_several_forms() {
        let cases = [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:53", "10.0.0.1"),
            ("10.0.0.1#dns.example", "10.0.0.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fd00::1]:53", "fd00::1"),
            ("[fe80::1%2]:853#dns.example", "fe80::1"),
            ("fd00::1", "fd00::1"),
        ];
        for (text, ip) in cases {
            assert_eq!(server(text), Some(ip.parse().unwrap()), "{text}");
        }
        for text in ["", "dns.example", "10.0.0", "[]", "#", "%", "["] {
            assert_eq!(server(text), None, "{text}");
        }
        assert_eq!(
            servers(" 10.0.0.1;x,fd00::1 "),
            ips(&["10.0.0.1", "fd00::1"])
        );
    }

    #[test]
    fn the_first_result_counts_for_each_setting() {
        let scripts = "etc/sysconfig/network-scripts/ifcfg-eth0";
        let mut files = vec![
            ("etc/network/interfaces", "iface eth0 inet dhcp\n"),
            (scripts, "BOOTPROTO=none\nDNS1=10.0.0.3\n"),
            ("etc/resolv.conf", "nameserver 10.0.0.4\n"),
        ];
        let known = query(root(&files).path(), &eth0(&[]));
        assert_eq!(known.dhcp, Some(true));
        assert_eq!(known.dns, ips(&["10.0.0.3"]));
        files.push(("run/systemd/resolve/netif/2", "SERVERS=10.0.0.1\n"));
        let known = query(root(&files).path(), &eth0(&[]));
        assert_eq!(known.dhcp, Some(true));
        assert_eq!(known.dns, ips(&["10.0.0.1"]));
    }

    #[test]
    fn servers_of_the_machine_come_last() {
        let root = root(&[("etc/resolv.conf", "nameserver 10.0.0.4\n")]);
        let known = query(root.path(), &eth0(&[]));
        assert_eq!(
            known,
            Settings {
                dhcp: None,
                dns: ips(&["10.0.0.4"])
            }
        );
        assert_eq!(
            query(Path::new("/nowhere"), &eth0(&[])),
            Settings::default()
        );
    }

    proptest! {
        #[test]
        fn no_server_panics(text: String) {
            let _ = servers(&text);
        }
    }
}
