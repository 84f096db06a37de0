use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::ifupdown::interfaces::{self, Entry};
use crate::kvp::network::testing::eth0;
use crate::kvp::request;

const INTERFACES: &str = "etc/network/interfaces";

struct Machine {
    root: tempfile::TempDir,
    interface: Interface,
    target: Target,
    settings: Settings,
}

/// Returns a machine with these files, on which the host sets 10.0.0.5 and two DNS servers.
fn machine(files: &[(&str, &str)]) -> Machine {
    let root = crate::kvp::network::testing::root(files);
    let bin = root.path().join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["ifup", "ifdown", "ip", "grep"] {
        // No link: the program behind `ifup` tells whose it is.
        fs::copy("/bin/true", bin.join(name)).unwrap();
    }
    let settings = Settings {
        families: request::Family::BOTH,
        v4: vec![([10, 0, 0, 5].into(), 24)],
        dns: vec!["1.1.1.1".parse().unwrap(), "fd00::53".parse().unwrap()],
        ..Settings::default()
    };
    Machine {
        root,
        interface: eth0(&[]),
        target: Target {
            name: "eth0".to_owned(),
            mac: None,
            permanent: false,
            device: hyperv_vmbus::Guid::from_u128(1),
        },
        settings,
    }
}

impl Machine {
    fn context(&self) -> Context<'_> {
        Context {
            root: self.root.path(),
            interface: &self.interface,
            target: &self.target,
            settings: &self.settings,
            running: true,
            deadline: Instant::now(),
        }
    }

    /// Makes `ifup` a link to another program.
    fn use_program(&self, name: &str) -> &Self {
        let bin = self.root.path().join("usr/bin");
        fs::rename(bin.join("ifup"), bin.join(name)).unwrap();
        std::os::unix::fs::symlink(name, bin.join("ifup")).unwrap();
        self
    }

    fn plan(&self) -> Plan {
        plan(&self.context()).unwrap()
    }

    /// Writes the files of a plan and has the interface up by the agent's stanzas.
    fn apply(&self, plan: &Plan) {
        for file in &plan.files {
            fs::create_dir_all(file.path.parent().unwrap()).unwrap();
            fs::write(&file.path, text(file)).unwrap();
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn text(file: &NewFile) -> &str {
    file.text.as_deref().unwrap()
}

/// Returns the lines of the file behind the mapping, or of the agent's block.
fn stanzas(plan: &Plan) -> Vec<&str> {
    let lines = text(&plan.files[0]).lines();
    let stanzas = lines.skip_while(|line| !line.starts_with("iface hyperv-agent-eth0"));
    stanzas
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect()
}

/// Returns a plan's calls of a list of steps.
fn calls(steps: &[Step]) -> Vec<String> {
    let call = |step: &Step| {
        let program = step.program.file_name().unwrap().to_string_lossy();
        format!("{program} {}", step.args.join(" "))
    };
    steps.iter().map(call).collect()
}

#[test]
fn the_file_has_a_name_that_is_included() {
    for (interfaces, name) in [
        (
            "source /etc/network/interfaces.d/*\n",
            Some("hyperv-agent-eth0"),
        ),
        (
            "# x\n  source\tinterfaces.d/*.cfg \n",
            Some("hyperv-agent-eth0.cfg"),
        ),
        (
            "source-directory /etc/network/interfaces.d\n",
            Some("hyperv-agent-eth0"),
        ),
        ("source /etc/network/other/*\n", None),
        ("source /etc/network/interfaces.d/a*\n", None),
        ("source /etc/network/interfaces.d/*/*\n", None),
        ("#source /etc/network/interfaces.d/*\n", None),
        ("", None),
    ] {
        let machine = machine(&[(INTERFACES, interfaces)]);
        let path = own_file(&machine.context());
        let found = path
            .as_ref()
            .map(|path| path.file_name().unwrap().to_str().unwrap());
        assert_eq!(found, name, "{interfaces}");
    }
}

const FULL: &str = "\
auto eth0
iface common inet static
    mtu 1400
iface eth0 inet static inherits common
    address 192.168.7.7/24
    gateway 192.168.7.1
    pointopoint 192.168.7.9
    hwaddress 00:15:5d:01:02:03
    dns-nameservers 9.9.9.9 fd00::9
    dns-search example.org
    pre-up echo 'a  b'
    up ip route add 10.50.0.0/16 via 192.168.7.254
    up ip addr add 192.168.7.8/24 dev $IFACE
    down echo gone
iface eth0 inet6 static
    address fd00::7/64
    accept_ra 0
    privext 2
    up ip addr add 10.99.0.1/32 dev lo
source interfaces.d/*
";

#[test]
fn all_but_the_address_configuration_is_kept() {
    let machine = machine(&[(INTERFACES, FULL)]);
    let plan = machine.plan();
    let kept = [
        "iface hyperv-agent-eth0 inet static",
        "address 10.0.0.5/24",
        "mtu 1400",
        "hwaddress 00:15:5d:01:02:03",
        "dns-search example.org",
        "dns-nameservers 1.1.1.1 fd00::53",
        "pre-up echo 'a  b'",
        "up ip route add 10.50.0.0/16 via 192.168.7.254 dev eth0 onlink",
        "down echo gone",
        "iface hyperv-agent-eth0 inet6 auto",
        "accept_ra 0",
        "privext 2",
        "up ip addr add 10.99.0.1/32 dev lo",
    ];
    assert_eq!(stanzas(&plan), kept);
    assert_eq!(
        plan.lost,
        [
            "iface eth0: pointopoint 192.168.7.9",
            "iface eth0: up ip addr add 192.168.7.8/24 dev $IFACE"
        ]
    );
    // The same from the agent's own stanzas.
    machine.apply(&plan);
    machine.write("run/network/ifstate", "eth0=hyperv-agent-eth0\n");
    let again = machine.plan();
    assert_eq!(stanzas(&again), kept);
    assert_eq!(again.lost, [""; 0]);
}

#[test]
fn a_family_that_the_host_does_not_state_stays_as_it_is() {
    let mut machine = machine(&[(INTERFACES, FULL)]);
    machine.settings.families = request::Family::V4;
    machine.settings.dns.truncate(1);
    machine.settings.gateways4 = vec!["10.0.0.1".parse().unwrap()];
    let plan = machine.plan();
    let lines = stanzas(&plan).join("\n");
    assert!(lines.contains("dns-nameservers 1.1.1.1 fd00::9"), "{lines}");
    assert!(
        lines.ends_with(
            "iface hyperv-agent-eth0 inet6 static\naddress fd00::7/64\naccept_ra 0\nprivext 2\n\
             up ip addr add 10.99.0.1/32 dev lo"
        ),
        "{lines}"
    );
    assert!(calls(&plan.stop).contains(&"ip -4 address flush dev eth0 scope global".to_owned()));

    machine.settings = Settings {
        families: request::Family::V6,
        v6: vec![("fd00::8".parse().unwrap(), 64)],
        ..Settings::default()
    };
    let plan = machine.plan();
    let lines = stanzas(&plan).join("\n");
    for line in [
        "iface hyperv-agent-eth0 inet6 static\naddress fd00::8/64\nautoconf 1\naccept_ra 0",
        "inet static\nmtu 1400\naddress 192.168.7.7/24\ngateway 192.168.7.1\npointopoint",
        "up ip route add 10.50.0.0/16 via 192.168.7.254\n",
        "up ip addr add 192.168.7.8/24 dev $IFACE",
        "dns-nameservers 9.9.9.9\n",
    ] {
        // The value of fd00::9 is of the family that is replaced.
        assert!(lines.contains(line), "{line}: {lines}");
    }
    assert!(!lines.contains("fd00::7"), "{lines}");
    assert_eq!(plan.lost, [""; 0]);
    assert!(!calls(&plan.stop).iter().any(|call| call.contains("flush")));
}

#[test]
fn dhcp_has_the_mtu_by_a_command() {
    let mut machine = machine(&[(INTERFACES, FULL)]);
    machine.settings = Settings {
        families: request::Family::BOTH,
        dhcp4: true,
        ..Settings::default()
    };
    let plan = machine.plan();
    let first: Vec<&str> = stanzas(&plan).into_iter().take(3).collect();
    assert_eq!(
        first,
        [
            "iface hyperv-agent-eth0 inet dhcp",
            "pre-up ip link set dev $IFACE mtu 1400",
            "mtu 1400"
        ]
    );
    machine.apply(&plan);
    machine.write("run/network/ifstate", "eth0=hyperv-agent-eth0\n");
    let again = stanzas(&machine.plan()).join("\n");
    assert_eq!(again.matches("pre-up ip link").count(), 1, "{again}");
}

#[test]
fn a_logical_name_by_pattern_is_mapped_and_restored() {
    let text = "auto /eth*=lan\niface lan inet dhcp\nsource interfaces.d/*\n";
    let state = "lo=lo\neth0=lan\neth1=lan\n";
    let machine = machine(&[(INTERFACES, text), ("run/network/ifstate", state)]);
    let plan = machine.plan();
    assert!(text_of(&plan).contains("\nmapping eth0 lan\n"), "{plan:?}");
    assert_eq!(calls(&plan.apply), ["ifup eth0=hyperv-agent-eth0"]);
    assert_eq!(calls(&plan.revert), ["ifup eth0=lan"]);
    // The mapping stays with the second configuration.
    machine.apply(&plan);
    machine.write("run/network/ifstate", "eth0=hyperv-agent-eth0\neth1=lan\n");
    let again = machine.plan();
    assert_eq!(text_of(&again), text_of(&plan));
    assert_eq!(calls(&again.revert), ["ifup eth0=hyperv-agent-eth0"]);
    // `grep eth` would map this one, too.
    machine.write("run/network/ifstate", "eth0=lan\neth=lan\n");
    let error = super::plan(&machine.context()).unwrap_err().to_string();
    assert!(error.contains("eth0 and eth are both up as lan"), "{error}");
}

fn text_of(plan: &Plan) -> &str {
    text(&plan.files[0])
}

#[test]
fn secrets_stay_secret_and_other_bytes_do_not_matter() {
    let machine = machine(&[]);
    let path = machine.root.path().join(INTERFACES);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = b"# gew\xe4hlt\nsource /etc/network/interfaces.d/*\n\
                 iface eth0 inet dhcp\n wpa-psk secret\n";
    fs::write(&path, text).unwrap();
    for (mode, expected) in [(0o644, 0o644), (0o600, 0o600), (0o440, 0o640)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let plan = plan(&machine.context()).unwrap();
        let text = plan.files[0].text.as_deref().unwrap();
        assert!(text.contains("wpa-psk secret"), "{text}");
        assert_eq!(plan.files[0].mode, Some(expected));
    }
}

#[test]
fn a_line_that_ends_with_a_backslash_does_not_continue() {
    let text = "source /etc/network/interfaces.d/*\niface eth0 inet dhcp\n hostname a\\ \n up b\n";
    let machine = machine(&[(INTERFACES, text)]);
    let plan = plan(&machine.context()).unwrap();
    let text = plan.files[0].text.as_deref().unwrap();
    let entries = interfaces::parse(text);
    let option = |key: &str, value: &str| Entry::Option {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    assert!(entries.contains(&option("hostname", "a\\")), "{text}");
    assert!(entries.contains(&option("up", "b")), "{text}");
}

#[test]
fn an_interface_that_was_down_is_not_brought_up_by_a_rollback() {
    let machine = machine(&[(INTERFACES, "source interfaces.d/*\n")]);
    assert_eq!(calls(&machine.plan().revert), [""; 0]);
    machine.write(INTERFACES, "source interfaces.d/*\niface eth0 inet dhcp\n");
    assert_eq!(calls(&machine.plan().revert), ["ifup eth0"]);
}

#[test]
fn what_is_above_the_interface_is_brought_up_again() {
    let state = "eth0=eth0\neth0.5=vlan\nmv0=mv0\nlo=lo\n";
    let machine = machine(&[
        (INTERFACES, FULL),
        ("run/network/ifstate", state),
        ("sys/class/net/eth0/upper_eth0.5/x", ""),
        ("sys/class/net/eth0/upper_other/x", ""),
        ("sys/class/net/eth0.5/upper_mv0/x", ""),
        ("sys/class/net/eth0.5/lower_eth0/x", ""),
    ]);
    let plan = machine.plan();
    assert_eq!(
        calls(&plan.stop),
        [
            "ifdown --force mv0",
            "ifdown --force eth0.5",
            "ifdown --force eth0",
            "ip -4 address flush dev eth0 scope global"
        ]
    );
    assert_eq!(
        calls(&plan.apply),
        [
            "ifup eth0=hyperv-agent-eth0",
            "ifup eth0.5=vlan",
            "ifup mv0=mv0"
        ]
    );
    assert_eq!(
        calls(&plan.revert),
        ["ifup eth0=eth0", "ifup eth0.5=vlan", "ifup mv0=mv0"]
    );
}

#[test]
fn a_second_adapter_leaves_the_default_route_of_the_first() {
    let text = "iface eth1 inet static\n address 192.168.7.7/24\n gateway 192.168.7.1\n\
                source interfaces.d/*\n";
    let mut machine = machine(&[(INTERFACES, text), ("run/network/ifstate", "eth1=eth1\n")]);
    machine.settings.gateways4 = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
    let metric = 2048 + 64 * machine.interface.index;
    let plan = machine.plan();
    for (gateway, metric) in [("10.0.0.1", metric), ("10.0.0.2", metric + 1)] {
        let route =
            format!("up ip route replace default via {gateway} dev $IFACE onlink metric {metric}");
        assert!(stanzas(&plan).contains(&&*route), "{plan:?}");
    }
}

/// Returns the new `/etc/resolv.conf`.
fn servers(machine: &Machine) -> Option<String> {
    let plan = machine.plan();
    let mut files = plan.files.iter();
    let file = files.find(|file| file.path.ends_with("etc/resolv.conf"))?;
    Some(text(file).to_owned())
}

#[test]
fn dns_servers_go_into_resolv_conf() {
    let machine = machine(&[(INTERFACES, "source interfaces.d/*\n")]);
    let path = machine.root.path().join("etc/resolv.conf");
    fs::write(
        &path,
        "search example.org\nnameserver 9.9.9.9\noptions rotate\n",
    )
    .unwrap();
    assert_eq!(
        servers(&machine).unwrap(),
        "search example.org\noptions rotate\nnameserver 1.1.1.1\nnameserver fd00::53\n"
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(
        servers(&machine).unwrap(),
        "nameserver 1.1.1.1\nnameserver fd00::53\n"
    );
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    assert_eq!(servers(&machine), None);
}

#[test]
fn dns_servers_of_other_interfaces_stay() {
    let text = "iface eth0 inet static\n dns-nameservers 10.0.0.9\niface eth1 inet static\n \
                dns-nameservers 9.9.9.9\nsource interfaces.d/*\n";
    let resolv =
        "nameserver 10.0.0.9\nnameserver 9.9.9.9\nnameserver 8.8.8.8\nnameserver fd00::9\n";
    let mut machine = machine(&[
        (INTERFACES, text),
        ("run/network/ifstate", "eth0=eth0\neth1=eth1\n"),
        ("etc/resolv.conf", resolv),
    ]);
    machine.settings.dns = vec!["1.1.1.1".parse().unwrap(), "fe80::1".parse().unwrap()];
    assert_eq!(
        servers(&machine).unwrap(),
        "nameserver 1.1.1.1\nnameserver fe80::1%eth0\nnameserver 9.9.9.9\n"
    );
    // The family that the host does not state, and those that may be of the default route.
    machine.settings.families = request::Family::V4;
    machine.settings.dns.truncate(1);
    machine.write(
        "etc/network/interfaces",
        &text.replace("eth1 inet static\n", "eth1 inet dhcp\n"),
    );
    assert_eq!(
        servers(&machine).unwrap(),
        "nameserver 9.9.9.9\nnameserver 8.8.8.8\nnameserver fd00::9\nnameserver 1.1.1.1\n"
    );
}

#[test]
fn busybox_has_its_stanzas_replaced() {
    let machine = machine(&[(INTERFACES, FULL)]);
    let plan = machine.use_program("busybox").plan();
    assert_eq!(calls(&plan.apply), ["ifup eth0"]);
    assert_eq!(calls(&plan.revert), ["ifup eth0"]);
    assert_eq!(calls(&plan.stop)[0], "ifdown -f eth0");
    let once = text_of(&plan).to_owned();
    assert!(
        once.contains(
            "wrote for eth0\niface eth0 inet static\n    address 10.0.0.5\n    \
             netmask 255.255.255.0\n    mtu 1400\n"
        ),
        "{once}"
    );
    // BusyBox has no SLAAC, and no reason for the stanza but what is kept.
    assert!(
        once.contains("\niface eth0 inet6 manual\n    accept_ra 0\n"),
        "{once}"
    );
    machine.apply(&plan);
    assert_eq!(text_of(&machine.plan()), once);
}

#[test]
fn ifupdown2_is_not_taken_for_ifupdown() {
    let program = "usr/share/ifupdown2/__main__.py";
    let machine = machine(&[(INTERFACES, FULL), (program, "")]);
    let ifup = machine.root.path().join("usr/bin/ifup");
    fs::copy(&ifup, machine.root.path().join(program)).unwrap();
    fs::remove_file(&ifup).unwrap();
    std::os::unix::fs::symlink("../share/ifupdown2/__main__.py", &ifup).unwrap();
    let error = plan(&machine.context()).unwrap_err().to_string();
    assert!(error.contains("ifupdown2"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_whole_is_not_rewritten() {
    let machine = machine(&[(INTERFACES, FULL)]);
    machine.use_program("busybox");
    let path = machine.root.path().join(INTERFACES);
    let comment = |bytes: &[u8]| [b"# ", bytes, b"\n", FULL.as_bytes()].concat();
    for bytes in [comment(b"\xe9"), comment(&[b'x'; 1 << 20])] {
        fs::write(&path, bytes).unwrap();
        let error = plan(&machine.context()).unwrap_err().to_string();
        assert!(
            error.contains("/etc/network/interfaces is too long"),
            "{error}"
        );
    }
}

#[test]
fn ifupdown_ng_has_one_stanza() {
    let text = "auto eth0\niface eth0\n  use dhcp\n  mtu 1400\n  address fd00::7/64\n\
                iface eth0 inet static\n  address 192.168.7.7\n  netmask 255.255.0.0\n";
    let mut machine = machine(&[(INTERFACES, text)]);
    machine.settings.families = request::Family::V4;
    let plan = machine.use_program("ifupdown").plan();
    let once = text_of(&plan).to_owned();
    assert!(
        once.contains(
            "\niface eth0\n    address 10.0.0.5/24\n    mtu 1400\n    address fd00::7/64\n    \
             dns-nameservers 1.1.1.1 fd00::53\n# End"
        ),
        "{once}"
    );
    machine.apply(&plan);
    assert_eq!(text_of(&machine.plan()), once);
    machine.settings = Settings {
        families: request::Family::V6,
        v6: vec![("fd00::8".parse().unwrap(), 64)],
        ..Settings::default()
    };
    machine.write(INTERFACES, text);
    let text = text_of(&machine.plan()).to_owned();
    assert!(
        text.contains(
            "\niface eth0\n    address fd00::8/64\n    use dhcp\n    mtu 1400\n    \
             address 192.168.7.7/16\n# End"
        ),
        "{text}"
    );
}
