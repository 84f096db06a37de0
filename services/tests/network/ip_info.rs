//! The IP configuration of the kernel's interfaces, as the agent reports it.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use hyperv_services::kvp::interfaces::Interfaces;
use hyperv_services::kvp::network::{self, IpInfoError};
use hyperv_services::kvp::request::{Family, IpAddress, IpConfiguration, Origin};
use hyperv_services::kvp::{Config, Network};

use crate::namespace::{add, in_own_network, interface, ip};

const MAC: &str = "00:15:5D:0A:0B:0C";

/// A machine without any files, and its configuration.
fn machine() -> (tempfile::TempDir, Config) {
    let root = tempfile::tempdir().unwrap();
    let config = Config {
        environment: hyperv_services::Environment {
            root: root.path().to_owned(),
            ..hyperv_services::Environment::default()
        },
        ..Config::default()
    };
    (root, config)
}

fn log() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

#[track_caller]
fn get(config: &Config, family: Family) -> IpConfiguration {
    let interfaces = Interfaces::new(&config.environment.root);
    network::get(config, &interfaces, MAC, family, &log()).unwrap()
}

/// Returns each address with its prefix length.
fn addresses(configuration: &IpConfiguration) -> Vec<String> {
    let addresses = configuration.addresses.iter();
    addresses
        .map(|address| format!("{}/{}", address.ip, address.prefix))
        .collect()
}

fn ips<const N: usize>(ips: [&str; N]) -> Vec<IpAddr> {
    ips.map(|ip| ip.parse().unwrap()).into()
}

/// An interface of several addresses and gateways of both families.
fn add_eth0() {
    add("eth0", MAC);
    ip("address add 192.0.2.7/24 dev eth0");
    ip("address add 198.51.100.1/25 dev eth0");
    ip("address add 2001:db8::5/64 dev eth0 nodad");
    ip("address add fe80::5/64 dev eth0 nodad");
    ip("route add default via 192.0.2.1 dev eth0 metric 100");
    ip("route add default via 192.0.2.2 dev eth0 metric 200");
    ip("-6 route add default via 2001:db8::1 dev eth0 metric 50");
}

#[test]
fn the_kernels_part_is_told() {
    if !in_own_network("ip_info::the_kernels_part_is_told") {
        return;
    }
    add_eth0();
    let (_root, config) = machine();
    let address = |ip: &str, prefix, origin| IpAddress {
        ip: ip.parse().unwrap(),
        prefix,
        origin,
    };
    let both = IpConfiguration {
        dhcp: false,
        addresses: vec![
            address("192.0.2.7", 24, Origin::Static),
            address("198.51.100.1", 25, Origin::Static),
            address("2001:db8::5", 64, Origin::Static),
            address("fe80::5", 64, Origin::Automatic),
        ],
        gateways: ips(["2001:db8::1", "192.0.2.1", "192.0.2.2"]),
        dns: vec![],
    };
    assert_eq!(get(&config, Family::BOTH), both);
    // A host that asks for no family in particular means both.
    assert_eq!(get(&config, Family(0)), both);

    let v4 = get(&config, Family::V4);
    assert_eq!(addresses(&v4), ["192.0.2.7/24", "198.51.100.1/25"]);
    assert_eq!(v4.gateways, ips(["192.0.2.1", "192.0.2.2"]));
    let v6 = get(&config, Family::V6);
    assert_eq!(addresses(&v6), ["2001:db8::5/64", "fe80::5/64"]);
    assert_eq!(v6.gateways, ips(["2001:db8::1"]));

    // The next request reports changes.
    ip("address del 192.0.2.7/24 dev eth0");
    let v4 = get(&config, Family::V4);
    assert_eq!(addresses(&v4), ["198.51.100.1/25"]);
}

#[test]
fn another_mac_is_no_interface() {
    if !in_own_network("ip_info::another_mac_is_no_interface") {
        return;
    }
    add_eth0();
    let (root, config) = machine();
    let interfaces = Interfaces::new(root.path());
    for adapter in ["00:15:5D:0A:0B:0D", "eth0", "", "00:00:00:00:00:00"] {
        let error = network::get(&config, &interfaces, adapter, Family::BOTH, &log()).unwrap_err();
        assert!(matches!(error, IpInfoError::NoInterface(name) if name == adapter));
    }
}

#[test]
fn what_is_part_of_another_is_not_meant() {
    if !in_own_network("ip_info::what_is_part_of_another_is_not_meant") {
        return;
    }
    // As a VF and its netvsc interface: one address, and one is part of the
    // other.
    add("enP1", MAC);
    ip(&format!("link add eth0 address {MAC} type bridge"));
    ip("link set enP1 master eth0");
    ip("link set eth0 up");
    ip("address add 192.0.2.7/24 dev eth0");
    let (_root, config) = machine();
    assert_eq!(addresses(&get(&config, Family::V4)), ["192.0.2.7/24"]);
    // An interface without an address is reported, too.
    ip("address del 192.0.2.7/24 dev eth0");
    assert!(get(&config, Family::V4).addresses.is_empty());
}

#[test]
fn the_bridge_of_an_adapter_answers_for_it() {
    if !in_own_network("ip_info::the_bridge_of_an_adapter_answers_for_it") {
        return;
    }
    add("eth0", MAC);
    ip("link add br0 address 02:00:00:00:00:01 type bridge");
    ip("link set br0 up addrgenmode none");
    ip("link set eth0 master br0");
    ip("address add 192.0.2.7/24 dev br0");
    ip("route add default via 192.0.2.1 dev br0");
    let (root, config) = machine();
    let states = root.path().join("run/systemd/resolve/netif");
    fs::create_dir_all(&states).unwrap();
    let state = states.join(interface("br0").index.to_string());
    fs::write(state, "SERVERS=192.0.2.53\n").unwrap();
    let info = get(&config, Family::V4);
    assert_eq!(addresses(&info), ["192.0.2.7/24"]);
    assert_eq!(info.gateways, ips(["192.0.2.1"]));
    assert_eq!(info.dns, ips(["192.0.2.53"]));
}

#[test]
fn unusable_addresses_are_not_told_and_deprecated_ones_come_last() {
    if !in_own_network("ip_info::unusable_addresses_are_not_told_and_deprecated_ones_come_last") {
        return;
    }
    ip(&format!(
        "link add eth0 address {MAC} type veth peer name peer"
    ));
    // Without a peer that is up, an address stays tentative.
    ip("link set eth0 up addrgenmode none");
    ip("address add 192.0.2.9/32 dev eth0");
    ip("address add 192.0.2.8/24 dev eth0 valid_lft 1000 preferred_lft 0");
    ip("address add 169.254.7.7/16 dev eth0");
    ip("address add 192.0.2.7/25 dev eth0");
    ip("address add 2001:db8::5/64 dev eth0");
    ip("address add 2001:db8::6/64 dev eth0 nodad");
    let (_root, config) = machine();
    let v4 = [
        "192.0.2.7/25",
        "192.0.2.9/32",
        "192.0.2.8/24",
        "169.254.7.7/16",
    ];
    assert_eq!(addresses(&get(&config, Family::V4)), v4);
    assert_eq!(addresses(&get(&config, Family::V6)), ["2001:db8::6/64"]);
}

#[test]
fn gateways_of_other_tables_are_told_where_the_main_one_has_none() {
    if !in_own_network("ip_info::gateways_of_other_tables_are_told_where_the_main_one_has_none") {
        return;
    }
    add_eth0();
    ip("route add default via 192.0.2.9 dev eth0 table 100");
    ip("-6 route add default via 2001:db8::9 dev eth0 table 100");
    let (_root, config) = machine();
    let told = || get(&config, Family::BOTH).gateways;
    assert_eq!(told(), ips(["2001:db8::1", "192.0.2.1", "192.0.2.2"]));
    ip("-6 route del default via 2001:db8::1 dev eth0");
    assert_eq!(told(), ips(["192.0.2.1", "192.0.2.2", "2001:db8::9"]));
    ip("route flush default");
    assert_eq!(told(), ips(["192.0.2.9", "2001:db8::9"]));
}

#[test]
fn an_address_with_an_end_is_leased() {
    if !in_own_network("ip_info::an_address_with_an_end_is_leased") {
        return;
    }
    add("eth0", MAC);
    ip("address add fd00::5/64 dev eth0 nodad valid_lft 1000 preferred_lft 1000");
    let (_root, config) = machine();
    assert!(!get(&config, Family::BOTH).dhcp);
    ip("address add 192.0.2.7/24 dev eth0 valid_lft 1000 preferred_lft 1000");
    let both = get(&config, Family::BOTH);
    assert!(both.dhcp);
    let origins = both.addresses.iter().map(|address| address.origin);
    assert!(
        origins
            .into_iter()
            .all(|origin| origin == Origin::Automatic)
    );
    // A further address was assigned by hand.
    ip("address add 198.51.100.1/25 dev eth0");
    let v4 = get(&config, Family::V4).addresses;
    let by_hand = v4.iter().find(|address| address.prefix == 25).unwrap();
    assert_eq!(by_hand.origin, Origin::Static);
    // It is about IPv4, for any requested family.
    assert!(get(&config, Family::V6).dhcp);
}

#[test]
fn the_managers_part_is_told() {
    if !in_own_network("ip_info::the_managers_part_is_told") {
        return;
    }
    add_eth0();
    let (root, config) = machine();
    let links = root.path().join("run/systemd/netif/links");
    fs::create_dir_all(&links).unwrap();
    let state = "NETWORK_FILE=/etc/systemd/network/eth0.network\nDNS=10.0.0.1 fd00::1\n";
    fs::write(links.join(interface("eth0").index.to_string()), state).unwrap();
    let units = root.path().join("etc/systemd/network");
    fs::create_dir_all(&units).unwrap();
    fs::write(units.join("eth0.network"), "[Network]\nDHCP=yes\n").unwrap();

    let info = get(&config, Family::V4);
    assert!(info.dhcp);
    assert_eq!(info.dns, ips(["10.0.0.1"]));
    assert_eq!(get(&config, Family::V6).dns, ips(["fd00::1"]));
    let both = ips(["10.0.0.1", "fd00::1"]);
    assert_eq!(get(&config, Family::BOTH).dns, both);
    // Some DHCP clients set no lifetime.
    assert_eq!(info.addresses[0].origin, Origin::Automatic);
}

#[test]
fn scripts_come_before_the_managers() {
    if !in_own_network("ip_info::scripts_come_before_the_managers") {
        return;
    }
    add_eth0();
    let (root, mut config) = machine();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/resolv.conf"), "nameserver 10.0.0.9\n").unwrap();
    let scripts = root.path().join("scripts");
    fs::create_dir(&scripts).unwrap();
    let script = scripts.join("hv_get_dhcp_info");
    fs::write(&script, "#!/bin/sh\n[ \"$1\" = eth0 ] && echo Enabled\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

    // They are there, but the configuration does not want them.
    assert!(!get(&config, Family::V4).dhcp);
    config.network = Network {
        scripts: Some(scripts),
        ..Network::default()
    };
    let info = get(&config, Family::V4);
    assert!(info.dhcp);
    // There is no script for this part.
    assert_eq!(info.dns, ips(["10.0.0.9"]));
}
