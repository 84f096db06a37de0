//! The scripts of `packaging/examples/network`, with the network managers that Debian has too.

use super::*;

#[test]
fn nixos() {
    test("script-nixos", "script::nixos", || {
        configurations(networkd::dns, None);
        // At a boot nothing is in /run.
        let unit = "/run/systemd/network/05-hyperv-agent-eth0.network";
        let text = fs::read_to_string(unit).unwrap();
        fs::remove_file(unit).unwrap();
        output(SCRIPT, &["boot", "/var/lib/hyperv-agent/ip/eth0"]);
        assert_eq!(fs::read_to_string(unit).unwrap(), text);
    });
}

#[test]
fn void() {
    test("script-void", "script::void", || {
        let before = fs::read_to_string(CONF).unwrap();
        let one = info(
            "10.0.0.5;fd00::5",
            "255.255.255.0;/64",
            "10.0.0.1",
            "1.1.1.1",
        );
        set(&one, LONG).unwrap();
        assert_got(&one);
        assert_eq!(addresses(), ["10.0.0.5/24", "fd00::5/64"]);
        eventually(|| gateways("-4") == ["10.0.0.1"]);
        let text = fs::read_to_string(CONF).unwrap();
        assert!(
            text.starts_with("noarp\ninterface eth0\n#hyperv-agent eth0: static"),
            "{text}"
        );

        // dhcpcd has no second static address: nothing changes.
        let two = info("10.0.0.6;10.0.0.7", "255.255.255.0;255.255.255.0", "", "");
        let error = set(&two, LONG).unwrap_err();
        let words = crate::error_chain::display_chain(&error);
        assert!(words.contains("one IPv4 address, not 2"), "{words}");
        assert_eq!(fs::read_to_string(CONF).unwrap(), text);
        eventually(|| addresses() == ["10.0.0.5/24", "fd00::5/64"]);

        let dhcp = IpInfo {
            dhcp: true,
            ..info("", "", "", "")
        };
        set(&dhcp, LONG).unwrap();
        eventually(|| addresses() == ["10.0.0.100/24"]);

        // Without a file the script restores what was there before the first.
        let file = "/var/lib/hyperv-agent/ip/eth0";
        fs::remove_file(file).unwrap();
        output(SCRIPT, &["revert", file]);
        assert_eq!(fs::read_to_string(CONF).unwrap(), before);
    });
}

const CONF: &str = "/etc/dhcpcd.conf";
const SCRIPT: &str = "/etc/hyperv-agent/network";
