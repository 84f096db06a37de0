//! NetworkManager.

use super::*;

const PROFILE: &str = "/etc/NetworkManager/system-connections/wired.nmconnection";

#[test]
fn networkmanager() {
    test("networkmanager", "networkmanager::networkmanager", || {
        configurations(dns, None);
    });
}

/// Returns the DNS servers of the device.
pub(super) fn dns() -> String {
    output(
        "nmcli",
        &["--get-values", "IP4.DNS,IP6.DNS", "device", "show", "eth0"],
    )
    .replace('\\', "")
}

fn of(family: Family, info: IpInfo) -> IpInfo {
    IpInfo { family, ..info }
}

fn ip(args: &[&str]) -> String {
    output("ip", args)
}

/// Waits until the interface has these addresses, and all else of its profile and the devices on
/// top of it.
fn all_but_the_addresses(expected: &[&str]) {
    eventually(|| addresses() == expected);
    eventually(|| {
        let has = |args: &[&str], text: &str| ip(args).contains(text);
        let search = output("nmcli", &["-g", "IP4.SEARCHES", "device", "show", "eth0"]);
        let search = search
            + &output(
                "nmcli",
                &["-g", "ipv4.dns-search", "connection", "show", "wired"],
            );
        has(&["link", "show", "eth0"], "mtu 1400")
            && has(
                &["route", "show", "dev", "eth0"],
                "10.50.0.0/16 via 192.168.7.1",
            )
            && has(&["address", "show", "dev", "macvlan10"], "172.16.10.5/24")
            && has(&["address", "show", "dev", "vxlan20"], "172.16.20.5/24")
            && has(&["-d", "link", "show", "vxlan20"], "dev eth0")
            && search.contains("corp.example")
    });
    let text = fs::read_to_string(PROFILE).unwrap();
    assert!(text.contains("# of the administrator\n"), "{text}");
    let mode = fs::metadata(PROFILE).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Sets the configuration, for which the host does not wait long enough.
fn set_too_late(info: &IpInfo) {
    let kernel = Kernel {
        interface_by_device: &|_| Some("eth0".to_owned()),
        interfaces: &|| interfaces::list("/".as_ref()),
    };
    let log = Logger::root(slog::Discard, o!());
    let end = Instant::now() + LONG;
    let late = set_with(&kernel, &config(), info, end, &|| false, &log).unwrap_err();
    assert!(late.is_late(), "{late}");
}

#[test]
fn all_else_of_a_profile_stays() {
    let name = "networkmanager::all_else_of_a_profile_stays";
    test("networkmanager-stacked", name, || {
        let v4 = of(Family::V4, info("10.0.0.5", "/24", "10.0.0.1", "1.1.1.1"));
        let before = ["192.168.7.7/24", "fd07::7/64"];
        all_but_the_addresses(&before);
        let read = || fs::read_to_string(PROFILE).unwrap();
        let first = read();
        set_too_late(&v4);
        assert_eq!(read(), first);
        all_but_the_addresses(&before);

        let log = set(&v4, LONG).unwrap();
        assert!(log.contains(PROFILE), "{log}");
        assert!(!log.contains("not kept"), "{log}");
        let after = ["10.0.0.5/24", "fd07::7/64"];
        all_but_the_addresses(&after);
        let second = read();
        reboot();
        all_but_the_addresses(&after);
        assert_eq!(gateways("-4"), ["10.0.0.1"]);
        eventually(|| dns().contains("1.1.1.1") && !dns().contains("9.9.9.9"));
        set(&v4, LONG).unwrap();
        all_but_the_addresses(&after);
        assert_eq!(read(), second);

        let v6 = of(Family::V6, info("fd00::5", "/64", "", ""));
        set(&v6, LONG).unwrap();
        all_but_the_addresses(&["10.0.0.5/24", "fd00::5/64"]);
        assert_eq!(gateways("-4"), ["10.0.0.1"]);
    });
}

/// NetworkManager has a profile only as long as it runs: the agent's own replaces it.
#[test]
fn a_profile_that_is_not_saved_is_copied() {
    let name = "networkmanager::a_profile_that_is_not_saved_is_copied";
    test("networkmanager-stacked", name, || {
        let nmcli = |line: &str| output("nmcli", &line.split(' ').collect::<Vec<_>>());
        nmcli("connection delete wired");
        nmcli(
            "connection add save no type ethernet ifname eth0 con-name memory mtu 1400 \
             ipv4.method manual ipv4.addresses 192.168.7.8/24",
        );
        nmcli("connection up memory");
        let uuid = nmcli("-g connection.uuid connection show memory");
        let modify = format!("connection modify macvlan macvlan.parent {}", uuid.trim());
        nmcli(&modify);
        eventually(|| addresses() == ["192.168.7.8/24"]);
        let log = set(&info("10.0.0.5", "/24", "10.0.0.1", ""), LONG).unwrap();
        let lost = format!(
            "WARNING eth0: not kept of the previous configuration: macvlan10: parent={}",
            uuid.trim()
        );
        assert!(log.ends_with(&lost), "{log}");
        for _ in 0..2 {
            eventually(|| addresses() == ["10.0.0.5/24"]);
            eventually(|| ip(&["link", "show", "eth0"]).contains("mtu 1400"));
            reboot();
        }
    });
}

/// Plugs the cable in or out.
fn cable(state: &str) {
    let other = env::var("OTHER").unwrap();
    let set = ["ip", "link", "set", "host0", state];
    output(
        "nsenter",
        &[&["--net", "--target", &other, "--"], &set[..]].concat(),
    );
    let carrier = if state == "up" { "1" } else { "0" };
    eventually(|| {
        fs::read_to_string("/sys/class/net/eth0/carrier")
            .unwrap()
            .trim()
            == carrier
    });
}

fn without_a_cable(unplugged: impl Fn()) {
    let fixed = info("10.0.0.5", "/24", "10.0.0.1", "1.1.1.1");
    let dhcp = IpInfo {
        dhcp: true,
        ..info("", "", "", "")
    };
    for (info, expected) in [(&fixed, "10.0.0.5/24"), (&dhcp, "10.0.0.100/24")] {
        cable("down");
        unplugged();
        let log = set(info, LONG).unwrap();
        assert!(log.contains("when the interface has a carrier"), "{log}");
        cable("up");
        eventually(|| addresses() == [expected]);
    }
}

#[test]
fn the_configuration_is_in_force_when_the_cable_is_back() {
    let name = "networkmanager::the_configuration_is_in_force_when_the_cable_is_back";
    test("networkmanager", name, || {
        // Soon after, NetworkManager still waits for the carrier; later, it has given up.
        without_a_cable(|| ());
        without_a_cable(|| {
            eventually(|| {
                let state = ["-g", "GENERAL.STATE", "device", "show", "eth0"];
                output("nmcli", &state).contains("unavailable")
            });
        });
        let text = "[main]\nignore-carrier=*\n";
        fs::write("/etc/NetworkManager/conf.d/ignore-carrier.conf", text).unwrap();
        output("nmcli", &["general", "reload"]);
        without_a_cable(|| ());
    });
}

#[test]
fn a_lease_that_is_waited_for_is_dhcp() {
    let name = "networkmanager::a_lease_that_is_waited_for_is_dhcp";
    test("networkmanager", name, || {
        let stop = "kill $(cat /tmp/udhcpd.pid)";
        output("sh", &["-c", stop]);
        let dhcp = IpInfo {
            dhcp: true,
            ..info("", "", "", "")
        };
        let log = set(&dhcp, LONG).unwrap();
        assert!(log.contains("IPv4 by DHCP"), "{log}");
        eventually(|| {
            let state = ["-g", "GENERAL.STATE", "device", "show", "eth0"];
            output("nmcli", &state).contains("getting IP configuration")
        });
        assert_got(&dhcp);
    });
}
