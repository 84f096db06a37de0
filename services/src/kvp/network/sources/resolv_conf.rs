//! The DNS servers of the whole machine.

use std::net::IpAddr;
use std::path::Path;

use crate::kvp::files;
use crate::kvp::network::dns::server;

/// `/etc/resolv.conf`, and the files with the upstream servers if that one names a stub
/// resolver.
const FILES: [&str; 4] = [
    "etc/resolv.conf",
    "run/systemd/resolve/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/NetworkManager/resolv.conf",
];

/// Returns the servers of the first file that names one outside the machine.
pub(in crate::kvp::network) fn servers(root: &Path) -> Vec<IpAddr> {
    FILES
        .iter()
        .filter_map(|path| files::text(&root.join(path)))
        .map(|text| parse(&text))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

/// Parses the servers in a `resolv.conf`, without those on loopback addresses, which are
/// of no use to the host.
pub fn parse(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let keyword = words.next()?;
            (keyword == "nameserver").then(|| words.next())?
        })
        .filter_map(server)
        .filter(|ip| !ip.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::*;

    #[test]
    fn servers_are_parsed() {
        let text = "# nameserver 10.0.0.9\nsearch example\nnameserver\t10.0.0.1\n\
                    nameserver fe80::1%eth0 # router\nnameserver\nnameservers 10.0.0.8\n\
                    ; nameserver 10.0.0.7\nnameserver ::1\n  nameserver 10.0.0.2\n";
        assert_eq!(parse(text), ips(&["10.0.0.1", "fe80::1", "10.0.0.2"]));
    }

    #[test]
    fn a_stub_resolver_is_skipped() {
        let stub = ("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n");
        let manager = ("run/NetworkManager/resolv.conf", "nameserver 10.0.0.2\n");
        let resolved = ("run/systemd/resolve/resolv.conf", "nameserver 10.0.0.1\n");
        let both = root(&[stub, manager, resolved]);
        assert_eq!(servers(both.path()), ips(&["10.0.0.1"]));
        let one = root(&[stub, manager]);
        assert_eq!(servers(one.path()), ips(&["10.0.0.2"]));
        assert!(servers(root(&[stub]).path()).is_empty());
        assert!(servers(Path::new("/nowhere")).is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            prop_assert!(parse(&text).iter().all(|ip| !ip.is_loopback()));
        }
    }
}
