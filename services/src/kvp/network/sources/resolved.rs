//! systemd-resolved: the DNS servers of one interface, which another manager set.

use std::path::Path;

use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::servers;
use crate::kvp::network::state::ManagerState;
use crate::kvp::{assignments, files};

pub(in crate::kvp::network) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let state = root.join(format!("run/systemd/resolve/netif/{}", interface.index));
    let list = assignments::last(&files::text(&state)?, "SERVERS")?;
    Some(ManagerState {
        dhcp: None,
        dns: servers(&list),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::*;

    #[test]
    fn the_servers_of_the_interface_are_read() {
        let state = "# This is private data. Do not parse.\nLLMNR=yes\n\
                     SERVERS=\"10.0.0.1 [fd00::1]:53#dns.example\"\nDOMAINS=example\n";
        let root = root(&[("run/systemd/resolve/netif/2", state)]);
        let settings = read(root.path(), &eth0(&[])).unwrap();
        assert_eq!(settings.dns, ips(&["10.0.0.1", "fd00::1"]));
        assert_eq!(settings.dhcp, None);
        let mut other = eth0(&[]);
        other.index = 3;
        assert_eq!(read(root.path(), &other), None);
    }
}
