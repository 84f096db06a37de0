//! ifupdown, ifupdown-ng and BusyBox.

use super::*;

#[test]
fn ifupdown() {
    test("ifupdown", "ifupdown::ifupdown", || {
        configurations(dns, Some(problem()));
        further(problem());
    });
}

#[test]
fn busybox() {
    test("ifupdown-busybox", "ifupdown::busybox", || {
        configurations(dns, Some(problem()));
        further(problem());
    });
}

#[test]
fn ifupdown_ng() {
    test("ifupdown-ng", "ifupdown::ifupdown_ng", || {
        // It ignores the status of scripts.
        let problem = || Problem {
            text: "#!/bin/sh\ncase $IF_ADDRESSES in\n*10.0.0.5*) ip address flush dev eth0 ;;\nesac\n",
            message: "eth0 did not get 10.0.0.5",
            ..problem()
        };
        configurations(dns, Some(problem()));
        further(problem());
    });
}

/// An `auto` with a pattern gives the interface the stanza of another name.
#[test]
fn a_name_by_pattern() {
    test("ifupdown-pattern", "ifupdown::a_name_by_pattern", || {
        let problem = problem();
        install(&problem);
        let fixed = info("10.0.0.5", "255.255.255.0", "10.0.0.1", "10.0.0.53");
        let error = set(&fixed, LONG).unwrap_err();
        assert!(matches!(error, InjectError::RolledBack { .. }), "{error}");
        assert_eq!(addresses(), ["192.168.7.7/24"]);
        assert!(ifstate().contains("eth0=lan\n"), "{}", ifstate());
        fs::remove_file(problem.path).unwrap();

        for _ in 0..2 {
            set(&fixed, LONG).unwrap();
            assert_got(&fixed);
            reboot();
            assert_eq!(addresses(), ["10.0.0.5/24"]);
            assert_eq!(gateways("-4"), ["10.0.0.1"]);
            assert!(
                ifstate().contains("eth0=hyperv-agent-eth0\n"),
                "{}",
                ifstate()
            );
        }
    });
}

/// Another adapter has the default route: it keeps it, and its DNS server.
#[test]
fn a_second_adapter() {
    test("ifupdown-two", "ifupdown::a_second_adapter", || {
        let second = info(
            "10.0.0.5;fd00::5",
            "/24;/64",
            "10.0.0.1;fd00::1",
            "10.0.0.53",
        );
        let check = || {
            assert_eq!(addresses(), ["10.0.0.5/24", "fd00::5/64"]);
            for (family, first, second) in [
                ("-4", "via 172.16.0.1 dev eth1", "via 10.0.0.1 dev eth0"),
                ("-6", "via fd16::1 dev eth1", "via fd00::1 dev eth0"),
            ] {
                let routes = output("ip", &[family, "route", "show", "default"]);
                let lines: Vec<&str> = routes.lines().collect();
                assert_eq!(lines.len(), 2, "{routes}");
                assert!(
                    lines[0].contains(first) && lines[1].contains(second),
                    "{routes}"
                );
            }
            assert_eq!(dns(), "nameserver 9.9.9.9\nnameserver 10.0.0.53\n");
        };
        for _ in 0..2 {
            set(&second, LONG).unwrap();
            check();
            reboot();
            check();
        }
        // In the other order.
        output("ifdown", &["--force", "eth1"]);
        output("ifup", &["eth1"]);
        check();
    });
}

/// All that is not the address configuration stays, and so does what is above the interface.
#[test]
fn nothing_of_the_interface_is_lost() {
    test(
        "ifupdown-stacked",
        "ifupdown::nothing_of_the_interface_is_lost",
        || {
            let check = |address: &str| {
                eventually(|| addresses() == [address, "fd07::7/64"]);
                let above = output("ip", &["-o", "address", "show", "dev", "above"]);
                assert!(
                    above.contains("10.60.0.1/24") && above.contains("fd60::1/64"),
                    "{above}"
                );
                let routes = output("ip", &["route"]);
                let route = "10.50.0.0/16 via 192.168.7.254 dev eth0";
                assert!(routes.contains(route), "{routes}");
                assert!(
                    routes.contains("10.61.0.0/16 via 10.60.0.9 dev above"),
                    "{routes}"
                );
                let mtu = fs::read_to_string("/sys/class/net/eth0/mtu").unwrap();
                assert_eq!(mtu.trim(), "1400");
                let search = fs::read_to_string("/tmp/search").unwrap_or_default();
                assert_eq!(search, "example.org\n");
            };
            check("192.168.7.7/24");
            let v4 = IpInfo {
                family: Family::V4,
                ..info("10.0.0.5", "255.255.255.0", "10.0.0.1", "10.0.0.53")
            };
            for first in [true, false] {
                // A VLAN would go down with the interface, and lose its routes.
                let ups = || fs::read_to_string("/tmp/above").unwrap().lines().count();
                let before = ups();
                let lines = set(&v4, LONG).unwrap();
                let lost = "not kept of the previous configuration: iface eth0: up ip address add";
                assert_eq!(lines.contains(lost), first, "{lines}");
                assert_eq!(ups(), before + 1);
                check("10.0.0.5/24");
                fs::remove_file("/tmp/search").unwrap();
                reboot();
                check("10.0.0.5/24");
            }

            let v6 = IpInfo {
                family: Family::V6,
                ..info("fd00::5", "/64", "", "")
            };
            set(&v6, LONG).unwrap();
            assert_eq!(addresses(), ["10.0.0.5/24", "fd00::5/64"]);
            assert_eq!(gateways("-4"), ["10.0.0.1"]);
            reboot();
            assert_eq!(addresses(), ["10.0.0.5/24", "fd00::5/64"]);
        },
    );
}

fn dns() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

fn ifstate() -> String {
    fs::read_to_string("/run/network/ifstate").unwrap()
}

fn problem() -> Problem {
    Problem {
        path: "/etc/network/if-up.d/problem",
        text: "#!/bin/sh\ncase $IF_ADDRESS in 10.0.0.5*) echo problem >&2; exit 1 ;; esac\n",
        mode: 0o755,
        message: "problem",
        address: "10.0.0.7/24",
    }
}

fn install(problem: &Problem) {
    fs::write(problem.path, problem.text).unwrap();
    fs::set_permissions(problem.path, fs::Permissions::from_mode(problem.mode)).unwrap();
}

/// After `configurations`, which leave 10.0.0.7 and two gateways.
fn further(problem: Problem) {
    // One that fails changes no byte.
    let files = || {
        output(
            "sh",
            &["-c", "cd /etc; grep -r . network/interfaces* resolv.conf"],
        )
    };
    let before = files();
    assert!(before.contains("10.0.0.7"), "{before}");
    install(&problem);
    let fixed = info("10.0.0.5", "255.255.255.0", "10.0.0.1", "10.0.0.53");
    set(&fixed, Duration::from_secs(20)).unwrap_err();
    assert_eq!(files(), before);
    eventually(|| addresses() == ["10.0.0.7/24"]);
    fs::remove_file(problem.path).unwrap();

    // A host sends what it has read, with link-local addresses and those of routers.
    let got = || {
        let log = Logger::root(slog::Discard, o!());
        let got = network::get(
            &config(),
            &Interfaces::new("/".as_ref()),
            "00:15:5D:01:02:03",
            Family::BOTH,
            &log,
        )
        .unwrap();
        text_ip::lists(&got)
    };
    eventually(|| got().addresses.contains("fe80:") && got().addresses.contains("fd99:"));
    let told = IpInfo {
        adapter: fixed.adapter,
        ..got()
    };
    set(&told, LONG).unwrap();
    assert_got(&told);
    reboot();
    assert_got(&told);
    assert_eq!(addresses(), ["10.0.0.7/24"]);
}

/// Does what a boot does.
fn reboot() {
    output("ifdown", &["-a", "-f"]);
    for interface in ["eth0", "eth1"] {
        output("ip", &["address", "flush", "dev", interface]);
    }
    let _ = fs::remove_file("/run/network/ifstate");
    let _ = fs::remove_file("/run/ifstate");
    output("ifup", &["-a"]);
}
