//! systemd-networkd.

use super::*;

#[test]
fn systemd_networkd() {
    test("networkd", "networkd::systemd_networkd", || {
        // It takes precedence over the agent's.
        let problem = Problem {
            path: "/etc/systemd/network/00-first.network",
            text: "[Match]\nName=eth0\n[Network]\nAddress=192.168.9.9/24\n",
            mode: 0o644,
            message: "eth0 did not get 10.0.0.5, 10.0.0.6, fd00::5, fd00::6;",
            address: "192.168.9.9/24",
        };
        configurations(dns, Some(problem));
    });
}

/// Returns the state file of the link, which has its DNS servers.
pub(super) fn dns() -> String {
    let index = interfaces().unwrap()[0].index;
    fs::read_to_string(format!("/run/systemd/netif/links/{index}")).unwrap_or_default()
}
