use std::time::Instant;

use super::*;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::testing::eth0;

struct Machine {
    root: tempfile::TempDir,
    interface: Interface,
    target: Target,
    settings: Settings,
}

fn machine() -> Machine {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/network")).unwrap();
    fs::create_dir_all(root.path().join("usr/bin")).unwrap();
    let settings = Settings {
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
        let machine = machine();
        fs::write(
            machine.root.path().join("etc/network/interfaces"),
            interfaces,
        )
        .unwrap();
        let path = own_file(&machine.context());
        let found = path
            .as_ref()
            .map(|path| path.file_name().unwrap().to_str().unwrap());
        assert_eq!(found, name, "{interfaces}");
    }
}

#[test]
fn dns_servers_go_into_resolv_conf() {
    let machine = machine();
    let path = machine.root.path().join("etc/resolv.conf");
    fs::write(
        &path,
        "search example.org\nnameserver 9.9.9.9\noptions rotate\n",
    )
    .unwrap();
    let file = resolv_conf(&machine.context()).unwrap().unwrap();
    assert_eq!(
        file.text.unwrap(),
        "search example.org\noptions rotate\nnameserver 1.1.1.1\nnameserver fd00::53\n"
    );
    fs::remove_file(&path).unwrap();
    let file = resolv_conf(&machine.context()).unwrap().unwrap();
    assert_eq!(
        file.text.unwrap(),
        "nameserver 1.1.1.1\nnameserver fd00::53\n"
    );
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    assert!(resolv_conf(&machine.context()).unwrap().is_none());
}

#[test]
fn busybox_is_not_taken_for_ifupdown() {
    let machine = machine();
    let (root, bin) = (machine.root.path(), machine.root.path().join("usr/bin"));
    fs::write(
        root.join("etc/network/interfaces"),
        "source interfaces.d/*\n",
    )
    .unwrap();
    for name in ["busybox", "ifdown", "grep"] {
        std::os::unix::fs::symlink("/bin/true", bin.join(name)).unwrap();
    }
    fs::remove_file(bin.join("busybox")).unwrap();
    fs::copy("/bin/true", bin.join("busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", bin.join("ifup")).unwrap();
    let error = plan(&machine.context()).unwrap_err();
    assert!(error.to_string().contains("BusyBox"), "{error}");
}
