//! The addresses among the guest's facts.

use hyperv_services::kvp::Config;
use hyperv_services::kvp::facts::Facts;

use crate::namespace::{add, in_own_network, ip};

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

    let mut facts = Facts::new(&Config::default());
    let mut get = |key| facts.get(key).unwrap();
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
