use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use hyperv_vmbus::ic::Status;
use slog::o;
use tempfile::TempDir;

use super::*;
use crate::error_chain::display_chain;
use crate::kvp::interfaces::testing::{self, address};
use crate::kvp::network::record;
use crate::kvp::request::Family;
use crate::kvp::test_log::Lines;

const DEVICE: &str = "f8615163-0000-1000-2000-00155d010203";

/// More than enough if nothing hangs.
const LONG: Duration = Duration::from_secs(60);

/// Returns the message of the host for 10.0.0.5 and fd00::5.
fn info() -> IpInfo {
    IpInfo {
        adapter: format!("{{{}}}", DEVICE.to_uppercase()),
        family: Family::BOTH,
        dhcp: false,
        addresses: "10.0.0.5;fd00::5".to_owned(),
        subnets: "255.255.255.0;/64".to_owned(),
        gateways: "10.0.0.1".to_owned(),
        dns: "1.1.1.1".to_owned(),
    }
}

fn interface() -> Interface {
    Interface {
        mac: Some([0, 0x15, 0x5d, 1, 2, 3]),
        addresses: vec![address("10.0.0.5", 24), address("fd00::5", 64)],
        gateways: vec!["10.0.0.1".parse().unwrap()],
        ..testing::interface(2, "eth0")
    }
}

/// A machine below a directory, whose programs log their calls.
struct Guest {
    root: TempDir,
    config: Config,
    interfaces: Vec<Interface>,
    name: Option<&'static str>,
    log: Lines,
}

impl Guest {
    /// Puts eth0 below an interface of this kind.
    fn put_below(&mut self, kind: &str) {
        self.interfaces[0].master = Some(9);
        self.interfaces.push(Interface {
            kind: Some(kind.to_owned()),
            ..testing::interface(9, &format!("{kind}9"))
        });
    }

    fn new(backend: Backend, tools: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut config = Config {
            directory: root.path().join("var/lib/hyperv"),
            environment: crate::Environment {
                root: root.path().to_owned(),
                state_dir: root.path().join("state"),
                runtime_dir: root.path().join("run/hyperv-agent"),
            },
            ..Config::default()
        };
        config.network.backend = backend;
        let guest = Self {
            root,
            config,
            interfaces: vec![interface()],
            name: Some("eth0"),
            log: Lines::default(),
        };
        guest.install(tools);
        guest
    }

    /// Installs fake programs: in `usr/bin`, or at a path.
    fn install(&self, tools: &[&str]) {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject/fake-tool");
        for name in tools {
            let path = match name.contains('/') {
                true => self.path(name),
                false => self.path("usr/bin").join(name),
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // No link: others may be able to write to the working copy.
            fs::copy(&tool, path).unwrap();
        }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// Returns the calls so far, with paths as the machine sees them.
    fn calls(&self) -> Vec<String> {
        let root = self.root.path().to_str().unwrap();
        let calls = self.read("log").unwrap_or_default().replace(root, "");
        calls.lines().map(str::to_owned).collect()
    }

    fn set(&self, info: &IpInfo, time: Duration) -> Result<(), InjectError> {
        let kernel = Kernel {
            interface_by_device: &|device| {
                assert_eq!(device.to_string(), DEVICE);
                self.name.map(str::to_owned)
            },
            interfaces: &|| Ok(self.interfaces.clone()),
        };
        let log = Logger::root(self.log.clone(), o!());
        set_with(
            &kernel,
            &self.config,
            info,
            Instant::now() + time,
            &|| true,
            &log,
        )
    }
}

/// A network manager, and how the tests know it.
struct Case {
    backend: Backend,
    manager: &'static str,
    tools: &'static [&'static str],
    /// Files that it has on the machine.
    machine: &'static [(&'static str, &'static str)],
    file: &'static str,
    mode: u32,
    /// The calls that apply a configuration.
    applied: &'static [&'static str],
    /// The calls of a rollback.
    reverted: &'static [&'static str],
    /// The program that can reject the new file.
    rejects: &'static str,
}

const QUERY: &str = "nmcli --get-values GENERAL.CON-UUID device show eth0";

fn cases() -> Vec<Case> {
    vec![
        Case {
            backend: Backend::Manager("netplan"),
            manager: "netplan",
            tools: &["netplan", "networkctl"],
            machine: &[
                ("etc/netplan/50-cloud-init.yaml", "network: {}\n"),
                ("run/systemd/netif/links/2", "ADMIN_STATE=configured\n"),
            ],
            file: "etc/systemd/network/05-hyperv-agent-eth0.network",
            mode: 0o644,
            applied: &["networkctl reload"],
            reverted: &["networkctl reload", "networkctl reconfigure eth0"],
            rejects: "networkctl",
        },
        Case {
            backend: Backend::Manager("networkd"),
            manager: "systemd-networkd",
            tools: &["networkctl"],
            machine: &[
                ("run/systemd/netif/state", ""),
                ("run/systemd/netif/links/2", "ADMIN_STATE=configured\n"),
            ],
            file: "etc/systemd/network/05-hyperv-agent-eth0.network",
            mode: 0o644,
            applied: &["networkctl reload"],
            reverted: &["networkctl reload", "networkctl reconfigure eth0"],
            rejects: "networkctl",
        },
        Case {
            backend: Backend::Manager("networkmanager"),
            manager: "NetworkManager",
            tools: &["nmcli"],
            machine: &[("run/NetworkManager/devices/2", "[device]\nmanaged=true\n")],
            file: "etc/NetworkManager/system-connections/hyperv-agent-eth0.nmconnection",
            mode: 0o600,
            applied: &[
                "nmcli connection load /etc/NetworkManager/system-connections/hyperv-agent-eth0.nmconnection",
                "nmcli --wait N connection up uuid UUID ifname eth0",
            ],
            reverted: &[
                "nmcli connection reload",
                "nmcli --wait N connection up uuid 11111111-2222-3333-4444-555555555555 ifname eth0",
            ],
            rejects: "nmcli",
        },
        Case {
            backend: Backend::Manager("ifcfg"),
            manager: "ifcfg",
            tools: &["ifup", "ifdown"],
            machine: &[
                ("etc/sysconfig/network", "NETWORKING=yes\n"),
                ("etc/sysconfig/network-scripts/ifcfg-lo", ""),
            ],
            file: "etc/sysconfig/network-scripts/ifcfg-eth0",
            mode: 0o644,
            applied: &["ifdown eth0", "ifup eth0"],
            reverted: &["ifdown eth0", "ifup eth0"],
            rejects: "ifup",
        },
        Case {
            backend: Backend::Manager("ifcfg"),
            manager: "ifcfg",
            tools: &["wicked", "netconfig"],
            machine: &[(
                "etc/sysconfig/network/config",
                "A=1\nNETCONFIG_DNS_STATIC_SERVERS=\"\"\n",
            )],
            file: "etc/sysconfig/network/ifcfg-eth0",
            mode: 0o644,
            applied: &["netconfig update -f", "wicked ifreload eth0"],
            reverted: &["netconfig update -f", "wicked ifreload eth0"],
            rejects: "wicked",
        },
        Case {
            backend: Backend::Manager("ifupdown"),
            manager: "ifupdown",
            tools: &["ifup", "ifdown", "grep", "resolvconf"],
            machine: &[
                (
                    "etc/network/interfaces",
                    "source /etc/network/interfaces.d/*\n",
                ),
                ("run/network/ifstate", "lo=lo\neth0=lan\n"),
            ],
            file: "etc/network/interfaces.d/hyperv-agent-eth0",
            mode: 0o644,
            applied: &["ifdown --force eth0", "ifup eth0=hyperv-agent-eth0"],
            reverted: &["ifdown --force eth0", "ifup eth0=lan"],
            rejects: "ifup",
        },
        Case {
            backend: Backend::Manager("script"),
            manager: "script",
            tools: &["etc/hyperv-agent/network", "grep"],
            machine: &[],
            file: "var/lib/hyperv-agent/ip/eth0",
            mode: 0o600,
            applied: &["network apply /var/lib/hyperv-agent/ip/eth0"],
            reverted: &["network revert /var/lib/hyperv-agent/ip/eth0"],
            rejects: "network",
        },
    ]
}

impl Case {
    fn guest(&self, backend: Backend) -> Guest {
        let guest = Guest::new(backend, self.tools);
        for (path, text) in self.machine {
            guest.write(path, text);
        }
        guest.write(
            "behaviour",
            "case \"$name $*\" in\n\
             *CON-UUID*) echo 11111111-2222-3333-4444-555555555555 ;;\n\
             'networkctl reload')\n\
                 first=$(ls \"$root/etc/systemd/network\" 2>/dev/null | head -n 1)\n\
                 printf 'ADMIN_STATE=configured\\nNETWORK_FILE=/etc/systemd/network/%s\\n' \"$first\" \\\n\
                     >\"$root/run/systemd/netif/links/2\" ;;\n\
             esac\n",
        );
        guest
    }

    /// Returns the calls of a guest without queries, and with placeholders for what differs from
    /// run to run.
    fn calls(guest: &Guest) -> Vec<String> {
        let general = |call: String| {
            let mut words: Vec<&str> = call.split(' ').collect();
            if let Some(place) = words.iter().position(|word| *word == "--wait") {
                words[place + 1] = "N";
            }
            words.join(" ").replace(&uuid(), "UUID")
        };
        let calls = guest.calls().into_iter().filter(|call| call != QUERY);
        calls.map(general).collect()
    }

    /// Has the program run `how` while the new file is in place.
    fn reject(&self, guest: &Guest, how: &str) {
        let behaviour = guest.read("behaviour").unwrap();
        let rejection = format!(
            "case \"$name $*\" in\n*CON-UUID*) ;;\n{}*) if grep -q 10.0.0.5 \"$root/{}\"; then {how}; fi ;;\nesac\n",
            self.rejects, self.file
        );
        guest.write("behaviour", &(behaviour + &rejection));
    }
}

fn uuid() -> String {
    let target = Target {
        name: "eth0".to_owned(),
        mac: None,
        permanent: false,
        device: DEVICE.parse().unwrap(),
    };
    target.uuid().to_string()
}

#[test]
fn the_manager_in_charge_is_found_and_gets_its_file() {
    for case in cases() {
        let guest = case.guest(Backend::Auto);
        guest.set(&info(), LONG).unwrap();
        let text = guest.read(case.file).unwrap();
        assert!(
            text.contains("10.0.0.5") && text.contains("fd00::5"),
            "{text}"
        );
        let mode = fs::metadata(guest.path(case.file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, case.mode, "{}", case.file);
        assert_eq!(Case::calls(&guest), case.applied);
        let log = guest.log.0.lock().unwrap().join("\n");
        let (manager, file) = (case.manager, guest.path(case.file));
        let start = format!(
            "INFO eth0: applied the host's IP configuration with {manager} ({}",
            file.display()
        );
        let end = "): 10.0.0.5/24, fd00::5/64, gateway 10.0.0.1, DNS 1.1.1.1";
        assert!(log.starts_with(&start) && log.ends_with(end), "{log}");
        let records = record::records(&guest.config.environment.runtime_dir);
        let [record] = &records[..] else {
            panic!("{records:?}");
        };
        assert_eq!(record.to_string(), "in force");
        assert_eq!(
            (&*record.interface, &*record.manager),
            ("eth0", case.manager)
        );
        assert_eq!(record.files[0], guest.path(case.file));
        // The same configuration is applied again: an administrator may have changed something.
        guest.set(&info(), LONG).unwrap();
        assert_eq!(Case::calls(&guest), [case.applied, case.applied].concat());
    }
}

#[test]
fn the_configured_backend_is_used() {
    for case in cases() {
        let guest = case.guest(case.backend);
        guest.set(&info(), LONG).unwrap();
        assert_eq!(Case::calls(&guest), case.applied);
    }
}

/// Returns the files below etc and var.
fn tree(guest: &Guest) -> Vec<(std::path::PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![guest.path("etc"), guest.path("var")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => todo.push(entry.path()),
                false => found.push((entry.path(), fs::read_to_string(entry.path()).unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_failure_is_rolled_back() {
    for case in cases() {
        for previous in [None, Some("previous\n")] {
            let guest = case.guest(Backend::Auto);
            if let Some(previous) = previous {
                guest.write(case.file, previous);
            }
            case.reject(&guest, "echo noise >&2; echo no such thing >&2; exit 4");
            let before = tree(&guest);
            let error = guest.set(&info(), LONG).unwrap_err();
            assert_eq!(tree(&guest), before, "{}", case.manager);
            assert_eq!(guest.read(case.file).as_deref(), previous);
            let words = display_chain(&error);
            assert!(words.contains("rolled back to the previous one"), "{words}");
            assert!(
                words.contains("saying \"noise / no such thing\""),
                "{words}"
            );
            assert_eq!(error.status(), Status::FAIL);
            let calls = Case::calls(&guest);
            assert!(calls.ends_with(&owned(case.reverted)), "{calls:?}");
            assert_eq!(*guest.log.0.lock().unwrap(), [""; 0]);
        }
    }
}

#[test]
fn a_manager_that_hangs_is_rolled_back() {
    fn check(case: &Case) {
        let guest = case.guest(Backend::Auto);
        guest.write(case.file, "previous\n");
        case.reject(&guest, "sleep 1000");
        let before = tree(&guest);
        let error = guest.set(&info(), Duration::from_secs(12)).unwrap_err();
        assert_eq!(tree(&guest), before, "{}", case.manager);
        let words = display_chain(&error);
        assert!(words.contains("rolled back to the previous one"), "{words}");
        assert!(words.contains("timed out and was killed"), "{words}");
        let calls = Case::calls(&guest);
        assert!(calls.ends_with(&owned(case.reverted)), "{calls:?}");
    }
    let cases = cases();
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| check(case));
        }
    });
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().copied().map(str::to_owned).collect()
}

#[test]
fn a_failed_rollback_restores_the_files_and_is_reported() {
    let case = &cases()[1];
    let guest = case.guest(Backend::Auto);
    guest.write(case.file, "previous\n");
    guest.write("behaviour", "echo broken >&2; exit 1");
    let error = guest.set(&info(), LONG).unwrap_err();
    let words = display_chain(&error);
    assert!(
        words.contains("the rollback to the previous one failed"),
        "{words}"
    );
    assert!(
        words.contains(guest.path("state/network").to_str().unwrap()),
        "{words}"
    );
    assert_eq!(guest.read(case.file).unwrap(), "previous\n");
    assert_eq!(
        guest.read(&format!("state/network/{}", case.file)).unwrap(),
        "previous\n"
    );
}

#[test]
fn nmcli_rejects_a_file_with_exit_status_0() {
    let case = &cases()[2];
    let guest = case.guest(Backend::Auto);
    let behaviour = guest.read("behaviour").unwrap();
    guest.write(
        "behaviour",
        &(behaviour + "case \"$*\" in *load*) echo \"Could not load file 'x'\" >&2 ;; esac\n"),
    );
    let words = display_chain(&guest.set(&info(), LONG).unwrap_err());
    assert!(
        words.contains("rejected the configuration, saying \"Could not load file 'x'\""),
        "{words}"
    );
    assert_eq!(guest.read(case.file), None);
}

#[test]
fn networkmanager_waits_for_neither_carrier_nor_dhcp_server() {
    let case = &cases()[2];
    let guest = case.guest(Backend::Auto);
    // Without a carrier it may be that no connection comes up.
    guest.write("sys/class/net/eth0/carrier", "0\n");
    let behaviour = guest.read("behaviour").unwrap();
    guest.write(
        "behaviour",
        &(behaviour.clone() + "case \"$*\" in *\" up \"*) exit 4 ;; esac\n"),
    );
    guest.set(&info(), LONG).unwrap();
    assert_eq!(Case::calls(&guest), case.applied);
    let last = guest.calls().pop().unwrap();
    assert!(last.starts_with("nmcli --wait 0 connection up"), "{last}");
    guest.write("behaviour", &behaviour);
    // A DHCP server may answer later.
    guest.write("sys/class/net/eth0/carrier", "1\n");
    guest
        .set(
            &IpInfo {
                dhcp: true,
                ..info()
            },
            LONG,
        )
        .unwrap();
    let last = guest.calls().pop().unwrap();
    assert!(
        last.starts_with("nmcli --wait 0 connection up uuid"),
        "{last}"
    );
}

#[test]
fn netplan_renders_for_networkmanager_where_that_is_in_charge() {
    let guest = Guest::new(Backend::Auto, &["netplan", "nmcli"]);
    guest.write("etc/netplan/01-network-manager-all.yaml", "");
    guest.write("run/NetworkManager/devices/2", "[device]\nmanaged=true\n");
    guest.set(&info(), LONG).unwrap();
    let text = guest.read("etc/netplan/90-hyperv-agent-eth0.yaml").unwrap();
    assert!(text.contains("renderer: NetworkManager"), "{text}");
    let calls = Case::calls(&guest);
    assert_eq!(
        calls,
        [
            "netplan generate",
            "nmcli connection reload",
            "nmcli --wait N connection up id netplan-0-hyperv-agent-eth0 ifname eth0"
        ]
    );
}

#[test]
fn a_manager_that_is_not_in_charge_is_skipped() {
    let all = [
        "netplan",
        "nmcli",
        "networkctl",
        "ifup",
        "ifdown",
        "grep",
        "resolvconf",
    ];
    let guest = Guest::new(Backend::Auto, &all);
    guest.write("run/NetworkManager/devices/2", "[device]\nmanaged=false\n");
    guest.write("run/systemd/netif/state", "");
    guest.write("run/systemd/netif/links/2", "ADMIN_STATE=unmanaged\n");
    guest.write("etc/netplan/README", "");
    let error = guest.set(&info(), LONG).unwrap_err();
    assert!(matches!(error, InjectError::NoManager { .. }), "{error}");
    assert_eq!(error.status(), Status::NOT_SUPPORTED);
    guest.write("etc/network/interfaces", "source-directory interfaces.d\n");
    guest.set(&info(), LONG).unwrap();
    assert!(
        guest
            .read("etc/network/interfaces.d/hyperv-agent-eth0")
            .is_some()
    );
}

#[test]
fn an_invalid_configuration_changes_nothing() {
    let case = &cases()[1];
    let guest = |change: fn(&mut Guest)| {
        let mut guest = case.guest(Backend::Auto);
        change(&mut guest);
        guest
    };
    let wrong = |change: fn(&mut IpInfo)| {
        let mut info = info();
        change(&mut info);
        info
    };
    for (guest, info, status) in [
        (
            guest(|_| ()),
            wrong(|info| info.adapter = "eth0".to_owned()),
            Status::INVALID_ARGUMENT,
        ),
        (
            guest(|_| ()),
            wrong(|info| info.subnets.clear()),
            Status::INVALID_ARGUMENT,
        ),
        (
            guest(|_| ()),
            wrong(|info| info.dns = "$(id)".to_owned()),
            Status::INVALID_ARGUMENT,
        ),
        (
            guest(|guest| guest.name = None),
            wrong(|_| ()),
            Status::GUID_NOT_FOUND,
        ),
        (
            guest(|guest| guest.interfaces.clear()),
            wrong(|_| ()),
            Status::GUID_NOT_FOUND,
        ),
        (
            guest(|guest| guest.name = Some("e\nth")),
            wrong(|_| ()),
            Status::FAIL,
        ),
        (
            guest(|guest| guest.put_below("bridge")),
            wrong(|_| ()),
            Status::FAIL,
        ),
        (
            guest(|guest| guest.config.network.backend = Backend::Off),
            wrong(|_| ()),
            Status::NOT_SUPPORTED,
        ),
        (
            guest(|guest| guest.config.network.backend = Backend::Manager("netplan")),
            wrong(|_| ()),
            Status::NOT_SUPPORTED,
        ),
    ] {
        let before = tree(&guest);
        let error = guest.set(&info, LONG).unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert_eq!(tree(&guest), before, "{error}");
        assert_eq!(guest.calls(), [""; 0], "{error}");
    }
}

#[test]
fn an_interface_of_a_vrf_is_configured_and_a_port_is_not() {
    let mut guest = cases()[1].guest(Backend::Auto);
    guest.put_below("vrf");
    guest.set(&info(), LONG).unwrap();
    // ifupdown's back-end cannot set the addresses of a bond.
    let ifupdown = |case: &Case| case.backend == Backend::Manager("ifupdown");
    let mut guest = cases()
        .iter()
        .find(|case| ifupdown(case))
        .unwrap()
        .guest(Backend::Auto);
    guest.put_below("bond");
    let error = guest.set(&info(), LONG).unwrap_err().to_string();
    assert!(error.starts_with("eth0 is a port of bond9 "), "{error}");
    assert!(error.contains("with ifupdown;"), "{error}");
}

#[test]
fn no_program_runs_if_a_file_cannot_be_written() {
    let case = &cases()[1];
    let guest = case.guest(Backend::Auto);
    guest.write("etc/systemd", "a file where a directory should be");
    let before = tree(&guest);
    let error = guest.set(&info(), LONG).unwrap_err();
    assert!(matches!(error, InjectError::File { .. }), "{error}");
    assert_eq!(tree(&guest), before);
    assert_eq!(guest.calls(), [""; 0]);
}

#[test]
fn missing_addresses_are_logged() {
    let mut guest = cases()[1].guest(Backend::Auto);
    guest.interfaces[0].addresses[1].tentative = true;
    guest.set(&info(), LONG).unwrap();
    let log = guest.log.0.lock().unwrap().join("\n");
    assert!(
        log.ends_with("DNS 1.1.1.1 (not on the interface yet: fd00::5)"),
        "{log}"
    );
}

#[test]
fn a_configuration_that_is_not_in_effect_is_rolled_back() {
    let case = &cases()[1];
    let guest = |address: &str| {
        let mut guest = case.guest(Backend::Auto);
        guest.write(case.file, "previous\n");
        guest.interfaces[0].addresses[0].ip = address.parse().unwrap();
        guest
    };
    let short = Duration::from_secs(5);
    let elsewhere = guest("10.0.0.9");
    let before = tree(&elsewhere);
    let words = display_chain(&elsewhere.set(&info(), short).unwrap_err());
    assert!(words.contains("eth0 did not get 10.0.0.5;"), "{words}");
    assert!(words.contains("rolled back to the previous one"), "{words}");
    assert_eq!(tree(&elsewhere), before);
    assert_eq!(
        Case::calls(&elsewhere),
        [case.applied, case.reverted].concat()
    );
    // Without a carrier, and with a script, addresses may come later.
    let unplugged = guest("10.0.0.9");
    unplugged.write("sys/class/net/eth0/carrier", "0\n");
    unplugged.set(&info(), short).unwrap();
    let mut scripted = guest("10.0.0.9");
    scripted.config.network.scripts = Some(scripted.path("usr/bin"));
    scripted.install(&["hv_set_ifconfig"]);
    scripted.set(&info(), short).unwrap();
}

/// Lets the agent end when it verifies the configuration.
fn end_midway(guest: &Guest) {
    let calls = std::cell::Cell::new(0);
    let kernel = Kernel {
        interface_by_device: &|_| Some("eth0".to_owned()),
        interfaces: &|| {
            calls.set(calls.get() + 1);
            assert!(calls.get() == 1, "the agent ends here");
            Ok(guest.interfaces.clone())
        },
    };
    let log = Logger::root(guest.log.clone(), o!());
    let deadline = Instant::now() + LONG;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        set_with(&kernel, &guest.config, &info(), deadline, &|| true, &log)
    }))
    .unwrap_err();
}

fn recover_now(guest: &Guest) {
    let log = Logger::root(guest.log.clone(), o!());
    recover(&guest.config, Instant::now() + LONG, &log);
}

#[test]
fn the_next_agent_rolls_back_what_one_left_half_done() {
    for case in cases() {
        for previous in [None, Some("previous\n")] {
            let guest = case.guest(Backend::Auto);
            if let Some(previous) = previous {
                guest.write(case.file, previous);
                let mode = fs::Permissions::from_mode(0o640);
                fs::set_permissions(guest.path(case.file), mode).unwrap();
            }
            let before = tree(&guest);
            end_midway(&guest);
            assert_ne!(tree(&guest), before);
            recover_now(&guest);
            assert_eq!(tree(&guest), before, "{}", case.manager);
            if previous.is_some() {
                let mode = fs::metadata(guest.path(case.file)).unwrap().permissions();
                assert_eq!(mode.mode() & 0o7777, 0o640);
            }
            let calls = Case::calls(&guest);
            assert_eq!(calls, [case.applied, case.reverted].concat());
            let log = guest.log.0.lock().unwrap().join("\n");
            assert!(log.ends_with("rolled back to the previous one"), "{log}");
            // Once is enough.
            recover_now(&guest);
            assert_eq!(Case::calls(&guest), calls);
        }
    }
}

/// Has systemd say that every unit has a job to start.
const STARTING: &str = "if [ \"$name\" = systemctl ]; then
    for unit; do case $unit in
        *.service) printf 'LoadState=loaded\\nActiveState=inactive\\nJob=7\\n\\n' ;;
    esac; done
fi
";

/// Returns the cases of managers that have a unit.
fn with_units() -> Vec<Case> {
    let mut cases = cases();
    cases.retain(|case| case.backend != Backend::Manager("script"));
    cases
}

/// What earlier versions of the agent wrote for netplan with systemd-networkd.
const OLD_NETPLAN: &str = "etc/netplan/90-hyperv-agent-eth0.yaml";

#[test]
fn the_file_of_an_earlier_agent_is_removed() {
    let case = &cases()[0];
    let guest = case.guest(Backend::Auto);
    guest.write(OLD_NETPLAN, "previous\n");
    // What the agent's own definition became is not kept.
    for (name, mtu) in [("0-hyperv-agent-eth0", 1300), ("eth0", 1400)] {
        let path = format!("run/systemd/network/10-netplan-{name}.network");
        guest.write(
            &path,
            &format!("[Match]\nName=eth0\n[Link]\nMTUBytes={mtu}\n"),
        );
    }
    case.reject(&guest, "echo no such thing >&2; exit 4");
    let before = tree(&guest);
    guest.set(&info(), LONG).unwrap_err();
    assert_eq!(tree(&guest), before);
    guest.write("behaviour", "");
    guest.write("log", "");
    guest.set(&info(), LONG).unwrap();
    assert_eq!(guest.read(OLD_NETPLAN), None);
    let text = guest.read(case.file).unwrap();
    assert!(text.contains("\nMTUBytes=1400\n"), "{text}");
    let calls = Case::calls(&guest);
    assert!(
        calls.starts_with(&owned(&["netplan generate", "networkctl reload"])),
        "{calls:?}"
    );
}

/// After a power failure the agent starts before any network manager.
#[test]
fn no_program_of_a_manager_that_starts_runs_in_a_rollback() {
    for case in with_units() {
        let guest = case.guest(Backend::Auto);
        guest.write(case.file, "previous\n");
        if case.manager == "netplan" {
            guest.write(OLD_NETPLAN, "previous\n");
        }
        let before = tree(&guest);
        end_midway(&guest);
        let calls = Case::calls(&guest);
        guest.write("run/systemd/system/x", "");
        guest.install(&["systemctl"]);
        guest.write("behaviour", STARTING);
        recover_now(&guest);
        assert_eq!(tree(&guest), before, "{}", case.manager);
        let further = Case::calls(&guest).split_off(calls.len());
        let further: Vec<_> = further
            .iter()
            .filter(|call| !call.starts_with("systemctl "))
            .collect();
        let expected: &[&str] = match case.manager {
            // It makes the files of the renderer.
            "netplan" => &["netplan generate"],
            // It has no unit.
            "script" => &["network revert /var/lib/hyperv-agent/ip/eth0"],
            _ => &[],
        };
        assert_eq!(further, expected, "{}", case.manager);
    }
}

#[test]
fn nothing_is_rolled_back_twice_or_after_it_was_applied() {
    let case = &cases()[1];
    let guest = case.guest(Backend::Auto);
    recover_now(&guest);
    assert!(!guest.path("state").exists());
    guest.set(&info(), LONG).unwrap();
    let after = tree(&guest);
    recover_now(&guest);
    assert_eq!(tree(&guest), after);
    assert_eq!(Case::calls(&guest), case.applied);

    case.reject(&guest, "exit 4");
    let other = IpInfo {
        dns: "1.1.1.2".to_owned(),
        ..info()
    };
    guest.set(&other, LONG).unwrap_err();
    let calls = guest.calls();
    recover_now(&guest);
    assert_eq!(tree(&guest), after);
    assert_eq!(guest.calls(), calls);

    // An incomplete undo log.
    guest.write("state/network-pending", "replaced\0/etc/passwd\n");
    recover_now(&guest);
    assert_eq!(tree(&guest), after);
    assert_eq!(guest.calls(), calls);
    assert!(!guest.path("state/network-pending").exists());
}

#[test]
fn a_failed_recovery_is_logged() {
    let case = &cases()[1];
    let guest = case.guest(Backend::Auto);
    guest.write(case.file, "previous\n");
    end_midway(&guest);
    guest.write("behaviour", "echo broken >&2; exit 1");
    recover_now(&guest);
    assert_eq!(guest.read(case.file).unwrap(), "previous\n");
    let log = guest.log.0.lock().unwrap().join("\n");
    assert!(log.contains("saying \"broken\""), "{log}");
    let backups = guest.path("state/network");
    assert!(
        log.ends_with(&format!("are in {}", backups.display())),
        "{log}"
    );
}

#[test]
fn files_are_restored_although_the_interface_cannot_be_taken_down() {
    let guest = cases()[1].guest(Backend::Auto);
    let (file, gone) = (guest.path("etc/network/x"), guest.path("usr/bin/gone"));
    let (file, gone) = (file.display(), gone.display());
    guest
        .write("etc/network/x", "new\n")
        .write("state/network/etc/network/x", "previous\n");
    let log = format!("before\0{gone}\nreplaced\0{file}\nend");
    guest.write("state/network-pending", &log);
    recover_now(&guest);
    assert_eq!(guest.read("etc/network/x").unwrap(), "previous\n");
    let log = guest.log.0.lock().unwrap().join("\n");
    assert!(log.contains("cannot roll back"), "{log}");
}

#[test]
fn a_script_of_the_site_replaces_the_manager() {
    let mut guest = cases()[1].guest(Backend::Auto);
    guest.config.network.scripts = Some(guest.path("usr/bin"));
    // Without a script, the network manager is used.
    guest.set(&info(), LONG).unwrap();
    assert_eq!(guest.calls().len(), 1);
    guest.install(&["hv_set_ifconfig"]);
    guest.set(&info(), LONG).unwrap();
    let call = "hv_set_ifconfig /var/lib/hyperv/ifcfg-eth0 /var/lib/hyperv/eth0.nmconnection";
    assert_eq!(guest.calls()[1..], [call]);

    // It fails: its previous files are restored, and it is run on those.
    let previous = tree(&guest);
    guest.write(
        "behaviour",
        "if grep -q 10.0.0.6 \"$1\"; then echo no >&2; exit 1; fi",
    );
    let other = IpInfo {
        addresses: "10.0.0.6;fd00::5".to_owned(),
        ..info()
    };
    let error = guest.set(&other, LONG).unwrap_err();
    assert!(display_chain(&error).contains("saying \"no\""), "{error}");
    assert_eq!(tree(&guest), previous);
    assert_eq!(guest.calls()[2..], [call, call]);
}

#[test]
fn suse_keeps_its_other_routes_and_settings() {
    let guest = cases()[4].guest(Backend::Auto);
    guest.write(
        "etc/sysconfig/network/ifroute-eth0",
        "default 192.168.0.1 - eth0\n10.9.0.0/16 10.0.0.9 - eth0\n",
    );
    guest.set(&info(), LONG).unwrap();
    assert_eq!(
        guest.read("etc/sysconfig/network/ifroute-eth0").unwrap(),
        "10.9.0.0/16 10.0.0.9 - eth0\ndefault 10.0.0.1 - eth0\n"
    );
    assert_eq!(
        guest.read("etc/sysconfig/network/config").unwrap(),
        "A=1\nNETCONFIG_DNS_STATIC_SERVERS=\"1.1.1.1\"\n"
    );
}

#[test]
fn red_hat_files_are_loaded_where_networkmanager_runs() {
    let guest = cases()[3].guest(Backend::Manager("ifcfg"));
    guest.install(&["nmcli"]);
    guest.write("run/NetworkManager/devices/2", "");
    guest.set(&info(), LONG).unwrap();
    assert_eq!(
        Case::calls(&guest),
        [
            "nmcli connection load /etc/sysconfig/network-scripts/ifcfg-eth0",
            "nmcli --wait N connection up uuid UUID ifname eth0"
        ]
    );
    let text = guest.read("etc/sysconfig/network-scripts/ifcfg-eth0");
    let text = text.unwrap();
    assert!(text.contains("\nAUTOCONNECT_PRIORITY=999\n"), "{text}");
    let two = IpInfo {
        gateways: "10.0.0.1;10.0.0.2".to_owned(),
        ..info()
    };
    let error = guest.set(&two, LONG).unwrap_err();
    assert_eq!(error.status(), Status::NOT_SUPPORTED);
}

#[test]
fn red_hat_files_in_force_are_changed() {
    let guest = cases()[3].guest(Backend::Auto);
    let (file, routes) = (
        "etc/sysconfig/network-scripts/ifcfg-Wired_1",
        "etc/sysconfig/network-scripts/route-Wired_1",
    );
    let text = "DEVICE=eth0\nMTU=1400\nIPADDR=192.168.7.7\nKEY_PASSWORD=secret\n";
    guest.write(file, text);
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(guest.path(file), mode).unwrap();
    guest.write(routes, "10.50.0.0/16 via 192.168.7.1 src 192.168.7.7\n");
    let before = tree(&guest);
    guest.write("behaviour", "[ $name = ifdown ] || exit 1");
    guest.set(&info(), LONG).unwrap_err();
    assert_eq!(tree(&guest), before);
    guest.write("behaviour", "");
    for _ in 0..2 {
        guest.set(&info(), LONG).unwrap();
        let text = guest.read(file).unwrap();
        assert!(text.contains("MTU=1400\nKEY_PASSWORD=secret\n"), "{text}");
        assert!(text.contains("\nIPADDR=10.0.0.5\n"), "{text}");
        assert_eq!(
            fs::metadata(guest.path(file)).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            guest.read(routes).unwrap(),
            "10.50.0.0/16 via 192.168.7.1 onlink\n"
        );
        assert_eq!(guest.read("etc/sysconfig/network-scripts/ifcfg-eth0"), None);
    }
    let log = guest.log.0.lock().unwrap().join("\n");
    assert!(!log.contains("secret"), "{log}");
    assert!(
        log.contains("not kept of the previous configuration: route-Wired_1: src 192.168.7.7"),
        "{log}"
    );
}

#[test]
fn only_a_permanent_mac_address_is_matched() {
    for case in cases() {
        let guest = case.guest(Backend::Auto);
        guest.set(&info(), LONG).unwrap();
        let has_mac = |guest: &Guest| {
            let text = guest.read(case.file).unwrap().to_lowercase();
            text.contains("00:15:5d:01:02:03")
        };
        // systemd-networkd compares with the current one.
        assert_eq!(has_mac(&guest), case.rejects == "networkctl");
        guest.write("sys/class/net/eth0/addr_assign_type", "0\n");
        guest.set(&info(), LONG).unwrap();
        let by_name = case.rejects == "wicked" || case.backend == Backend::Manager("ifupdown");
        assert_eq!(has_mac(&guest), !by_name, "{}", case.manager);
    }
}

#[test]
fn what_the_host_no_longer_waits_for_is_rolled_back() {
    fn check(case: &Case) {
        let guest = case.guest(Backend::Auto);
        guest.write(case.file, "previous\n");
        let before = tree(&guest);
        let kernel = Kernel {
            interface_by_device: &|_| Some("eth0".to_owned()),
            interfaces: &|| Ok(guest.interfaces.clone()),
        };
        let log = Logger::root(guest.log.clone(), o!());
        let deadline = Instant::now() + Duration::from_secs(10);
        let confirm = || {
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            false
        };
        let late = set_with(&kernel, &guest.config, &info(), deadline, &confirm, &log);
        assert!(late.unwrap_err().is_late(), "{}", case.manager);
        assert_eq!(tree(&guest), before, "{}", case.manager);
        assert_eq!(Case::calls(&guest), [case.applied, case.reverted].concat());
    }
    let cases = cases();
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(|| check(case));
        }
    });
}

#[test]
fn what_the_kernel_did_not_take_the_reply_to_is_rolled_back() {
    for case in cases() {
        let guest = case.guest(Backend::Auto);
        guest.write(case.file, "previous\n");
        let before = tree(&guest);
        guest.set(&info(), LONG).unwrap();
        assert_ne!(tree(&guest), before);
        let log = Logger::root(guest.log.clone(), o!());
        for _ in 0..2 {
            rollback(&guest.config, Instant::now() + LONG, &log);
            assert_eq!(tree(&guest), before, "{}", case.manager);
            let records = record::records(&guest.config.environment.runtime_dir);
            assert_eq!(records, []);
            assert_eq!(Case::calls(&guest), [case.applied, case.reverted].concat());
        }
    }
}

#[test]
fn what_other_users_can_write_is_neither_replaced_nor_run() {
    let case = &cases()[1];
    let open_to_all = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).unwrap();
    };
    let refused = |guest: &Guest| {
        let before = tree(guest);
        let error = guest.set(&info(), LONG).unwrap_err();
        let words = display_chain(&error);
        assert!(words.contains("chmod go-w"), "{words}");
        assert_eq!(error.status(), Status::FAIL);
        assert_eq!(tree(guest), before);
        assert_eq!(guest.calls(), [""; 0]);
    };
    // The directories of the manager, of the state and of the pools.
    for directory in ["etc/systemd/network", "state", "var/lib/hyperv"] {
        let guest = case.guest(Backend::Auto);
        fs::create_dir_all(guest.path(directory)).unwrap();
        open_to_all(&guest.path(directory));
        refused(&guest);
    }
    let script = cases().pop().unwrap();
    let guest = script.guest(Backend::Auto);
    open_to_all(&guest.path("etc/hyperv-agent/network"));
    refused(&guest);
    // A script that anybody can write, and one in a directory that anybody can write.
    for place in ["scripts/hv_set_ifconfig", "scripts"] {
        let mut guest = case.guest(Backend::Auto);
        guest.write(
            "scripts/hv_set_ifconfig",
            "#!/bin/sh\ntouch \"${0%/*}/../log\"\n",
        );
        fs::set_permissions(
            guest.path("scripts/hv_set_ifconfig"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        open_to_all(&guest.path(place));
        guest.config.network.scripts = Some(guest.path("scripts"));
        refused(&guest);
    }
}

#[test]
fn an_undo_log_that_others_can_write_is_ignored() {
    let guest = cases()[1].guest(Backend::Auto);
    let (victim, ran) = (guest.path("etc/victim"), guest.path("ran"));
    guest.write("etc/victim", "root's");
    let undo_log = format!(
        "new\0{}\nrevert\0/usr/bin/touch\0{}\nend",
        victim.display(),
        ran.display()
    );
    guest.write("state/network-pending", &undo_log);
    fs::set_permissions(guest.path("state"), fs::Permissions::from_mode(0o777)).unwrap();
    recover_now(&guest);
    assert!(victim.exists() && !ran.exists());
    let log = guest.log.0.lock().unwrap().join("\n");
    assert!(log.contains("chmod go-w"), "{log}");
}

#[path = "early_tests.rs"]
mod early;
