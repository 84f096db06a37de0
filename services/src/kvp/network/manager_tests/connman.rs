//! ConnMan.

use super::*;

#[test]
fn connman() {
    test("connman", "connman::connman", || {
        let both = info(
            "10.0.0.5;fd00::5",
            "255.255.255.0;/64",
            "10.0.0.1;fe80::1",
            "1.1.1.1",
        );
        set(&both, LONG).unwrap();
        assert_got(&both);
        assert_eq!(addresses(), ["10.0.0.5/24", "fd00::5/64"]);
        eventually(|| gateways("-4") == ["10.0.0.1"] && gateways("-6") == ["fe80::1"]);
        let resolv_conf = || fs::read_to_string("/run/connman/resolv.conf").unwrap();
        eventually(|| resolv_conf().contains("1.1.1.1") && !resolv_conf().contains("9.9.9.9"));

        // IPv6 alone, and then IPv4 alone.
        let v6 = IpInfo {
            family: Family::V6,
            ..info("fd00::6", "/64", "", "")
        };
        set(&v6, LONG).unwrap();
        assert_eq!(addresses(), ["10.0.0.5/24", "fd00::6/64"]);
        eventually(|| gateways("-4") == ["10.0.0.1"]);
        let v4 = IpInfo {
            family: Family::V4,
            ..info("10.0.0.7", "255.255.255.0", "", "10.0.0.53")
        };
        set(&v4, LONG).unwrap();
        // ConnMan assigns the IPv6 address again.
        eventually(|| addresses() == ["10.0.0.7/24", "fd00::6/64"]);

        // An address that ConnMan does not take: back to the previous ones.
        let two = info("10.0.0.8;10.0.0.9", "255.255.255.0;255.255.255.0", "", "");
        let error = set(&two, LONG).unwrap_err().to_string();
        assert!(error.contains("one address of each family"), "{error}");
        assert_eq!(addresses(), ["10.0.0.7/24", "fd00::6/64"]);

        // The host no longer waits: rolled back.
        let kernel = Kernel {
            interface_by_device: &|_| Some("eth0".to_owned()),
            interfaces: &|| interfaces::list("/".as_ref()),
        };
        let log = Logger::root(slog::Discard, o!());
        let end = Instant::now() + LONG;
        set_with(&kernel, &config(), &both, end, &|| false, &log).unwrap_err();
        eventually(|| addresses() == ["10.0.0.7/24", "fd00::6/64"]);
        eventually(|| resolv_conf().contains("10.0.0.53") && !resolv_conf().contains("1.1.1.1"));

        let dhcp = IpInfo {
            dhcp: true,
            ..info("", "", "", "")
        };
        set(&dhcp, LONG).unwrap();
        eventually(|| addresses() == ["10.0.0.100/24"]);
        eventually(|| interfaces().unwrap()[0].addresses.iter().any(announced));
        set(&both, LONG).unwrap();
        assert_got(&both);

        output("/tmp/reboot", &[]);
        eventually(|| addresses() == ["10.0.0.5/24", "fd00::5/64"]);
        eventually(|| gateways("-4") == ["10.0.0.1"]);
        assert_got(&both);
    });
}
