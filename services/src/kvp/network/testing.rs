//! Files of a machine for the tests of the managers.

use std::fs;
use std::net::IpAddr;

use super::settings::Settings;
use crate::kvp::interfaces::Interface;
use crate::kvp::interfaces::testing::{address, interface};
use crate::kvp::request::{Family, IpInfo};

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
        mac: Some([0x00, 0x15, 0x5d, 0x01, 0x02, 0x03]),
        addresses: addresses.iter().map(|ip| address(ip, 24)).collect(),
        ..interface(2, "eth0")
    }
}

pub(super) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Returns the settings with these lists of addresses, subnets, gateways and DNS servers.
pub(super) fn settings(family: Family, dhcp: bool, lists: [&str; 4]) -> Settings {
    let [addresses, subnets, gateways, dns] = lists.map(str::to_owned);
    let info = IpInfo {
        family,
        dhcp,
        addresses,
        subnets,
        gateways,
        dns,
        ..IpInfo::default()
    };
    Settings::parse(&info).unwrap()
}
