//! systemd-networkd.

use super::*;

#[test]
fn systemd_networkd() {
    test("networkd", "networkd::systemd_networkd", || {
        configurations(dns, Some(PROBLEM));
    });
}

pub(super) const OWN: &str = "/etc/systemd/network/05-hyperv-agent-eth0.network";

#[test]
fn what_is_on_an_interface_stays() {
    let name = "networkd::what_is_on_an_interface_stays";
    test("networkd-stacked", name, || {
        nothing_is_lost("mv10", dns, &[OWN]);

        // IPv6 alone is set, and IPv4 stays.
        let v6 = IpInfo {
            family: Family::V6,
            ..info("fd00::5", "/64", "fe80::1", "fd00::53")
        };
        set(&v6, LONG).unwrap();
        eventually(|| addresses() == ["10.0.0.5/24", "fd00::5/64"]);
        eventually(|| gateways("-6") == ["fe80::1"] && gateways("-4") == ["10.0.0.1"]);
        eventually(|| dns().contains("DNS=fd00::53 10.0.0.53"));

        // A rollback restores the file byte for byte.
        let previous = read(OWN);
        fs::write(PROBLEM.path, PROBLEM.text).unwrap();
        let both = info("10.0.0.6", "255.255.255.0", "10.0.0.1", "");
        set(&both, Duration::from_secs(20)).unwrap_err();
        assert_eq!(read(OWN), previous);
        fs::remove_file(PROBLEM.path).unwrap();
    });
}

#[test]
fn a_link_that_failed_is_configured() {
    let name = "networkd::a_link_that_failed_is_configured";
    test("networkd-failed", name, || {
        let lines = set(&info("10.0.0.5", "255.255.255.0", "10.0.0.1", ""), LONG).unwrap();
        eventually(|| addresses() == ["10.0.0.5/24"] && gateways("-4") == ["10.0.0.1"]);
        // Not every kernel has VLANs.
        let lost = "eth0: not kept of the previous configuration: \
                    10-eth0.network: [Network] VLAN=eth0.10";
        let made = fs::exists("/sys/class/net/eth0.10").unwrap();
        assert_eq!(lines.contains(lost), !made, "{lines}");
    });
}

/// It takes precedence over the agent's.
pub(super) const PROBLEM: Problem = Problem {
    path: "/etc/systemd/network/00-first.network",
    text: "[Match]\nName=eth0\n[Network]\nAddress=192.168.9.9/24\n",
    mode: 0o644,
    message: "eth0 did not get 10.0.0.5, 10.0.0.6, fd00::5, fd00::6; \
              /etc/systemd/network/00-first.network takes precedence over \
              05-hyperv-agent-eth0.network",
    address: "192.168.9.9/24",
};

/// The adapter is a port: its bridge has the addresses.
#[test]
fn a_bridge_of_the_adapter() {
    test(
        "networkd-bridge",
        "networkd::a_bridge_of_the_adapter",
        || {
            let bridge = |program: &[&str]| {
                let text = output("ip", &[program, &["dev", "br0"]].concat());
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            let one = info("10.0.0.5", "255.255.255.0", "10.0.0.1", "1.1.1.1");
            set(&one, LONG).unwrap();
            assert_got(&one);
            let route = bridge(&["-4", "route", "show", "default"]);
            assert_eq!(route[2], "10.0.0.1");
            // It is a bridge as before, and eth0 its port.
            assert_eq!(addresses(), [""; 0]);
            let port = output("ip", &["link", "show", "master", "br0"]);
            assert!(
                port.contains(": eth0@") && port.contains("state UP"),
                "{port}"
            );
            let own = read("/etc/systemd/network/05-hyperv-agent-br0.network");
            assert!(
                own.contains("Name=br0\n") && own.contains("MTUBytes=1400"),
                "{own}"
            );
            assert!(!own.contains("MACAddress="), "{own}");
            let addresses = bridge(&["-4", "-o", "address", "show"]);
            assert!(!addresses.contains(&"192.168.7.7/24".to_owned()));
        },
    );
}

/// Returns the state file of the link, which has its DNS servers.
pub(super) fn dns() -> String {
    let index = interfaces().unwrap()[0].index;
    fs::read_to_string(format!("/run/systemd/netif/links/{index}")).unwrap_or_default()
}
