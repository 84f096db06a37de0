//! dhcpcd: its leases, each the message of the server.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::state::{ManagerState, in_use};

/// Offset of `yiaddr`, the leased address.
const ADDRESS_AT: usize = 16;

/// Offset of the options, which follow a magic number.
const OPTIONS_AT: usize = 240;
const MAGIC: [u8; 4] = [0x63, 0x82, 0x53, 0x63];

const PAD: u8 = 0;
const DNS: u8 = 6;
const END: u8 = 255;

/// A lease of an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The DNS servers that came with it.
    pub dns: Vec<IpAddr>,
}

pub(in crate::kvp::network) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let name = &interface.name;
    let paths = [
        format!("var/lib/dhcpcd/{name}.lease"),
        format!("var/lib/dhcpcd5/{name}.lease"),
        format!("var/lib/dhcpcd/dhcpcd-{name}.lease"),
        format!("var/lib/dhcpcd5/dhcpcd-{name}.lease"),
    ];
    let lease = paths
        .iter()
        .filter_map(|path| parse(&files::bytes(&root.join(path))?))
        .find(|lease| in_use(lease.address, interface))?;
    Some(ManagerState {
        dhcp: Some(true),
        dns: lease.dns,
    })
}

/// Parses a message of a DHCP server (RFC 2131, RFC 2132); returns `None` if it is
/// invalid.
pub fn parse(message: &[u8]) -> Option<Lease> {
    let (fixed, mut options) = message.split_at_checked(OPTIONS_AT)?;
    if !fixed.ends_with(&MAGIC) {
        return None;
    }
    let address: &[u8; 4] = fixed.get(ADDRESS_AT..)?.first_chunk()?;
    let mut dns = Vec::new();
    while let Some((&code, rest)) = options.split_first() {
        options = rest;
        match code {
            PAD => continue,
            END => break,
            _ => {}
        }
        let Some((&len, rest)) = options.split_first() else {
            break;
        };
        let Some((value, rest)) = rest.split_at_checked(len.into()) else {
            break;
        };
        options = rest;
        if code == DNS {
            let servers = value.chunks_exact(4);
            let servers = servers.filter_map(|octets| <[u8; 4]>::try_from(octets).ok());
            dns.extend(servers.map(IpAddr::from));
        }
    }
    Some(Lease {
        address: Ipv4Addr::from(*address),
        dns,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut message = vec![2, 1, 6, 0];
        message.resize(ADDRESS_AT, 0);
        message.extend([10, 0, 0, 7]);
        message.resize(OPTIONS_AT - MAGIC.len(), 0);
        message.extend(MAGIC);
        message.extend(options);
        message
    }

    #[test]
    fn a_lease_is_parsed() {
        let options = [
            53, 1, 5, PAD, DNS, 8, 10, 0, 0, 1, 10, 0, 0, 2, END, DNS, 4, 1, 1, 1, 1,
        ];
        let lease = parse(&message(&options)).unwrap();
        assert_eq!(lease.address, Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(lease.dns, ips(&["10.0.0.1", "10.0.0.2"]));
    }

    #[test]
    fn a_truncated_lease_is_parsed_as_far_as_it_goes() {
        for options in [&[DNS][..], &[DNS, 8, 10, 0], &[DNS, 3, 10, 0, 0], &[]] {
            assert!(parse(&message(options)).unwrap().dns.is_empty());
        }
        let whole = message(&[]);
        assert_eq!(parse(&whole[..OPTIONS_AT - 1]), None);
        assert_eq!(parse(&[0; 300]), None);
    }

    #[test]
    fn only_a_lease_in_use_counts() {
        for path in [
            "var/lib/dhcpcd/eth0.lease",
            "var/lib/dhcpcd5/dhcpcd-eth0.lease",
        ] {
            let root = root(&[(path, "")]);
            let bytes = message(&[DNS, 4, 10, 0, 0, 1, END]);
            fs::write(root.path().join(path), bytes).unwrap();
            let found = read(root.path(), &eth0(&["10.0.0.7"])).unwrap();
            assert_eq!(found.dhcp, Some(true), "{path}");
            assert_eq!(found.dns, ips(&["10.0.0.1"]));
            assert_eq!(read(root.path(), &eth0(&["10.0.0.8"])), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, options: Vec<u8>) {
            let _ = parse(&bytes);
            prop_assert!(parse(&message(&options)).is_some());
        }
    }
}
