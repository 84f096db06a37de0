//! The addresses among the guest's facts.

use std::fs;
use std::sync::Arc;

use hyperv_services::kvp::Config;
use hyperv_services::kvp::facts::Facts;
use hyperv_services::kvp::interfaces::Interfaces;

use crate::namespace::{add, in_own_network, ip};

fn new(config: &Config) -> Facts {
    let root = &config.environment.root;
    Facts::new(config, Arc::new(Interfaces::new(root)))
}

#[test]
fn addresses_are_those_of_the_moment() {
    if !in_own_network("facts::addresses_are_those_of_the_moment") {
        return;
    }
    ip("link set lo up");
    ip("link add br0 type bridge");
    ip("link set br0 up addrgenmode none");
    ip("address add 10.1.0.1/24 dev br0");
    ip("link add docker0 type bridge");
    ip("address add 172.17.0.1/16 dev docker0");
    add("eth0", "00:15:5d:00:00:01");
    ip("address add 169.254.7.7/16 dev eth0");
    ip("address add 192.0.2.7/24 dev eth0");
    ip("address add fe80::7/64 dev eth0 nodad");
    ip("address add 2001:db8::7/64 dev eth0 nodad");
    ip("route add default via 192.0.2.1 dev eth0");

    let facts = new(&Config::default());
    let get = |key| facts.get(key).unwrap();
    let v4 = "192.0.2.7;10.1.0.1;169.254.7.7";
    assert_eq!(get("NetworkAddressIPv4"), v4);
    assert_eq!(get("NetworkAddressIPv6"), "2001:db8::7;fe80::7");

    ip("address add 192.0.2.8/24 dev eth0");
    let v4 = "192.0.2.7;192.0.2.8;10.1.0.1;169.254.7.7";
    assert_eq!(get("NetworkAddressIPv4"), v4);
    ip("link del eth0");
    assert_eq!(get("NetworkAddressIPv4"), "10.1.0.1");
    assert_eq!(get("NetworkAddressIPv6"), "");
}

#[test]
fn a_bridge_of_an_adapter_has_the_machines_address() {
    if !in_own_network("facts::a_bridge_of_an_adapter_has_the_machines_address") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    for (name, address) in [
        ("br-lan", "192.0.2.7/24"),
        ("br-ex", "198.51.100.7/24"),
        ("br-0123", "172.18.0.1/16"),
    ] {
        ip(&format!("link add {name} type bridge"));
        ip(&format!("link set {name} up addrgenmode none"));
        ip(&format!("address add {address} dev {name}"));
    }
    ip("link set eth0 master br-lan");
    ip("route add default via 198.51.100.1 dev br-ex table 100");

    let root = tempfile::tempdir().unwrap();
    let device = root.path().join("sys/class/net/eth0/device");
    fs::create_dir_all(&device).unwrap();
    let id = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}\n";
    fs::write(device.join("device_id"), id).unwrap();
    let config = Config {
        environment: hyperv_services::Environment {
            root: root.path().to_owned(),
            ..hyperv_services::Environment::default()
        },
        ..Config::default()
    };
    let facts = new(&config);
    let get = |key| facts.get(key).unwrap();
    assert_eq!(get("NetworkAddressIPv4"), "192.0.2.7;198.51.100.7");
    ip("link set eth0 nomaster");
    ip("route del default table 100");
    assert_eq!(get("NetworkAddressIPv4"), "");
}
