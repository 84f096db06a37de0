//! ConnMan: the settings of an interface's service, which it keeps in a file that it alone writes
//! while it runs.

use std::path::Path;

use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::servers;
use crate::kvp::network::ini::{Document, Syntax};
use crate::kvp::network::sources::resolv_conf;
use crate::kvp::network::startup::BUS;
use crate::kvp::network::state::ManagerState;

/// Its units.
pub(super) const UNITS: [&str; 2] = ["connman.service", BUS];

/// Written as long as it runs: the servers of all services, or its own address where it forwards
/// queries.
const RESOLV_CONF: &str = "run/connman/resolv.conf";

/// The service of an interface.
pub(super) struct Service {
    /// Its name: `ethernet_` and the Ethernet address.
    pub(super) name: String,
    /// Its settings, in one section.
    pub(super) settings: Document,
}

impl Service {
    /// Returns the value of a setting.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.settings.last(&self.name, key)
    }
}

/// Returns the path of the settings of a service, without the root.
pub(super) fn path(service: &str) -> String {
    format!("var/lib/connman/{service}/settings")
}

/// Returns the service of an interface that ConnMan has connected at some time.
pub(super) fn service(root: &Path, interface: &Interface) -> Option<Service> {
    let [a, b, c, d, e, f] = interface.mac?;
    let name = format!("ethernet_{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}_cable");
    let text = files::text(&root.join(path(&name)))?;
    let settings = Document::parse(&text, Syntax::KeyFile);
    Some(Service { name, settings })
}

/// Returns whether ConnMan runs and has a service for the interface.
pub(super) fn in_charge(root: &Path, interface: &Interface) -> bool {
    root.join(RESOLV_CONF).exists() && service(root, interface).is_some()
}

/// Reads the settings of the service. The servers of a lease are in no file of its own.
pub(super) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let text = files::text(&root.join(RESOLV_CONF))?;
    let service = service(root, interface)?;
    let own = servers(service.get("Nameservers").unwrap_or_default());
    let dns = match own.is_empty() {
        true => resolv_conf::parse(&text),
        false => own,
    };
    let dhcp = service.get("IPv4.method").map(|method| method == "dhcp");
    Some(ManagerState { dhcp, dns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::*;

    const SETTINGS: &str = "var/lib/connman/ethernet_00155d010203_cable/settings";

    #[test]
    fn the_settings_of_the_service_are_read() {
        let service = |settings: &str| format!("[ethernet_00155d010203_cable]\n{settings}");
        let fixed = service("IPv4.method=manual\nNameservers=10.0.0.1;fd00::1;\n");
        let leased = service("IPv4.method=dhcp\nIPv4.DHCP.LastAddress=10.0.0.7\n");
        let running = (RESOLV_CONF, "nameserver ::1\nnameserver 10.0.0.9\n");
        for (settings, dhcp, dns) in [
            (fixed, Some(false), ips(&["10.0.0.1", "fd00::1"])),
            (leased, Some(true), ips(&["10.0.0.9"])),
            (service(""), None, ips(&["10.0.0.9"])),
        ] {
            let root = root(&[running, (SETTINGS, &settings)]);
            let expected = ManagerState { dhcp, dns };
            assert_eq!(read(root.path(), &eth0(&[])), Some(expected));
            assert!(in_charge(root.path(), &eth0(&[])));
            let mut other = eth0(&[]);
            other.mac = Some([0; 6]);
            assert_eq!(read(root.path(), &other), None);
        }
        // What another manager has replaced.
        let left = root(&[(
            SETTINGS,
            "[ethernet_00155d010203_cable]\nIPv4.method=dhcp\n",
        )]);
        assert_eq!(read(left.path(), &eth0(&[])), None);
        assert!(!in_charge(left.path(), &eth0(&[])));
        assert!(service_of(left.path()).is_some());
    }

    fn service_of(root: &Path) -> Option<Service> {
        service(root, &eth0(&[]))
    }
}
