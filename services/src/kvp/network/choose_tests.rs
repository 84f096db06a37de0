use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::kvp::network::testing::{eth0, root};

const NM: (&str, &str) = ("run/NetworkManager/devices/2", "[device]\nmanaged=true\n");
const LINK: &str = "run/systemd/netif/links/2";
const NETWORKD: [(&str, &str); 2] = [
    ("run/systemd/netif/state", ""),
    (LINK, "ADMIN_STATE=configured\n"),
];
const IFUPDOWN: [(&str, &str); 2] = [
    (
        "etc/network/interfaces",
        "auto eth0\niface eth0 inet dhcp\n",
    ),
    ("usr/sbin/ifup", ""),
];
const NETPLAN: [(&str, &str); 2] = [
    ("etc/netplan/50-cloud-init.yaml", "network: {}\n"),
    ("usr/sbin/netplan", ""),
];
const NETWORK_FILE: (&str, &str) = ("etc/systemd/network/10.network", "[Match]\nName=eth*\n");

/// Returns the chosen manager and whether it runs, on a machine with these files where these
/// units have jobs to start, and these have failed.
fn choice(
    backend: Backend,
    files: &[(&str, &str)],
    starting: &[&str],
    failed: &[&str],
) -> Result<(&'static str, bool), InjectError> {
    let root = root(files);
    let root = root.path();
    fs::create_dir_all(root.join("run/systemd/system")).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    let systemctl = format!(
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift\nfor unit; do\n\
         state=inactive job=0\n\
         case \" {} \" in *\" $unit \"*) job=1 ;; esac\n\
         case \" {} \" in *\" $unit \"*) state=failed ;; esac\n\
         printf 'LoadState=loaded\\nActiveState=%s\\nJob=%s\\n\\n' $state $job\ndone\n",
        starting.join(" "),
        failed.join(" ")
    );
    fs::write(root.join("usr/bin/systemctl"), systemctl).unwrap();
    for program in ["usr/bin/systemctl", "usr/sbin/ifup", "usr/sbin/netplan"] {
        let path = root.join(program);
        if path.exists() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let choice = choose(root, backend, &eth0(&[]))?;
    Ok((choice.manager.key(), choice.running))
}

#[test]
fn one_in_charge_comes_before_one_that_will_be_and_one_that_is_installed() {
    let auto = |files: &[&[(&str, &str)]], starting: &[&str]| {
        choice(Backend::Auto, &files.concat(), starting, &[]).unwrap()
    };
    let nm = "NetworkManager.service";
    let networkd = "systemd-networkd.service";
    assert_eq!(auto(&[&IFUPDOWN], &[]), ("ifupdown", true));
    assert_eq!(auto(&[&IFUPDOWN], &[nm]), ("networkmanager", false));
    assert_eq!(auto(&[&IFUPDOWN, &[NM]], &[]), ("networkmanager", true));
    // ifupdown has brought it up.
    let up = ("run/network/ifstate", "eth0=eth0\n");
    assert_eq!(auto(&[&IFUPDOWN, &[up]], &[nm]), ("ifupdown", true));
    assert_eq!(
        auto(&[&IFUPDOWN], &["networking.service"]),
        ("ifupdown", false)
    );
    // systemd-networkd starts, and has a file for the interface or none.
    assert_eq!(auto(&[&IFUPDOWN], &[networkd]), ("ifupdown", true));
    assert_eq!(
        auto(&[&IFUPDOWN, &[NETWORK_FILE]], &[networkd]),
        ("networkd", false)
    );
    // It runs, but nobody can tell it anything.
    assert_eq!(auto(&[&NETWORKD], &["dbus.service"]), ("networkd", false));
    assert_eq!(auto(&[&NETWORKD], &[]), ("networkd", true));
    // It has not decided yet.
    let pending = [NETWORKD[0], (LINK, "ADMIN_STATE=pending\n")];
    assert_eq!(auto(&[&IFUPDOWN, &pending], &[]), ("ifupdown", true));
    // Netplan's renderer is the one that starts.
    assert_eq!(auto(&[&NETPLAN], &[networkd]), ("netplan", false));
    assert_eq!(auto(&[&NETPLAN, &NETWORKD], &[]), ("netplan", true));
    let conf = (
        "run/NetworkManager/conf.d/10-globally-managed-devices.conf",
        "",
    );
    assert_eq!(auto(&[&NETPLAN, &[conf]], &[nm]), ("netplan", false));
}

#[test]
fn a_named_manager_is_used_whatever_its_state() {
    let named = |starting: &[&str]| {
        let backend = Backend::Manager("networkmanager");
        choice(backend, &IFUPDOWN, starting, &[]).unwrap()
    };
    assert_eq!(
        named(&["NetworkManager.service"]),
        ("networkmanager", false)
    );
    assert_eq!(named(&[]), ("networkmanager", true));
    let off = choice(Backend::Off, &IFUPDOWN, &[], &[]);
    assert!(matches!(off, Err(InjectError::Off)));
}

#[test]
fn a_manager_that_failed_is_named() {
    let failed = |units: &[&str]| {
        let error = choice(Backend::Auto, &[], &[], units).unwrap_err();
        error.to_string()
    };
    assert!(failed(&[]).contains("is in charge of eth0; `hyperv-agent kvp ip`"));
    let words = failed(&["NetworkManager.service"]);
    assert!(
        words.contains("of eth0 (NetworkManager.service failed to start); `hyperv-agent kvp ip`"),
        "{words}"
    );
}
