//! Netplan, with both renderers.

use super::*;
use crate::kvp::network::netplan::keep::Kept;
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

#[test]
fn what_is_on_an_interface_stays() {
    let name = "netplan::what_is_on_an_interface_stays";
    test("netplan-stacked", name, || {
        nothing_is_lost("vx10", networkd::dns, &[networkd::OWN]);
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
    fs::write(file, write::render(&target, &settings, &Kept::default())).unwrap();
    let path = root.path().to_str().unwrap();
    output("netplan", &["generate", "--root-dir", path]);
    let made = "NetworkManager/system-connections/netplan-0-hyperv-agent-eth0.nmconnection";
    let text = fs::read_to_string(root.path().join("run").join(made)).unwrap();
    assert!(
        text.contains("00:15:5d:01:02:03") && text.contains("eth0"),
        "{text}"
    );
}

#[test]
fn all_else_of_a_definition_stays_with_networkmanager() {
    let name = "netplan::all_else_of_a_definition_stays_with_networkmanager";
    test("netplan-networkmanager-stacked", name, || {
        let all_else = |expected: &[&str]| {
            eventually(|| addresses() == expected);
            eventually(|| {
                let has = |args: &[&str], text: &str| output("ip", args).contains(text);
                has(&["link", "show", "eth0"], "mtu 1400")
                    && has(&["route", "show", "dev", "eth0"], "10.50.0.0/16 via")
                    && has(&["address", "show", "dev", "vxlan20"], "172.16.20.5/24")
                    && has(&["-d", "link", "show", "vxlan20"], "dev eth0")
            });
            let name = "netplan-0-hyperv-agent-eth0";
            let search = ["-g", "ipv4.dns-search", "connection", "show", name];
            eventually(|| output("nmcli", &search).trim() == "corp.example");
        };
        let v4 = IpInfo {
            family: Family::V4,
            ..info("10.0.0.5", "/24", "10.0.0.1", "1.1.1.1")
        };
        let after = ["10.0.0.5/24", "fd07::7/64"];
        for _ in 0..2 {
            let log = set(&v4, LONG).unwrap();
            assert!(!log.contains("not kept"), "{log}");
            all_else(&after);
            reboot();
            all_else(&after);
        }
        eventually(|| gateways("-4") == ["10.0.0.1"]);
        eventually(|| {
            let dns = networkmanager::dns();
            dns.contains("1.1.1.1") && !dns.contains("9.9.9.9")
        });
    });
}
