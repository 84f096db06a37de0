//! ISC dhclient: its leases, whichever manager started it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::servers;
use crate::kvp::network::state::{ManagerState, in_use};

const DIRECTORIES: [&str; 3] = ["var/lib/dhcp", "var/lib/dhclient", "var/lib/NetworkManager"];

/// A lease of an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The interface that got it.
    pub interface: String,
    /// The address.
    pub address: Ipv4Addr,
    /// The DNS servers that came with it.
    pub dns: Vec<IpAddr>,
}

pub(in crate::kvp::network) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let paths = DIRECTORIES
        .iter()
        .flat_map(|place| files::in_directory(&root.join(place)));
    let leases = paths.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("dhclient") && name.contains(".lease")
    });
    let lease = leases
        .filter_map(|path| files::text(&path))
        .flat_map(|text| parse(&text))
        .rfind(|lease| lease.interface == interface.name && in_use(lease.address, interface))?;
    Some(ManagerState {
        dhcp: Some(true),
        dns: lease.dns,
    })
}

/// Parses the leases in a file, the newest last.
pub fn parse(text: &str) -> Vec<Lease> {
    let mut leases = Vec::new();
    // The fields of the current lease.
    let mut open = None;
    for line in text.lines() {
        let line = line.trim().trim_end_matches(';');
        if line == "lease {" {
            open = Some((None, None, Vec::new()));
        } else if line == "}" {
            if let Some((Some(interface), Some(address), dns)) = open.take() {
                leases.push(Lease {
                    interface,
                    address,
                    dns,
                });
            }
        } else if let Some((interface, address, dns)) = &mut open {
            if let Some(name) = line.strip_prefix("interface ") {
                *interface = Some(name.trim_matches('"').to_owned());
            } else if let Some(ip) = line.strip_prefix("fixed-address ") {
                *address = ip.parse().ok();
            } else if let Some(list) = line.strip_prefix("option domain-name-servers ") {
                *dns = servers(list);
            }
        }
    }
    leases
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::*;

    fn lease(interface: &str, address: &str, dns: &str) -> String {
        format!(
            "lease {{\n  interface \"{interface}\";\n  fixed-address {address};\n  \
             option subnet-mask 255.255.255.0;\n  option dhcp-lease-time 3600;\n  \
             option domain-name-servers {dns};\n  option domain-name \"example; }}\";\n  \
             renew 2 2026/11/17 10:00:00;\n  expire 2 2026/11/17 11:00:00;\n}}\n"
        )
    }

    #[test]
    fn the_newest_lease_in_use_counts() {
        let text = [
            "default-duid \"\\000\\001\";\n".to_owned(),
            lease("eth0", "10.0.0.7", "10.0.0.1"),
            lease("eth0", "10.0.0.7", "10.0.0.2,10.0.0.3"),
            lease("eth0", "10.0.0.99", "10.0.0.4"),
            lease("eth1", "10.0.0.7", "10.0.0.5"),
        ]
        .concat();
        assert_eq!(parse(&text).len(), 4);
        for path in [
            "var/lib/dhcp/dhclient.eth0.leases",
            "var/lib/dhcp/dhclient.leases",
            "var/lib/dhclient/dhclient-eth0.leases",
            "var/lib/NetworkManager/dhclient-c0ffee00-eth0.lease",
        ] {
            let root = root(&[(path, &text)]);
            let found = read(root.path(), &eth0(&["192.0.2.1", "10.0.0.7"])).unwrap();
            assert_eq!(found.dhcp, Some(true), "{path}");
            assert_eq!(found.dns, ips(&["10.0.0.2", "10.0.0.3"]));
            // The interface no longer has the address.
            assert_eq!(read(root.path(), &eth0(&["192.0.2.1"])), None);
        }
    }

    #[test]
    fn an_incomplete_lease_is_ignored() {
        let six = lease("eth0", "10.0.0.7", "10.0.0.1").replace("lease {", "lease6 {");
        assert!(parse(&six).is_empty());
        assert!(parse("lease {\n  fixed-address 10.0.0.7;\n}\n").is_empty());
        assert!(parse("lease {\n  interface \"eth0\";\n  fixed-address 10.0.0.7;\n").is_empty());
        assert!(parse("}\n").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
