//! The network managers, in order, and what all of them know about an interface.
//!
//! The files of each manager are read in `ORDER`: first those that state that the manager
//! controls the interface, then configuration files, which may be left over from another
//! manager, then the leases of plain DHCP clients. The first result counts, separately
//! for DHCP and DNS. The DNS servers of the whole machine are the last resort.

use std::path::Path;

use super::sources::{dhclient, dhcpcd, resolv_conf, resolved};
use super::state::ManagerState;
use super::{ifcfg, ifupdown, networkd, networkmanager};
use crate::kvp::interfaces::Interface;

/// Reads the settings of an interface from the files of one manager; returns `None` if
/// the manager does not control it.
type Query = fn(&Path, &Interface) -> Option<ManagerState>;

const ORDER: [Query; 7] = [
    resolved::query,
    networkd::read::query,
    networkmanager::read::query,
    ifupdown::read::query,
    ifcfg::read::query,
    dhclient::query,
    dhcpcd::query,
];

/// Returns what all managers know about the interface. `root` stands for `/`.
pub(super) fn query(root: &Path, interface: &Interface) -> ManagerState {
    let mut known = ManagerState::default();
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

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

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
            ManagerState {
                dhcp: None,
                dns: ips(&["10.0.0.4"])
            }
        );
        assert_eq!(
            query(Path::new("/nowhere"), &eth0(&[])),
            ManagerState::default()
        );
    }
}
