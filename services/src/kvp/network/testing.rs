//! Files of a machine for the tests of the managers.

use std::fs;
use std::net::IpAddr;

use crate::kvp::interfaces::{Address, Interface};

/// Creates a directory with these files.
pub(super) fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// Returns interface 2, `eth0`, with these IPv4 addresses.
pub(super) fn eth0(addresses: &[&str]) -> Interface {
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

pub(super) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}
