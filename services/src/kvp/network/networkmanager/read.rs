//! NetworkManager: the state file of a device names the profile in use, which is a key
//! file or an `ifcfg` file.

use std::net::IpAddr;
use std::path::Path;

use super::profiles::{self, File};
use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::servers;
use crate::kvp::network::ifcfg::read as ifcfg;
use crate::kvp::network::ini;
use crate::kvp::network::startup::BUS;
use crate::kvp::network::state::{ManagerState, in_use};
use crate::kvp::{assignments, files};

/// Its units.
pub(in crate::kvp::network) const UNITS: [&str; 2] = ["NetworkManager.service", BUS];

/// Returns whether NetworkManager manages the interface.
pub(in crate::kvp::network) fn in_charge(root: &Path, interface: &Interface) -> bool {
    let device = root.join(format!("run/NetworkManager/devices/{}", interface.index));
    files::text(&device)
        .is_some_and(|state| state.lines().any(|line| line.trim() == "managed=true"))
}

pub(super) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let state = profiles::state(root, interface)?;
    // Before it is active, only a profile of a device that is managed says anything.
    let profile = profiles::in_force(root, interface)?;
    let is_active = ini::last(&state, "device", "connection-uuid").is_some();
    if !is_active && !in_charge(root, interface) {
        return None;
    }
    let leased = leased(root, interface, &state, &profile.uuid);
    let mut settings = ManagerState {
        dhcp: leased.is_some().then_some(true),
        dns: Vec::new(),
    };
    let mut ignore_leased = false;
    match &profile.file {
        File::Key(_, file) => {
            let dns = |section| servers(file.last(section, "dns").unwrap_or_default());
            // The default method is automatic.
            let method = file.last("ipv4", "method").unwrap_or("auto");
            settings.dhcp = Some(method == "auto");
            settings.dns = [dns("ipv4"), dns("ipv6")].concat();
            ignore_leased = file.last("ipv4", "ignore-auto-dns") == Some("true");
        }
        File::Ifcfg(file) => {
            let parsed = ifcfg::parse(&file.text);
            settings.dhcp = parsed.dhcp.or(settings.dhcp);
            settings.dns = parsed.dns;
            ignore_leased = assignments::last(&file.text, "PEERDNS").as_deref() == Some("no");
        }
        File::None => {}
    }
    if !ignore_leased {
        settings.dns.extend(leased.unwrap_or_default());
    }
    Some(settings)
}

/// Returns the DNS servers of the DHCP lease in use; `None` if there is none. Later
/// versions write them to the state file of the device, earlier ones to the lease only.
fn leased(root: &Path, interface: &Interface, state: &str, uuid: &str) -> Option<Vec<IpAddr>> {
    let option = |name: &str| {
        state.lines().find_map(|line| {
            let value = line.strip_prefix("dhcp4.")?.strip_prefix(name)?;
            value.strip_prefix('=')
        })
    };
    if let Some(list) = option("domain_name_servers") {
        return Some(servers(list));
    }
    if option("dhcp_lease_time").is_some() {
        return Some(Vec::new());
    }
    let name = &interface.name;
    let lease = format!("var/lib/NetworkManager/internal-{uuid}-{name}.lease");
    let lease = files::text(&root.join(lease))?;
    let address = assignments::last(&lease, "ADDRESS")?.parse().ok()?;
    in_use(address, interface)
        .then(|| servers(&assignments::last(&lease, "DNS").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::*;

    const UUID: &str = "c0ffee00-1234-5678-9abc-def012345678";
    const DEVICE: (&str, &str) = (
        "run/NetworkManager/devices/2",
        "[device]\nmanaged=true\nconnection-uuid=c0ffee00-1234-5678-9abc-def012345678\n\
         nm-owned=0\nroute-metric-default-aspired=100\n",
    );
    const OTHER: (&str, &str) = (
        "etc/NetworkManager/system-connections/other.nmconnection",
        "[connection]\nuuid=00000000-1234-5678-9abc-def012345678\n[ipv4]\nmethod=auto\n",
    );

    fn settings(files: &[(&str, &str)]) -> ManagerState {
        let root = root(&[&[DEVICE, OTHER], files].concat());
        read(root.path(), &eth0(&["10.0.0.7"])).unwrap()
    }

    fn profile(rest: &str) -> String {
        format!("[connection]\nid=eth0\nuuid={UUID}\ntype=ethernet\n\n{rest}")
    }

    #[test]
    fn the_key_file_with_the_uuid_is_used() {
        let manual = profile(
            "[ipv4]\naddress1=10.0.0.7/24,10.0.0.254\ndns=10.0.0.1;10.0.0.2;\nmethod=manual\n\n\
             [ipv6]\ndns=fd00::1;\nmethod=auto\n",
        );
        for place in profiles::DIRECTORIES {
            let path = format!("{place}/eth0.nmconnection");
            let found = settings(&[(&path, &manual)]);
            assert_eq!(found.dhcp, Some(false), "{place}");
            assert_eq!(found.dns, ips(&["10.0.0.1", "10.0.0.2", "fd00::1"]));
        }
    }

    #[test]
    fn hidden_files_and_backups_are_passed_over() {
        let new = profile("[ipv4]\nmethod=manual\n");
        let old = profile("[ipv4]\nmethod=auto\n");
        let place = "etc/NetworkManager/system-connections";
        let paths = ["eth0", ".eth0.nmconnection", "eth.nmconnection~"];
        let [path, hidden, backup] = paths.map(|name| format!("{place}/{name}"));
        let found = settings(&[(&path, &new), (&hidden, &old), (&backup, &old)]);
        assert_eq!(found.dhcp, Some(false));
    }

    #[test]
    fn only_the_method_auto_is_dhcp() {
        for (text, expected) in [
            ("[ipv4]\nmethod=auto\n", true),
            ("", true),
            ("[ipv4]\nmethod=disabled\n", false),
            ("[ipv4]\nmethod=shared\n", false),
            ("[ipv4]\nmethod=manual\n[ipv6]\nmethod=auto\n", false),
        ] {
            let path = "run/NetworkManager/system-connections/netplan-eth0.nmconnection";
            let found = settings(&[(path, &profile(text))]);
            assert_eq!(found.dhcp, Some(expected), "{text:?}");
        }
    }

    #[test]
    fn an_ifcfg_file_can_be_the_profile() {
        let text = format!("UUID=\"{UUID}\"\nBOOTPROTO=dhcp\nDNS1=10.0.0.1\n");
        let found = settings(&[("etc/sysconfig/network-scripts/ifcfg-Wired_1", &text)]);
        assert_eq!(found.dhcp, Some(true));
        assert_eq!(found.dns, ips(&["10.0.0.1"]));
    }

    #[test]
    fn leased_servers_come_after_those_of_the_profile() {
        let path = "etc/NetworkManager/system-connections/eth0.nmconnection";
        let lease =
            "var/lib/NetworkManager/internal-c0ffee00-1234-5678-9abc-def012345678-eth0.lease";
        let lease = (lease, "ADDRESS=10.0.0.7\nDNS=10.0.0.3\n");
        let auto = profile("[ipv4]\nmethod=auto\ndns=10.0.0.1;\n");
        assert_eq!(
            settings(&[(path, &auto), lease]).dns,
            ips(&["10.0.0.1", "10.0.0.3"])
        );
        let own = profile("[ipv4]\nmethod=auto\nignore-auto-dns=true\ndns=10.0.0.1;\n");
        assert_eq!(settings(&[(path, &own), lease]).dns, ips(&["10.0.0.1"]));
        let stale = (lease.0, "ADDRESS=10.0.0.99\nDNS=10.0.0.3\n");
        assert_eq!(settings(&[stale]), ManagerState::default());
    }

    #[test]
    fn the_state_file_of_the_device_can_have_the_lease() {
        let state = format!(
            "{}dhcp4.dhcp_lease_time=3600\ndhcp4.domain_name_servers=10.0.0.3 10.0.0.4\n",
            DEVICE.1
        );
        let root = root(&[(DEVICE.0, &state)]);
        let found = read(root.path(), &eth0(&[])).unwrap();
        assert_eq!(found.dhcp, Some(true));
        assert_eq!(found.dns, ips(&["10.0.0.3", "10.0.0.4"]));
    }

    /// While it waits, the state file names no profile.
    #[test]
    fn a_device_that_waits_for_a_lease_has_dhcp() {
        let device = (DEVICE.0, "[device]\nmanaged=true\nnm-owned=false\n");
        let place = "etc/NetworkManager/system-connections";
        let file = |name: &str, rest: &str| {
            let text = format!("[connection]\nuuid={name}\n{rest}");
            (format!("{place}/{name}.nmconnection"), text)
        };
        let dhcp = |files: &[(String, String)]| {
            let files = files
                .iter()
                .map(|(path, text)| (path.as_str(), text.as_str()));
            let files: Vec<_> = files.chain([device]).collect();
            read(root(&files).path(), &eth0(&[])).map(|state| state.dhcp)
        };
        let by_dhcp = file("1", "interface-name=eth0\n");
        let fixed = "[ipv4]\nmethod=manual\n";
        let with = |rest: &str| dhcp(&[by_dhcp.clone(), file("2", &format!("{rest}{fixed}"))]);
        assert_eq!(dhcp(&[]), None);
        assert_eq!(dhcp(std::slice::from_ref(&by_dhcp)), Some(Some(true)));
        assert_eq!(with("autoconnect-priority=1\n"), Some(Some(false)));
        for other in [
            "autoconnect-priority=-1\n",
            "autoconnect-priority=1\nautoconnect=false\n",
            "autoconnect-priority=1\ninterface-name=eth1\n",
            "autoconnect-priority=1\ntype=wifi\n",
            "autoconnect-priority=1\nmaster=br0\n",
            "autoconnect-priority=1\n[ethernet]\nmac-address=00:15:5D:01:02:04\n",
        ] {
            assert_eq!(with(other), Some(Some(true)), "{other}");
        }
        let used = |uuid: &str| {
            let used = format!("[timestamps]\n{uuid}=1700000000\n");
            dhcp(&[
                by_dhcp.clone(),
                file("2", fixed),
                ("var/lib/NetworkManager/timestamps".to_owned(), used),
            ])
        };
        assert_eq!(
            (used("1"), used("2")),
            (Some(Some(true)), Some(Some(false)))
        );
        // It has no effect while NetworkManager leaves the device alone.
        let unmanaged = (DEVICE.0, "[device]\nmanaged=false\n");
        let root = root(&[(&by_dhcp.0, &by_dhcp.1), unmanaged]);
        assert_eq!(read(root.path(), &eth0(&[])), None);
    }

    #[test]
    fn a_device_without_a_profile_has_no_settings() {
        let root = root(&[(DEVICE.0, "[device]\nmanaged=false\n"), OTHER]);
        assert_eq!(read(root.path(), &eth0(&[])), None);
        assert_eq!(read(Path::new("/nowhere"), &eth0(&[])), None);
    }
}
