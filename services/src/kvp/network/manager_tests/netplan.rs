//! Netplan, with both renderers.

use super::*;
use crate::kvp::network::netplan::write;

#[test]
fn netplan_with_networkd() {
    test("netplan", "netplan::netplan_with_networkd", || {
        configurations(networkd::dns, Some(networkd::PROBLEM));
    });
}

#[test]
fn netplan_with_networkmanager() {
    let name = "netplan::netplan_with_networkmanager";
    test("netplan-networkmanager", name, || {
        configurations(networkmanager::dns, Some(PROBLEM));
        takes_an_ethernet_address();
    });
}

const PROBLEM: Problem = Problem {
    path: "/etc/netplan/60-broken.yaml",
    text: "network: [",
    mode: 0o600,
    message: "/etc/netplan/60-broken.yaml",
    address: "10.0.0.7/24",
};

/// In the namespaces the interface has no permanent address.
fn takes_an_ethernet_address() {
    let target = Target {
        name: "eth0".to_owned(),
        mac: Some([0, 0x15, 0x5d, 1, 2, 3]),
        permanent: true,
        device: Guid::from_u128(1),
    };
    let settings = Settings::parse(&info("10.0.0.5", "/24", "", "")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("etc/netplan/90-hyperv-agent-eth0.yaml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, write::render(&target, &settings)).unwrap();
    let path = root.path().to_str().unwrap();
    output("netplan", &["generate", "--root-dir", path]);
    let made = "NetworkManager/system-connections/netplan-0-hyperv-agent-eth0.nmconnection";
    let text = fs::read_to_string(root.path().join("run").join(made)).unwrap();
    assert!(
        text.contains("00:15:5d:01:02:03") && text.contains("eth0"),
        "{text}"
    );
}
