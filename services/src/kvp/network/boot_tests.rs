//! The network managers of Debian in real boots: an IP configuration that comes before they have
//! started is in force when they have.
//!
//! A test runs itself again in the boot, where `INSIDE` says which part it is.

use std::process::Command;
use std::{env, fs, thread};

use slog::o;

use super::*;
use crate::kvp::network::early::{Checks, check, is_deferred};
use crate::kvp::network::record::records;
use crate::kvp::request::Family;
use crate::kvp::test_log::Lines;

const LONG: Duration = Duration::from_secs(60);

/// Runs both cases of a manager side by side.
fn test(manager: &str, name: &str) {
    match env::var("INSIDE").as_deref() {
        Ok("set") => return set_early(),
        Ok("check") => return check_later(manager),
        _ => {}
    }
    if let Err(why) = outside(manager, name) {
        hyperv_needs::skip(&why);
    }
}

fn outside(manager: &str, name: &str) -> Result<(), String> {
    hyperv_needs::namespaces(&["--mount", "--net"])?;
    hyperv_needs::program("systemd-nspawn")?;
    let root = hyperv_needs::fetched("network-managers")?;
    let boot = |case: &str| {
        let in_boot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inject/in-boot");
        let output = Command::new(in_boot)
            .args([&*root, manager, case])
            .arg(env::current_exe().unwrap())
            .arg(format!("kvp::network::set::boot_tests::{name}"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{case}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };
    boot("held");
    boot("racing");
    Ok(())
}

#[test]
fn systemd_networkd() {
    test("networkd", "systemd_networkd");
}

#[test]
fn networkmanager() {
    test("networkmanager", "networkmanager");
}

#[test]
fn netplan() {
    test("netplan", "netplan");
}

#[test]
fn ifupdown() {
    test("ifupdown", "ifupdown");
}

fn config() -> Config {
    Config {
        directory: "/var/lib/hyperv".into(),
        ..Config::default()
    }
}

/// Sets the configuration at the beginning of the boot.
fn set_early() {
    let held = env::var("CASE").unwrap() == "held";
    let kernel = Kernel {
        interface_by_device: &|_| Some("eth0".to_owned()),
        interfaces: &|| interfaces::list("/".as_ref()),
    };
    let info = IpInfo {
        adapter: "f8615163-0000-1000-2000-00155d010203".to_owned(),
        family: Family::BOTH,
        dhcp: false,
        addresses: "10.0.0.5;fd00::5".to_owned(),
        subnets: "255.255.255.0;/64".to_owned(),
        gateways: "10.0.0.1".to_owned(),
        dns: "1.1.1.1".to_owned(),
    };
    let lines = Lines::default();
    let log = Logger::root(lines.clone(), o!());
    // As short as the limit that the host's request has.
    let deadline = Instant::now() + crate::timeouts::IP_CONFIGURATION;
    let result = set_with(&kernel, &config(), &info, deadline, &|| true, &log);
    eprintln!("{}", lines.0.lock().unwrap().join("\n"));
    result.unwrap();
    assert!(is_deferred(&config()) || !held);
}

/// Checks at the end of the boot what became of it, and restarts the manager.
fn check_later(manager: &str) {
    let lines = Lines::default();
    let log = Logger::root(lines.clone(), o!());
    let mut checks = Checks::default();
    let end = Instant::now() + LONG;
    // It may still be waiting for the manager.
    while records(&config().environment.runtime_dir).is_empty() {
        assert!(Instant::now() < end, "not set: {}", state());
        thread::sleep(Duration::from_millis(100));
    }
    while check(
        &config(),
        &|| interfaces::list("/".as_ref()),
        &mut checks,
        &log,
    ) {
        assert!(Instant::now() < end, "still deferred: {}", state());
        thread::sleep(Duration::from_millis(100));
    }
    eprintln!("{}", lines.0.lock().unwrap().join("\n"));
    let records = records(&config().environment.runtime_dir);
    assert!(
        records[0].to_string().starts_with("in force"),
        "{records:?}"
    );
    assert_in_force();

    let unit = env::var("UNIT").unwrap();
    let restart = Command::new("systemctl").args(["restart", &unit]).status();
    assert!(restart.unwrap().success(), "{manager}");
    assert_in_force();
}

/// Waits until the interface has the host's addresses, and nothing of the manager's other files.
fn assert_in_force() {
    let end = Instant::now() + LONG;
    loop {
        let interfaces = interfaces::list("/".as_ref()).unwrap();
        let eth0 = interfaces.iter().find(|now| now.name == "eth0").unwrap();
        let addresses = eth0.addresses.iter().filter(|own| !own.is_link_local());
        let mut addresses: Vec<_> = addresses.map(|own| own.ip.to_string()).collect();
        addresses.sort();
        if addresses == ["10.0.0.5", "fd00::5"] && eth0.gateways.len() == 1 {
            return;
        }
        assert!(Instant::now() < end, "{}", state());
        thread::sleep(Duration::from_millis(100));
    }
}

fn state() -> String {
    let mut text = String::new();
    for command in [
        "ip address",
        "ip route",
        "systemctl list-jobs",
        "systemctl --failed",
    ] {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        text += &String::from_utf8_lossy(&output.stdout);
    }
    for record in records(&config().environment.runtime_dir) {
        text += &format!("{record}\n");
        for file in &record.files {
            text += &fs::read_to_string(file).unwrap_or_default();
        }
    }
    text
}
