//! The kernel's answers over netlink.

use std::net::IpAddr;

use crate::namespace::{add, in_own_network, interface, ip};
use hyperv_services::kvp::interfaces;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn interfaces_are_what_ip_made_of_them() {
    if !in_own_network("interfaces::interfaces_are_what_ip_made_of_them") {
        return;
    }
    ip("link add eth0 address 00:15:5d:00:00:01 type veth peer name vb");
    ip("link add br7 type bridge");
    ip("link set vb master br7");
    ip("link set eth0 up");

    let names: Vec<_> = interfaces::list("/".as_ref())
        .unwrap()
        .into_iter()
        .map(|interface| interface.name)
        .collect();
    assert_eq!(names, ["lo", "vb", "eth0", "br7"]);

    let lo = interface("lo");
    assert!(lo.loopback && !lo.up);
    assert_eq!((lo.mac, lo.kind), (None, None));

    let eth0 = interface("eth0");
    assert_eq!(eth0.mac, Some([0, 0x15, 0x5d, 0, 0, 1]));
    assert!(eth0.up && !eth0.loopback);
    assert_eq!(eth0.kind.as_deref(), Some("veth"));
    assert_eq!(eth0.master, None);

    let bridge = interface("br7");
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    assert!(!bridge.up);
    assert_eq!(interface("vb").master, Some(bridge.index));
}

#[test]
fn addresses_come_in_the_kernels_order() {
    if !in_own_network("interfaces::addresses_come_in_the_kernels_order") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    ip("address add 192.0.2.7/24 dev eth0");
    ip("address add 198.51.100.1/25 dev eth0 valid_lft 1000 preferred_lft 1000");
    ip("address add 10.0.0.1 peer 10.0.0.2/32 dev eth0");
    ip("address add 2001:db8::5/64 dev eth0 nodad");
    ip("address add fd00::5/48 dev eth0 nodad valid_lft 1000 preferred_lft 1000");

    let mut found: Vec<_> = interface("eth0")
        .addresses
        .iter()
        .map(|address| (address.ip, address.prefix, address.dynamic))
        .collect();
    // The kernel keeps those of IPv6 the newest first.
    found[3..].sort();
    let expected = [
        (addr("192.0.2.7"), 24, false),
        (addr("198.51.100.1"), 25, true),
        (addr("10.0.0.1"), 32, false),
        (addr("2001:db8::5"), 64, false),
        (addr("fd00::5"), 48, true),
    ];
    assert_eq!(found, expected);

    ip("address del 192.0.2.7/24 dev eth0");
    assert!(
        interface("eth0")
            .addresses
            .iter()
            .all(|address| address.ip != addr("192.0.2.7"))
    );
}

#[test]
fn an_address_that_fails_its_check_is_tentative() {
    if !in_own_network("interfaces::an_address_that_fails_its_check_is_tentative") {
        return;
    }
    ip("link add eth0 type veth peer name peer");
    // Without a peer that is up, the check cannot begin.
    ip("link set eth0 up addrgenmode none");
    ip("address add 2001:db8::5/64 dev eth0");
    ip("address add 2001:db8::6/64 dev eth0 nodad");
    let mut found: Vec<_> = interface("eth0")
        .addresses
        .iter()
        .map(|address| (address.ip, address.tentative))
        .collect();
    found.sort();
    let expected = [(addr("2001:db8::5"), true), (addr("2001:db8::6"), false)];
    assert_eq!(found, expected);
}

#[test]
fn gateways_are_those_of_default_routes() {
    if !in_own_network("interfaces::gateways_are_those_of_default_routes") {
        return;
    }
    for (name, network) in [("eth0", "192.0.2"), ("eth1", "198.51.100")] {
        add(name, "00:15:5d:00:00:01");
        ip(&format!("address add {network}.7/24 dev {name}"));
    }
    ip("address add 2001:db8::5/64 dev eth0 nodad");
    ip("route add default via 192.0.2.2 dev eth0 metric 200");
    ip("route add default via 192.0.2.1 dev eth0 metric 100");
    ip("route add default metric 300 nexthop via 192.0.2.3 nexthop via 198.51.100.3");
    ip("route add default via inet6 fe80::9 dev eth1 metric 400");
    ip("-6 route add default via 2001:db8::1 dev eth0 metric 50");
    ip("route add 203.0.113.0/24 via 192.0.2.99 dev eth0");
    ip("route add default via 192.0.2.98 dev eth0 table 100");

    let eth0 = ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
    assert_eq!(interface("eth0").gateways, eth0.map(addr));
    let eth1 = ["198.51.100.3", "fe80::9"];
    assert_eq!(interface("eth1").gateways, eth1.map(addr));
    assert_eq!(interface("eth0").policy_gateways, [addr("192.0.2.98")]);
    assert!(interface("eth1").policy_gateways.is_empty());
    let lo = interface("lo");
    assert!(lo.gateways.is_empty() && !lo.default_route);
}

#[test]
fn a_default_route_needs_no_gateway() {
    if !in_own_network("interfaces::a_default_route_needs_no_gateway") {
        return;
    }
    for (name, network) in [("eth0", "192.0.2"), ("eth1", "198.51.100")] {
        add(name, "00:15:5d:00:00:01");
        ip(&format!("address add {network}.7/24 dev {name}"));
    }
    ip("route add default dev eth0 table 51820");
    ip("route add unreachable default metric 900");
    let eth0 = interface("eth0");
    assert!(eth0.default_route && eth0.gateways.is_empty() && eth0.policy_gateways.is_empty());
    assert!(!interface("eth1").default_route && !interface("lo").default_route);
}

#[test]
fn a_stacked_interface_has_the_one_below_it() {
    if !in_own_network("interfaces::a_stacked_interface_has_the_one_below_it") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    ip("link add link eth0 name macvlan0 type macvlan");
    let eth0 = interface("eth0");
    // One end of a veth pair is not below the other.
    assert_eq!(eth0.link, None);
    assert_eq!(interface("macvlan0").link, Some(eth0.index));
}

#[test]
fn an_address_after_its_preferred_lifetime_is_deprecated() {
    if !in_own_network("interfaces::an_address_after_its_preferred_lifetime_is_deprecated") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    ip("address add 192.0.2.7/24 dev eth0");
    ip("address add 192.0.2.8/24 dev eth0 valid_lft 1000 preferred_lft 0");
    let eth0 = interface("eth0");
    let found = eth0.addresses.iter().take(2);
    let found: Vec<_> = found.map(|address| address.deprecated).collect();
    assert_eq!(found, [false, true]);
}

#[test]
fn many_interfaces_come_in_many_parts() {
    if !in_own_network("interfaces::many_interfaces_come_in_many_parts") {
        return;
    }
    for number in 0..100 {
        ip(&format!(
            "link add many{number} type veth peer name more{number}"
        ));
    }
    assert_eq!(interfaces::list("/".as_ref()).unwrap().len(), 201);
}
