//! Configurations that come before their network manager has started.

use super::*;
use crate::kvp::network::early::{Checks, check, is_deferred};
use crate::kvp::network::record::{State, records};

/// Short, but long enough to write files and to ask systemd.
const SHORT: Duration = Duration::from_secs(5);

const STARTS: &str = "inactive\\nJob=7";
const RUNNING: &str = "active\\nJob=0";
const FAILED: &str = "failed\\nJob=0";
const ABSENT: &str = "inactive\\nJob=0";

/// Has systemd say this of the manager's unit, the only one that there is.
fn answering(case: &Case, state: &str) -> String {
    let unit = match case.manager {
        "NetworkManager" => "NetworkManager",
        "ifcfg" if case.rejects == "wicked" => "wicked",
        "ifcfg" => "network",
        "ifupdown" => "networking",
        _ => "systemd-networkd",
    };
    format!(
        "if [ \"$name\" = systemctl ]; then
            for unit; do case $unit in
                {unit}.service) printf 'LoadState=loaded\\nActiveState={state}\\n\\n' ;;
                *.service) printf 'LoadState=not-found\\nActiveState=inactive\\n\\n' ;;
            esac; done
        fi
        "
    )
}

/// A machine of the case before its network manager has started, whose configuration claims eth0.
fn booting(case: &Case) -> Guest {
    let guest = Guest::new(Backend::Auto, case.tools);
    guest.install(&["systemctl"]);
    let files = case.machine.iter();
    for (path, text) in files.filter(|(path, _)| !path.starts_with("run/")) {
        guest.write(path, text);
    }
    guest.write("run/systemd/system/x", "");
    match case.manager {
        "systemd-networkd" => {
            guest.write("etc/systemd/network/10-eth.network", "[Match]\nName=eth*\n");
        }
        "ifcfg" if case.rejects == "wicked" => {
            guest.write("etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO=dhcp\n");
        }
        "ifcfg" => {
            let path = "etc/sysconfig/network-scripts/ifcfg-eth0";
            guest.write(path, "BOOTPROTO=dhcp\n");
        }
        "ifupdown" => {
            let text = "auto eth0\niface eth0 inet dhcp\nsource /etc/network/interfaces.d/*\n";
            guest.write("etc/network/interfaces", text);
        }
        _ => {}
    }
    guest.write("behaviour", &answering(case, STARTS));
    guest
}

/// Returns the calls of programs but systemctl.
fn calls(guest: &Guest) -> Vec<String> {
    let mut calls = Case::calls(guest);
    calls.retain(|call| !call.starts_with("systemctl "));
    calls
}

/// Has the manager in charge of eth0.
fn start(case: &Case, guest: &Guest) {
    let files = case.machine.iter();
    for (path, text) in files.filter(|(path, _)| path.starts_with("run/")) {
        guest.write(path, text);
    }
    match case.manager {
        "systemd-networkd" | "netplan" => {
            guest.write("run/systemd/netif/state", "");
            let state = format!("ADMIN_STATE=configured\nNETWORK_FILE=/{}\n", case.file);
            guest.write("run/systemd/netif/links/2", &state);
        }
        "ifupdown" => {
            guest.write("run/network/ifstate", "lo=lo\neth0=hyperv-agent-eth0\n");
        }
        _ => {}
    }
    guest.write("behaviour", &answering(case, RUNNING));
}

/// Runs `then` on a thread once the file of the case has been written.
fn when_written<T: Send>(
    case: &Case,
    guest: &Guest,
    then: impl FnOnce() + Send,
    set: impl FnOnce() -> T,
) -> T {
    let file = guest.path(case.file);
    thread::scope(|scope| {
        scope.spawn(move || {
            let end = Instant::now() + LONG;
            while !fs::read_to_string(&file).is_ok_and(|text| text.contains("10.0.0.5")) {
                assert!(Instant::now() < end, "{} is not written", file.display());
                thread::sleep(Duration::from_millis(5));
            }
            then();
        });
        set()
    })
}

fn state(guest: &Guest) -> Option<State> {
    let records = records(&guest.config.environment.runtime_dir);
    records.first().map(|record| record.state.clone())
}

/// Checks what became of the deferred configuration; returns whether it is still deferred, and what
/// was logged.
fn look(guest: &Guest, checks: &mut Checks) -> (bool, String) {
    guest.log.0.lock().unwrap().clear();
    let log = Logger::root(guest.log.clone(), o!());
    let interfaces = || Ok(guest.interfaces.clone());
    let deferred = check(&guest.config, &interfaces, checks, &log);
    assert_eq!(deferred, is_deferred(&guest.config));
    (deferred, guest.log.0.lock().unwrap().join("\n"))
}

#[test]
fn a_manager_that_starts_later_finds_its_file() {
    fn test(case: &Case) {
        let guest = booting(case);
        guest.set(&info(), SHORT).unwrap();
        let text = guest.read(case.file).unwrap();
        assert!(text.contains("10.0.0.5"), "{text}");
        assert_eq!(calls(&guest), [""; 0], "{}", case.manager);
        assert_eq!(state(&guest), Some(State::Deferred));
        let log = guest.log.0.lock().unwrap().join("\n");
        let manager = case.manager;
        for words in [
            format!("eth0: waiting for {manager}, which is starting"),
            format!("eth0: wrote the host's IP configuration for {manager} ("),
            format!("in force when {manager} starts: 10.0.0.5/24"),
        ] {
            assert!(log.contains(&words), "{log}");
        }
        let mut checks = Checks::default();
        assert_eq!(look(&guest, &mut checks), (true, String::new()));
        start(case, &guest);
        let (deferred, log) = look(&guest, &mut checks);
        assert!(!deferred, "{manager}");
        assert!(
            log.starts_with(&format!(
                "INFO eth0: the host's IP configuration is in force with {manager}: 10.0.0.5/24"
            )),
            "{log}"
        );
        assert_eq!(calls(&guest), [""; 0], "{manager}");
        assert!(matches!(state(&guest), Some(State::InForce { .. })));

        // The kernel did not take the reply, and the manager has not started.
        let guest = booting(case);
        let before = tree(&guest);
        guest.set(&info(), SHORT).unwrap();
        let log = Logger::root(guest.log.clone(), o!());
        rollback(&guest.config, Instant::now() + LONG, &log);
        assert_eq!(tree(&guest), before, "{manager}");
        assert_eq!(calls(&guest), [""; 0], "{manager}");
        assert_eq!(state(&guest), None);
    }
    let cases = with_units();
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| test(case));
        }
    });
}

#[test]
fn a_manager_that_takes_charge_while_it_is_waited_for_applies_its_file() {
    fn test(case: &Case, in_force: bool) {
        let mut guest = booting(case);
        if !in_force {
            // It has read its files before these were written.
            guest.interfaces[0].gateways.clear();
        }
        when_written(
            case,
            &guest,
            || start(case, &guest),
            || guest.set(&info(), LONG).unwrap(),
        );
        let expected = match in_force {
            true => &[],
            false => case.applied,
        };
        assert_eq!(calls(&guest), expected, "{}", case.manager);
        let log = guest.log.0.lock().unwrap().join("\n");
        let words = format!(
            "applied the host's IP configuration with {} (",
            case.manager
        );
        assert!(log.contains(&words), "{log}");
        assert!(matches!(state(&guest), Some(State::InForce { .. })));
    }
    let cases = with_units();
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| test(case, true));
            scope.spawn(|| test(case, false));
        }
    });
}

#[test]
fn another_manager_that_takes_charge_gets_the_configuration() {
    let cases = cases();
    let [nm, ifupdown] = [&cases[2], &cases[5]];
    let guest = booting(nm);
    guest.install(ifupdown.tools);
    guest.write("etc/network/interfaces", ifupdown.machine[0].1);
    when_written(
        nm,
        &guest,
        || {
            guest.write("run/network/ifstate", "eth0=eth0\n");
        },
        || guest.set(&info(), LONG).unwrap(),
    );
    assert_eq!(guest.read(nm.file), None);
    assert!(guest.read(ifupdown.file).unwrap().contains("10.0.0.5"));
    assert_eq!(calls(&guest), ifupdown.applied);
}

#[test]
fn a_manager_that_fails_to_start_gets_nothing() {
    let case = &cases()[2];
    let guest = booting(case);
    let before = tree(&guest);
    let error = when_written(
        case,
        &guest,
        || {
            guest.write("behaviour", &answering(case, FAILED));
        },
        || guest.set(&info(), LONG).unwrap_err(),
    );
    let words = display_chain(&error).to_string();
    assert!(
        words.contains("NetworkManager.service failed to start"),
        "{words}"
    );
    assert_eq!(guest.read(case.file), None);
    assert_eq!(tree(&guest), before);
    assert_eq!(state(&guest), None);
}

#[test]
fn a_deferred_configuration_that_does_not_take_effect_is_reported() {
    let case = &cases()[1];
    // Its unit fails, or nobody starts it.
    for (answer, why) in [
        (FAILED, "systemd-networkd.service failed to start"),
        (ABSENT, "systemd-networkd.service was not started"),
    ] {
        let guest = booting(case);
        guest.set(&info(), SHORT).unwrap();
        guest.write("behaviour", &answering(case, answer));
        let (deferred, log) = look(&guest, &mut Checks::default());
        assert!(!deferred);
        let file = guest.path(case.file);
        assert_eq!(
            log,
            format!(
                "WARNING eth0: the host's IP configuration for systemd-networkd is not in force: \
                 {why}; it is in {}",
                file.display()
            )
        );
        assert!(file.exists(), "it is not rolled back");
        assert_eq!(look(&guest, &mut Checks::default()), (false, String::new()));
    }

    // Another file takes precedence: the agent's is loaded once more, and then reported.
    let mut guest = booting(case);
    guest.set(&info(), SHORT).unwrap();
    guest.interfaces[0].addresses[0].ip = "10.0.0.9".parse().unwrap();
    start(case, &guest);
    let mut checks = Checks::default();
    assert_eq!(look(&guest, &mut checks), (true, String::new()));
    assert_eq!(calls(&guest), [""; 0]);
    checks.age(Duration::from_secs(4));
    assert_eq!(look(&guest, &mut checks), (true, String::new()));
    assert_eq!(look(&guest, &mut checks), (true, String::new()));
    assert_eq!(calls(&guest), case.applied);
    checks.age(Duration::from_secs(30));
    // Without a carrier, addresses come later.
    guest.write("sys/class/net/eth0/carrier", "0\n");
    assert_eq!(look(&guest, &mut checks), (true, String::new()));
    guest.write("sys/class/net/eth0/carrier", "1\n");
    let (deferred, log) = look(&guest, &mut checks);
    assert!(!deferred);
    assert!(
        log.contains(
            "is not in force: systemd-networkd has started (not on the interface yet: 10.0.0.5) \
             (still on the interface: 10.0.0.9); does another file take precedence?; it is in "
        ),
        "{log}"
    );
    assert_eq!(calls(&guest), case.applied);
}

#[test]
fn an_interface_that_is_being_set_up_is_waited_for() {
    let case = &cases()[1];
    let guest = case.guest(Backend::Auto);
    guest.write("sys/class/net/eth0/ifindex", "2\n");
    guest.write("run/udev/data/n3", "I:1\n");
    // It has another name until udev is done with it, and none at first.
    guest.write(&format!("sys/bus/vmbus/devices/{DEVICE}/x"), "");
    guest.write("sys/class/net/temporary/ifindex", "2\n");
    let calls = std::cell::Cell::new(0);
    let kernel = Kernel {
        interface_by_device: &|_| {
            calls.set(calls.get() + 1);
            if calls.get() == 3 {
                guest.write("run/udev/data/n2", "I:1\nE:ID_NET_NAME=eth0\n");
            }
            let name = match calls.get() {
                1 => return None,
                2 => "temporary",
                _ => "eth0",
            };
            Some(name.to_owned())
        },
        interfaces: &|| Ok(guest.interfaces.clone()),
    };
    let log = Logger::root(guest.log.clone(), o!());
    let deadline = Instant::now() + LONG;
    set_with(&kernel, &guest.config, &info(), deadline, &|| true, &log).unwrap();
    assert_eq!(calls.get(), 3);
    assert!(guest.read(case.file).unwrap().contains("Name=eth0"));
}

/// Its bridge has the addresses, but is not there yet.
#[test]
fn an_adapter_that_will_be_a_port_gets_no_addresses() {
    let case = &cases()[1];
    let guest = booting(case);
    let text = "[Match]\nName=eth*\n[Network]\nBridge=br0\n";
    guest.write("etc/systemd/network/10-eth.network", text);
    let error = guest.set(&info(), SHORT).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("eth0 will be a port of br0 when it has started"),
        "{error}"
    );
    assert_eq!(calls(&guest), [""; 0]);
}
