//! Every network manager of Debian, in namespaces: afterwards the kernel has what the host set,
//! and nothing that other files gave the interface.
//!
//! A test runs itself again inside the namespaces, where `INSIDE` is set.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use slog::o;

use super::*;
use crate::kvp::interfaces::{Address, Interfaces, testing};
use crate::kvp::network;
use crate::kvp::request::Family;
use crate::kvp::test_log::Lines;
use crate::kvp::wire::text_ip;

mod connman;
mod ifupdown;
mod netplan;
mod networkd;
mod networkmanager;
mod script;

const LONG: Duration = Duration::from_secs(60);

/// Runs a test in the namespaces of `tests/inject/managers/MANAGER`. `name` is the test's, below
/// this module.
fn test(manager: &str, name: &str, inside: impl FnOnce()) {
    if env::var_os("INSIDE").is_some() {
        inside();
        return;
    }
    if let Err(why) = outside(manager, name) {
        hyperv_needs::skip(&why);
    }
}

/// Runs the test in namespaces, or returns why there are none.
fn outside(manager: &str, name: &str) -> Result<(), String> {
    hyperv_needs::namespaces(&["--mount", "--net"])?;
    let root = hyperv_needs::fetched("network-managers")?;
    let in_namespace = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inject/in-namespace");
    let output = Command::new(in_namespace)
        .args([&*root, manager])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg(format!("kvp::network::set::manager_tests::{name}"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    Ok(())
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Reads eth0 by `ip`.
fn interfaces() -> io::Result<Vec<Interface>> {
    let text = output(
        "ip",
        &["-o", "address", "show", "dev", "eth0", "scope", "global"],
    );
    let addresses = text.lines().map(|line| {
        let mut words = line.split_whitespace().skip(3);
        let (ip, prefix) = words.next().unwrap().split_once('/').unwrap();
        Address {
            dynamic: line.contains(" dynamic "),
            tentative: line.contains(" tentative "),
            ..testing::address(ip, prefix.parse().unwrap())
        }
    });
    let index = fs::read_to_string("/sys/class/net/eth0/ifindex")?;
    Ok(vec![Interface {
        addresses: addresses.collect(),
        ..testing::interface(index.trim().parse().unwrap(), "eth0")
    }])
}

/// Returns the usable addresses that no router announced.
fn addresses() -> Vec<String> {
    let interfaces = interfaces().unwrap();
    let addresses = &interfaces[0].addresses;
    let mut texts: Vec<_> = addresses
        .iter()
        .filter(|address| !announced(address) && !address.tentative)
        .map(|address| format!("{}/{}", address.ip, address.prefix))
        .collect();
    texts.sort();
    texts
}

/// Returns whether this is an address of SLAAC.
fn announced(address: &Address) -> bool {
    address.ip.to_string().starts_with("fd99:")
}

/// Returns the gateways of the default routes, in order.
fn gateways(family: &str) -> Vec<String> {
    let text = output("ip", &[family, "route", "show", "default", "dev", "eth0"]);
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    text.lines().map(|line| words(line)[2].clone()).collect()
}

fn config() -> Config {
    Config {
        directory: "/tmp/hyperv".into(),
        environment: crate::Environment {
            state_dir: "/tmp/state".into(),
            runtime_dir: "/tmp/runtime".into(),
            ..crate::Environment::default()
        },
        ..Config::default()
    }
}

/// Asserts that the host reads back what it set, except for link-local addresses and those that
/// routers announce.
#[track_caller]
fn assert_got(set: &IpInfo) {
    // The host is not told of addresses that are not usable yet.
    eventually(|| {
        let interfaces = interfaces().unwrap();
        !interfaces[0]
            .addresses
            .iter()
            .any(|address| address.tentative)
    });
    let log = Logger::root(slog::Discard, o!());
    let got = network::get(
        &config(),
        &Interfaces::new("/".as_ref()),
        "00:15:5D:01:02:03",
        Family::BOTH,
        &log,
    )
    .unwrap();
    let got = text_ip::lists(&got);
    let own = |text: &&str| !text.starts_with("fd99:") && !text.starts_with("fe80:");
    let pairs = |info: &IpInfo| {
        let subnets = info.subnets.split(';').map(str::to_owned);
        let pairs = info.addresses.split(';').zip(subnets);
        let own = pairs.filter(|(ip, _)| !ip.is_empty() && own(ip));
        let mut own: Vec<_> = own.map(|(ip, subnet)| format!("{ip} {subnet}")).collect();
        own.sort();
        own
    };
    let sorted = |list: &str| {
        let mut list: Vec<_> = list.split(';').map(str::to_owned).collect();
        list.sort();
        list
    };
    assert_eq!(pairs(&got), pairs(set), "{got:?}");
    assert_eq!(sorted(&got.gateways), sorted(&set.gateways), "{got:?}");
    assert_eq!(got.dhcp, set.dhcp, "{got:?}");
    assert_eq!(got.dns, set.dns, "{got:?}");
}

/// Sets the configuration, and returns the lines that are logged.
fn set(info: &IpInfo, time: Duration) -> Result<String, InjectError> {
    let kernel = Kernel {
        interface_by_device: &|_| Some("eth0".to_owned()),
        interfaces: &|| interfaces::list("/".as_ref()),
    };
    let config = config();
    let lines = Lines::default();
    let log = Logger::root(lines.clone(), o!());
    set_with(
        &kernel,
        &config,
        info,
        Instant::now() + time,
        &|| true,
        &log,
    )?;
    let lines = lines.0.lock().unwrap().join("\n");
    eprintln!("{lines}");
    Ok(lines)
}

fn info(addresses: &str, subnets: &str, gateways: &str, dns: &str) -> IpInfo {
    IpInfo {
        adapter: "f8615163-0000-1000-2000-00155d010203".to_owned(),
        family: Family::BOTH,
        dhcp: false,
        addresses: addresses.to_owned(),
        subnets: subnets.to_owned(),
        gateways: gateways.to_owned(),
        dns: dns.to_owned(),
    }
}

/// Sets several configurations, one of which fails if there is a `problem`. `dns` returns a text
/// with the DNS servers in effect.
fn configurations(dns: fn() -> String, problem: Option<Problem>) {
    let mixed = info(
        "10.0.0.5;10.0.0.6;fd00::5;fd00::6",
        "255.255.255.0;255.255.255.0;/64;/64",
        "10.0.0.1;fe80::1",
        "1.1.1.1;fd00::53",
    );
    let line = set(&mixed, LONG).unwrap();
    assert_got(&mixed);
    // The kernel takes its time to look for duplicates of an IPv6 address.
    assert!(!line.contains("not on the interface yet: 10."), "{line}");
    assert_eq!(
        addresses(),
        ["10.0.0.5/24", "10.0.0.6/24", "fd00::5/64", "fd00::6/64"]
    );
    eventually(|| gateways("-4") == ["10.0.0.1"] && gateways("-6") == ["fe80::1"]);
    eventually(|| {
        let dns = dns();
        dns.contains("1.1.1.1") && dns.contains("fd00::53") && !dns.contains("9.9.9.9")
    });

    eventually(|| interfaces().unwrap()[0].addresses.iter().any(announced));

    // Fewer addresses, and gateways in order of preference, one of them in no subnet.
    let other = info(
        "10.0.0.7",
        "255.255.255.0",
        "10.0.0.1;172.16.0.1",
        "10.0.0.53",
    );
    let line = set(&other, LONG).unwrap();
    assert_got(&other);
    assert!(!line.contains("not on the interface"), "{line}");
    assert_eq!(addresses(), ["10.0.0.7/24"]);
    eventually(|| gateways("-4") == ["10.0.0.1", "172.16.0.1"]);

    // The same again, after somebody removed the address.
    output("ip", &["address", "del", "10.0.0.7/24", "dev", "eth0"]);
    assert_eq!(addresses(), [""; 0]);
    set(&other, LONG).unwrap();
    assert_got(&other);
    assert_eq!(addresses(), ["10.0.0.7/24"]);

    // A file of the administrator makes it fail: it is rolled back.
    if let Some(Problem {
        path,
        text,
        mode,
        message,
        address,
    }) = problem
    {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let error = set(&mixed, Duration::from_secs(20)).unwrap_err();
        let words = crate::error_chain::display_chain(&error);
        assert!(words.contains(message), "{words}");
        eventually(|| addresses() == [address]);
        fs::remove_file(path).unwrap();
    }

    let dhcp = IpInfo {
        dhcp: true,
        ..info("fd00::8", "/64", "", "")
    };
    set(&dhcp, LONG).unwrap();
    eventually(|| addresses() == ["10.0.0.100/24", "fd00::8/64"]);
    eventually(|| gateways("-4") == ["10.0.0.1"]);
    eventually(|| interfaces().unwrap()[0].addresses.iter().any(announced));
    // The host is not told of addresses that may be duplicates.
    eventually(|| {
        let own = &interfaces().unwrap()[0].addresses;
        own.iter().all(|address| !address.tentative)
    });
    assert_got(&IpInfo {
        addresses: "10.0.0.100;fd00::8".to_owned(),
        subnets: "255.255.255.0;/64".to_owned(),
        gateways: "10.0.0.1".to_owned(),
        dns: "10.0.0.9".to_owned(),
        ..dhcp
    });

    // The lease is released.
    set(&other, LONG).unwrap();
    assert_got(&other);
    assert_eq!(addresses(), ["10.0.0.7/24"]);
}

/// A file that makes a configuration with 10.0.0.5 fail.
struct Problem {
    path: &'static str,
    text: &'static str,
    mode: u32,
    /// Part of the error message.
    message: &'static str,
    /// The address after the rollback.
    address: &'static str,
}

/// Stops the network manager, makes its devices go and starts it again, as `reboot` in
/// `tests/inject/managers` says.
fn reboot() {
    let output = Command::new("/tmp/reboot").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Returns what a file of the machine says.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Asserts that the machine keeps all that is on eth0 beside its IPv4 configuration: a device on
/// top, a static route, a search domain (if the manager tells), an MTU and IPv6. Then that it has
/// it after a reboot, and after the same SET once more, which changes no file of `files`. The
/// configuration has been 192.168.7.7/24 and fd07::7/64, with gateways.
fn nothing_is_lost(stacked: &str, domains: fn() -> String, files: &[&str]) {
    let has_all = |address: &str| {
        eventually(|| {
            addresses() == [address, "fd07::7/64"]
                && output("ip", &["address", "show", "dev", stacked]).contains("172.16.10.5/24")
                && output("ip", &["route", "show", "10.50.0.0/16"]).contains("via 192.168.7.254")
                && gateways("-6") == ["fe80::7"]
                && domains().contains("corp.example")
                && read("/sys/class/net/eth0/mtu") == "1400\n"
        });
    };
    has_all("192.168.7.7/24");
    let v4 = IpInfo {
        family: Family::V4,
        ..info("10.0.0.5", "255.255.255.0", "10.0.0.1", "10.0.0.53")
    };
    set(&v4, LONG).unwrap();
    has_all("10.0.0.5/24");
    eventually(|| gateways("-4") == ["10.0.0.1"]);
    reboot();
    has_all("10.0.0.5/24");
    eventually(|| gateways("-4") == ["10.0.0.1"]);

    let before: Vec<_> = files.iter().map(|path| read(path)).collect();
    assert!(before.iter().all(|text| !text.is_empty()), "{before:?}");
    set(&v4, LONG).unwrap();
    has_all("10.0.0.5/24");
    let after: Vec<_> = files.iter().map(|path| read(path)).collect();
    assert_eq!(before, after);
}

/// Waits, since network managers continue for a while.
fn eventually(condition: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !condition() {
        if Instant::now() > end {
            let state = output(
                "sh",
                &[
                    "-c",
                    "ip address; ip route; ip -6 route; cat /etc/resolv.conf",
                ],
            );
            panic!("the condition does not come true:\n{state}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
