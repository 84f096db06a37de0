//! systemd-networkd: the state file of a link names the `.network` file that configures
//! it, and its DNS servers.

use std::path::Path;

use super::base::LinkState;
use super::directories::drop_ins;
use super::keep::dhcp;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::servers;
use crate::kvp::network::ini;
use crate::kvp::network::startup::BUS;
use crate::kvp::network::state::{ManagerState, in_use};
use crate::kvp::{assignments, files};

/// Its units.
pub(in crate::kvp::network) const UNITS: [&str; 2] = ["systemd-networkd.service", BUS];

/// Returns whether systemd-networkd manages the interface.
pub(super) fn in_charge(root: &Path, interface: &Interface) -> bool {
    let managed = LinkState::read(root, interface).is_some_and(|state| state.is_managed());
    managed && is_started(root)
}

/// Returns whether systemd-networkd was started in this boot.
pub(in crate::kvp::network) fn is_started(root: &Path) -> bool {
    root.join("run/systemd/netif/state").exists()
}

pub(super) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let index = interface.index;
    let state = files::text(&root.join(format!("run/systemd/netif/links/{index}")))?;
    // A link that networkd does not manage has none.
    let file = assignments::last(&state, "NETWORK_FILE").filter(|file| !file.is_empty())?;
    let has_lease = || {
        let lease = files::text(&root.join(format!("run/systemd/netif/leases/{index}")));
        let address = lease.and_then(|lease| assignments::last(&lease, "ADDRESS")?.parse().ok());
        address.map(|address| in_use(address, interface))
    };
    Some(ManagerState {
        dhcp: configured(root, &file).or_else(has_lease),
        dns: servers(&assignments::last(&state, "DNS").unwrap_or_default()),
    })
}

/// Whether a `.network` file with its drop-ins enables DHCP; `None` if it cannot be read.
fn configured(root: &Path, file: &str) -> Option<bool> {
    let main = files::text(&files::under(root, file))?;
    let drop_ins = drop_ins(root, Path::new(file).file_name()?);
    let texts = drop_ins.iter().filter_map(|path| files::text(path));
    let setting = |text: &str| ini::last(text, "Network", "DHCP").map(|value| dhcp(value).0);
    let last = texts.filter_map(|text| setting(&text)).next_back();
    Some(last.or_else(|| setting(&main)).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::*;

    const LINK: (&str, &str) = (
        "run/systemd/netif/links/2",
        "# This is private data. Do not parse.\nADMIN_STATE=configured\nOPER_STATE=routable\n\
         NETWORK_FILE=/run/systemd/network/10-netplan-eth0.network\nDNS=10.0.0.1 fe80::1%eth0\n\
         NTP=\nDOMAINS=example\n",
    );
    const FILE: &str = "run/systemd/network/10-netplan-eth0.network";

    fn dhcp(files: &[(&str, &str)]) -> Option<bool> {
        let root = root(&[&[LINK], files].concat());
        read(root.path(), &eth0(&["10.0.0.7"])).unwrap().dhcp
    }

    #[test]
    fn the_state_file_of_the_link_has_the_servers() {
        let root = root(&[LINK]);
        let settings = read(root.path(), &eth0(&[])).unwrap();
        assert_eq!(settings.dns, ips(&["10.0.0.1", "fe80::1"]));
    }

    #[test]
    fn an_unmanaged_link_has_no_settings() {
        let unmanaged = "ADMIN_STATE=unmanaged\nOPER_STATE=routable\n";
        let root = root(&[("run/systemd/netif/links/2", unmanaged)]);
        assert_eq!(read(root.path(), &eth0(&[])), None);
        assert_eq!(read(Path::new("/nowhere"), &eth0(&[])), None);
    }

    #[test]
    fn the_network_file_enables_dhcp() {
        for (value, expected) in [
            ("yes", true),
            ("ipv4", true),
            ("True", true),
            ("ipv6", false),
            ("no", false),
            ("", false),
        ] {
            let text = format!("[Match]\nName=eth0\n[Network]\nDHCP={value}\n");
            assert_eq!(dhcp(&[(FILE, &text)]), Some(expected), "{value:?}");
        }
        assert_eq!(
            dhcp(&[(FILE, "[Network]\nAddress=10.0.0.7/24\n")]),
            Some(false)
        );
        assert_eq!(dhcp(&[(FILE, "[DHCP]\nDHCP=yes\n")]), Some(false));
    }

    #[test]
    fn drop_ins_are_read_in_order_of_their_names() {
        let main = (FILE, "[Network]\nDHCP=no\n");
        let vendor = |name, value| {
            let path = format!("usr/lib/systemd/network/10-netplan-eth0.network.d/{name}");
            (path, format!("[Network]\nDHCP={value}\n"))
        };
        let site = |name, value| {
            let path = format!("etc/systemd/network/10-netplan-eth0.network.d/{name}");
            (path, format!("[Network]\nDHCP={value}\n"))
        };
        let with = |files: &[(String, String)]| {
            let files = files
                .iter()
                .map(|(path, text)| (path.as_str(), text.as_str()));
            dhcp(&[main].into_iter().chain(files).collect::<Vec<_>>())
        };
        assert_eq!(with(&[vendor("10.conf", "yes")]), Some(true));
        assert_eq!(
            with(&[vendor("10.conf", "yes"), site("10.conf", "no")]),
            Some(false)
        );
        assert_eq!(
            with(&[vendor("20.conf", "yes"), site("10.conf", "no")]),
            Some(true)
        );
        assert_eq!(with(&[vendor("10.txt", "yes")]), Some(false));
    }

    #[test]
    fn without_the_network_file_a_lease_means_dhcp() {
        let lease = |address| {
            let text = format!("# This is private data. Do not parse.\nADDRESS={address}\n");
            dhcp(&[("run/systemd/netif/leases/2", text.as_str())])
        };
        assert_eq!(lease("10.0.0.7"), Some(true));
        assert_eq!(lease("10.0.0.8"), Some(false));
        assert_eq!(dhcp(&[]), None);
    }
}
