//! The ordered list of network managers, and what they know about an interface.

use std::iter;
use std::net::IpAddr;
use std::path::Path;

use super::connman::Connman;
use super::ifcfg::Ifcfg;
use super::ifupdown::Ifupdown;
use super::manager::Manager;
use super::netplan::Netplan;
use super::networkd::Networkd;
use super::networkmanager::NetworkManager;
use super::script::Script;
use super::sources::{dhclient, dhcpcd, dnsmasq, resolv_conf, resolved};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

/// All network managers. Of those that are in charge of an interface, a configuration of the host
/// is written for the first (`choose`); where several know something about an interface, the first
/// counts.
///
/// First the administrator's own script. Then netplan, which writes the files of the next two.
/// Those publish which interfaces they manage. Files of the others may be left over.
pub(super) static MANAGERS: [&dyn Manager; 7] = [
    &Script,
    &Netplan,
    &NetworkManager,
    &Networkd,
    &Connman,
    &Ifcfg,
    &Ifupdown,
];

/// Returns the manager that this key selects.
pub(super) fn find(key: &str) -> Option<&'static dyn Manager> {
    MANAGERS.into_iter().find(|manager| manager.key() == key)
}

/// Returns the keys of all managers, for messages.
pub(super) fn keys() -> String {
    MANAGERS.map(Manager::key).join(", ")
}

/// What is known about an interface, and who knows it: a manager's key, or the name of another
/// source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Known {
    /// Whether IPv4 is configured by DHCP; `None` if nobody knows.
    pub(super) dhcp: Option<(bool, &'static str)>,
    /// DNS servers in order of preference; `None` if nobody knows one.
    pub(super) dns: Option<(Vec<IpAddr>, &'static str)>,
}

/// Returns what systemd-resolved, the managers and plain DHCP clients know about the interface.
/// The first result counts, separately for DHCP and DNS. The DNS servers of the whole machine are
/// the last resort.
pub(super) fn read(root: &Path, interface: &Interface) -> Known {
    let states = iter::once_with(|| ("systemd-resolved", resolved::read(root, interface)))
        .chain(
            MANAGERS
                .iter()
                .map(|manager| (manager.key(), manager.read(root, interface))),
        )
        .chain(iter::once_with(|| {
            ("dhclient", dhclient::read(root, interface))
        }))
        .chain(iter::once_with(|| {
            ("dhcpcd", dhcpcd::read(root, interface))
        }));
    let mut known = Known::default();
    for (source, state) in states {
        let Some(ManagerState { dhcp, dns }) = state else {
            continue;
        };
        known.dhcp = known.dhcp.or(dhcp.map(|dhcp| (dhcp, source)));
        let dns = Some((dns, source)).filter(|(dns, _)| !dns.is_empty());
        known.dns = known.dns.or(dns);
        if known.dhcp.is_some() && known.dns.is_some() {
            break;
        }
    }
    let of_machine = || {
        iter::once_with(|| (resolv_conf::servers(root), "resolv.conf"))
            .chain(iter::once_with(|| (dnsmasq::servers(root), "dnsmasq")))
            .find(|(dns, _)| !dns.is_empty())
    };
    known.dns = known.dns.or_else(of_machine);
    known
}

#[cfg(test)]
mod tests {
    use super::super::manager::Charge;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_first_result_counts_for_each_setting() {
        let scripts = "etc/sysconfig/network-scripts/ifcfg-eth0";
        let mut files = vec![
            ("etc/network/interfaces", "iface eth0 inet dhcp\n"),
            (scripts, "DNS1=10.0.0.3\n"),
            ("etc/resolv.conf", "nameserver 10.0.0.4\n"),
        ];
        let known = read(root(&files).path(), &eth0(&[]));
        assert_eq!(known.dhcp, Some((true, "ifupdown")));
        assert_eq!(known.dns, Some((ips(&["10.0.0.3"]), "ifcfg")));
        files.push(("run/systemd/resolve/netif/2", "SERVERS=10.0.0.1\n"));
        let known = read(root(&files).path(), &eth0(&[]));
        assert_eq!(known.dhcp, Some((true, "ifupdown")));
        assert_eq!(known.dns, Some((ips(&["10.0.0.1"]), "systemd-resolved")));
    }

    /// The host reads what the manager says that its configuration would be written for.
    #[test]
    fn the_manager_in_charge_is_read_first() {
        let root = root(&[
            (
                "run/NetworkManager/devices/2",
                "[device]\nmanaged=true\nconnection-uuid=1\n",
            ),
            (
                "etc/NetworkManager/system-connections/1.nmconnection",
                "[connection]\nuuid=1\n[ipv4]\nmethod=manual\ndns=10.0.0.1;\n",
            ),
            ("run/systemd/netif/state", ""),
            (
                "run/systemd/netif/links/2",
                "ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/1.network\n\
                 DNS=10.0.0.2\n",
            ),
            ("etc/systemd/network/1.network", "[Network]\nDHCP=yes\n"),
        ]);
        let (root, interface) = (root.path(), eth0(&[]));
        let in_charge =
            |manager: &&&dyn Manager| manager.in_charge(root, &interface) == Charge::Now;
        let manager = MANAGERS.iter().find(in_charge).unwrap();
        assert_eq!(manager.key(), "networkmanager");
        let known = read(root, &interface);
        assert_eq!(known.dhcp, Some((false, "networkmanager")));
        assert_eq!(known.dns, Some((ips(&["10.0.0.1"]), "networkmanager")));
    }

    #[test]
    fn keys_differ() {
        let mut keys = vec!["auto", "off"];
        keys.extend(MANAGERS.map(Manager::key));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 2 + MANAGERS.len());
    }

    #[test]
    fn a_local_resolver_has_servers_of_its_own() {
        let mut files = vec![
            ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
            ("etc/dnsmasq.conf", "server=10.0.0.5\n"),
        ];
        let known = read(root(&files).path(), &eth0(&[]));
        assert_eq!(known.dns, Some((ips(&["10.0.0.5"]), "dnsmasq")));
        files[0].1 = "nameserver 127.0.0.1\nnameserver 10.0.0.4\n";
        let known = read(root(&files).path(), &eth0(&[]));
        assert_eq!(known.dns, Some((ips(&["10.0.0.4"]), "resolv.conf")));
    }

    #[test]
    fn servers_of_the_machine_come_last() {
        let root = root(&[("etc/resolv.conf", "nameserver 10.0.0.4\n")]);
        let known = read(root.path(), &eth0(&[]));
        assert_eq!(
            known,
            Known {
                dhcp: None,
                dns: Some((ips(&["10.0.0.4"]), "resolv.conf"))
            }
        );
        assert_eq!(read(Path::new("/nowhere"), &eth0(&[])), Known::default());
    }
}
