use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::kvp::network::testing::root;

const UNITS: [&str; 2] = ["systemd-networkd.service", BUS];

/// Returns what is made of an answer of systemctl.
fn answer(text: &str) -> Option<Startup> {
    let root = root(&[("run/systemd/system/x", ""), ("answer", text)]);
    let program = root.path().join("usr/bin/systemctl");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(
        &program,
        "#!/bin/sh\nroot=${0%/usr/bin/*}\necho \"$*\" >\"$root/call\"\ncat \"$root/answer\"\n",
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let startup = systemd(root.path(), &UNITS);
    let call = fs::read_to_string(root.path().join("call")).unwrap();
    assert_eq!(
        call.trim_end(),
        "show --no-pager --property=LoadState,ActiveState,Job -- systemd-networkd.service \
         dbus.service"
    );
    startup
}

#[test]
fn systemd_tells_by_state_and_job() {
    let running = "LoadState=loaded\nActiveState=active\nJob=0\n";
    let starting = "Job=17\nLoadState=loaded\nActiveState=inactive\n";
    let activating = "LoadState=loaded\nActiveState=activating\n";
    let stopped = "LoadState=loaded\nActiveState=inactive\n";
    let failed = "LoadState=loaded\nActiveState=failed\n";
    let retried = "LoadState=loaded\nActiveState=failed\nJob=3\n";
    let missing = "LoadState=not-found\nActiveState=inactive\n";
    let masked = "LoadState=masked\nActiveState=inactive\nJob=0\n";
    for (first, second, expected) in [
        (running, running, Startup::Running),
        (running, missing, Startup::Running),
        (running, starting, Startup::Starting),
        (starting, running, Startup::Starting),
        (starting, starting, Startup::Starting),
        (activating, running, Startup::Starting),
        (retried, running, Startup::Starting),
        (failed, starting, Startup::Failed),
        (stopped, starting, Startup::Absent),
        (missing, running, Startup::Absent),
        (masked, running, Startup::Absent),
    ] {
        let text = format!("{first}\n{second}");
        assert_eq!(answer(&text), Some(expected), "{text}");
    }
    // Not an answer for two units.
    assert_eq!(answer(running), None);
    assert_eq!(answer(""), None);
}

#[test]
fn openrc_tells_by_its_directories() {
    let of_files = |files: &[&str]| {
        let files: Vec<_> = files.iter().map(|path| (*path, "")).collect();
        of(root(&files).path(), &["networking.service"])
    };
    let enabled = "etc/runlevels/boot/networking";
    let softlevel = "run/openrc/softlevel";
    assert_eq!(of_files(&[softlevel, enabled]), Startup::Starting);
    assert_eq!(of_files(&[softlevel]), Startup::Absent);
    let started = "run/openrc/started/networking";
    assert_eq!(of_files(&[enabled, started]), Startup::Running);
    let failed = "run/openrc/failed/networking";
    assert_eq!(of_files(&[enabled, failed]), Startup::Failed);
}

#[test]
fn without_a_service_manager_links_tell_what_is_enabled() {
    for (link, expected) in [
        (
            "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            Startup::Starting,
        ),
        (
            "run/systemd/generator/multi-user.target.wants/systemd-networkd.service",
            Startup::Starting,
        ),
        (
            "usr/lib/systemd/system/multi-user.target.wants/other.service",
            Startup::Absent,
        ),
        ("etc/rc3.d/S03systemd-networkd", Startup::Starting),
        ("etc/rc3.d/K03systemd-networkd", Startup::Absent),
        ("etc/rc3.d/S03systemd-networkd-wait", Startup::Absent),
    ] {
        assert_eq!(of(root(&[(link, "")]).path(), &UNITS), expected, "{link}");
    }
    let wanted = "usr/lib/systemd/system/multi-user.target.wants/systemd-networkd.service";
    let root = root(&[(wanted, ""), ("etc/systemd/system/x", "")]);
    assert_eq!(of(root.path(), &UNITS), Startup::Starting);
    let mask = root
        .path()
        .join("etc/systemd/system/systemd-networkd.service");
    symlink("/dev/null", mask).unwrap();
    assert_eq!(of(root.path(), &UNITS), Startup::Absent);
    // A manager without a unit is not known to be stopped.
    assert_eq!(of(root.path(), &[]), Startup::Running);
}
