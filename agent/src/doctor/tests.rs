//! Each check, on a machine that provokes its findings.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use hyperv_services::registry::{self, SERVICES};
use hyperv_services::vss::device_number::DeviceNumber;
use hyperv_services::vss::state_file::{self, FreezeRecord, FrozenFileSystem};
use hyperv_vmbus::discovery::Roots;

use super::finding::Level;
use hyperv_services::vss::hooks::OnFailure;

use super::*;
use crate::salvage::{self, Salvaged};

const INSTANCE: &str = "eb765408-105f-49b6-b4aa-c123b64d17d4";

/// A machine below a directory.
struct Made {
    home: tempfile::TempDir,
    machine: Machine,
}

impl Made {
    /// A guest whose host offers nothing, without systemd.
    fn new() -> Self {
        Self::configured("")
    }

    fn configured(text: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().to_owned();
        let config_path = root.join("config.toml");
        let directories = format!(
            "state-directory = {:?}\nruntime-directory = {:?}\n{text}",
            root.join("state"),
            root.join("runtime")
        );
        fs::write(&config_path, directories).unwrap();
        let Salvaged {
            mut config,
            problem,
        } = salvage::load(Some(&config_path)).unwrap();
        config.environment.root.clone_from(&root);
        config.service = config.service.clone().in_environment(&config.environment);
        config.service.kvp.directory = root.join("pools");
        config.service.vss.hooks.directory = root.join("hooks");
        let mut services = SERVICES.to_vec();
        services.retain(|it| *config.services.get(it.name).unwrap_or(&it.default));
        let made = Self {
            machine: Machine {
                roots: Roots {
                    sys: root.join("sys"),
                    dev: root.join("dev"),
                },
                root,
                config,
                config_path,
                config_error: problem.map(|it| it.error),
                services,
                systemctl: None,
                is_root: true,
            },
            home,
        };
        fs::create_dir_all(made.path("sys/bus/vmbus/devices")).unwrap();
        made
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.home.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Has the host offer the device of a service.
    fn offer(&self, service: &str, driver: Option<&str>) {
        let class = registry::by_name(service).unwrap().class;
        let directory = self.path(&format!("sys/bus/vmbus/devices/{INSTANCE}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("class_id"), format!("{{{class}}}\n")).unwrap();
        if let Some(driver) = driver {
            symlink(format!("../../drivers/{driver}"), directory.join("driver")).unwrap();
        }
    }

    /// Has `uio_hv_generic` take the device.
    fn uio(&self, service: &str) {
        self.offer(service, Some("uio_hv_generic"));
        let uio = format!("sys/bus/vmbus/devices/{INSTANCE}/uio/uio7");
        fs::create_dir_all(self.path(&uio)).unwrap();
        self.write("sys/class/uio/uio7/maps/map0/size", "0x8000\n");
    }

    fn process(&self, pid: u32, command: &str) {
        let directory = format!("proc/{pid}");
        self.write(&format!("{directory}/cmdline"), &command.replace(' ', "\0"));
    }

    /// Has `systemctl` print this.
    fn systemctl(&mut self, output: &str) {
        let text = self.write("output", output);
        let script = format!("#!/bin/sh\ncat {}\n", text.display());
        let program = self.write("systemctl", &script);
        set_mode(&program, 0o755);
        self.machine.systemctl = Some(program);
    }

    /// Has an agent answer with this status, once.
    fn status(&self, document: String) -> thread::JoinHandle<()> {
        fs::create_dir_all(self.path("runtime")).unwrap();
        let socket = UnixListener::bind(self.path("runtime/control")).unwrap();
        thread::spawn(move || {
            let (mut client, _) = socket.accept().unwrap();
            client.write_all(document.as_bytes()).unwrap();
        })
    }

    /// Makes a check, and returns the level and the text of each finding.
    #[track_caller]
    fn check(&self, name: &str) -> Vec<(Level, String)> {
        let check = CHECKS.iter().find(|check| check.name == name).unwrap();
        let found = (check.run)(&self.machine).into_iter();
        found
            .map(|it| (it.level, format!("{}\n{}", it.text, it.remedy)))
            .collect()
    }

    /// Makes a check that has one finding, whose text or remedy has all of `parts`.
    #[track_caller]
    fn finds(&self, name: &str, level: Level, parts: &[&str]) {
        let found = self.check(name);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, level, "{found:?}");
        for part in parts {
            assert!(found[0].1.contains(part), "{part}: {found:?}");
        }
    }

    #[track_caller]
    fn finds_nothing(&self, name: &str) {
        assert_eq!(self.check(name), []);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn hypervisor() {
    let made = Made::new();
    made.finds_nothing("hypervisor");
    fs::remove_dir_all(made.path("sys/bus")).unwrap();
    made.finds("hypervisor", Level::Error, &["is not a Hyper-V guest"]);
    assert!(!made.machine.is_hyperv_guest());
    made.write("sys/class/dmi/id/sys_vendor", "Microsoft Corporation\n");
    made.write("sys/class/dmi/id/product_name", "Virtual Machine\n");
    made.finds("hypervisor", Level::Error, &["modprobe hv_vmbus"]);
    fs::create_dir_all(made.path("dev/vmbus")).unwrap();
    made.finds("hypervisor", Level::Note, &["container"]);
}

#[test]
fn offered() {
    let made = Made::configured("[services]\nvss = false\n");
    let found = made.check("offered");
    let levels: Vec<_> = found.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [Level::Note, Level::Warning], "{found:?}");
    assert!(found[0].1.contains("Guest Service Interface"), "{found:?}");
    made.offer("fcopy", None);
    made.finds(
        "offered",
        Level::Warning,
        &["-Name 'Key-Value Pair Exchange'"],
    );
    made.write("dev/vmbus/hv_kvp", "");
    made.finds_nothing("offered");
}

#[test]
fn modules() {
    let made = Made::new();
    made.offer("kvp", None);
    made.write("proc/sys/kernel/osrelease", "6.1.0\n");
    // The modules are elsewhere, as in NixOS.
    made.finds("modules", Level::Error, &["modprobe hv_utils"]);
    made.write("lib/modules/6.1.0/modules.dep", "");
    made.finds("modules", Level::Error, &["6.1.0 has no module hv_utils"]);
    made.write(
        "lib/modules/6.1.0/modules.dep",
        "kernel/drivers/hv/hv_utils.ko.xz:\n",
    );
    made.finds(
        "modules",
        Level::Error,
        &["is not loaded", "modprobe hv_utils"],
    );
    made.write("etc/modprobe.d/no.conf", "# all\nblacklist hv-utils\n");
    made.finds(
        "modules",
        Level::Error,
        &["/etc/modprobe.d/no.conf forbids it"],
    );
    fs::create_dir_all(made.path("sys/bus/vmbus/drivers/hv_utils")).unwrap();
    made.finds_nothing("modules");
    made.offer("fcopy", None);
    made.finds("modules", Level::Error, &["no module uio_hv_generic"]);
}

#[test]
fn devices() {
    let made = Made::new();
    made.finds_nothing("devices");
    made.offer("kvp", None);
    made.finds("devices", Level::Error, &["no driver has the device"]);
    made.offer("kvp", Some("hv_utils"));
    made.finds(
        "devices",
        Level::Error,
        &["there is no", "hv_kvp", "udevadm"],
    );
    made.offer("kvp", Some("other"));
    made.finds(
        "devices",
        Level::Error,
        &["the driver other has", "other/unbind"],
    );
    made.uio("kvp");
    made.finds("devices", Level::Error, &["there is no", "dev/uio7"]);
    made.write("dev/uio7", "");
    made.finds_nothing("devices");
    let made = Made::configured("bind-uio = false\n");
    made.offer("fcopy", None);
    made.finds("devices", Level::Error, &["bind-uio is false"]);
}

#[test]
fn old_daemons() {
    let mut made = Made::configured("[services]\nvss = false\n");
    made.process(7, "/usr/sbin/hv_kvp_daemon -n");
    // The agent does not serve that.
    made.process(8, "/usr/sbin/hv_vss_daemon -n");
    // This is the agent.
    made.process(9, "/usr/sbin/hv_fcopy_daemon -n");
    symlink("/usr/sbin/hyperv-agent", made.path("proc/9/exe")).unwrap();
    made.finds(
        "old-daemons",
        Level::Error,
        &["hv_kvp_daemon runs (process 7)", "disable"],
    );
    fs::remove_dir_all(made.path("proc")).unwrap();
    let unit = |name: &str, state: &str, drop_in: &str| {
        format!(
            "Id={name}\nLoadState=loaded\nUnitFileState={state}\nActiveState=inactive\n\
             DropInPaths={drop_in}\n\n"
        )
    };
    let drop_in = "/usr/lib/systemd/system/x.service.d/hyperv-agent.conf";
    made.systemctl(
        &(unit("hypervkvpd.service", "enabled", "")
            // The same unit under another of its names.
            + &unit("hypervkvpd.service", "enabled", "")
            + &unit("hypervvssd.service", "enabled", "")
            + &unit("hv-kvp-daemon.service", "enabled", drop_in)
            + &unit("hypervfcopyd.service", "disabled", "")),
    );
    made.finds(
        "old-daemons",
        Level::Warning,
        &["disable --now hypervkvpd.service"],
    );
    made.systemctl("exit");
    made.finds_nothing("old-daemons");
    made.uio("fcopy");
    let node = made.write("dev/uio7", "");
    made.finds_nothing("old-daemons");
    // The process that makes the check may have it open, the agent's as well.
    let _open = File::open(node).unwrap();
    made.finds_nothing("old-daemons");
    made.process(4_194_305, "/usr/sbin/hyperv-agent run");
    made.finds(
        "old-daemons",
        Level::Error,
        &["uio7 open", "stop that program"],
    );
}

#[test]
fn configuration() {
    Made::new().finds_nothing("configuration");
    let made = Made::configured("bind-uio = 7\n[services]\nvss = false\n");
    assert!(!made.machine.is_on("vss"), "the rest is valid");
    made.finds(
        "configuration",
        Level::Error,
        &["config.toml", "check-config", "bind-uio = 7"],
    );
    let made = Made::configured("[services]\nfcopy = false\nkvp = false\nvss = false\n");
    made.finds("configuration", Level::Warning, &["all services off"]);
    let made = Made::new();
    set_mode(&made.machine.config_path, 0o666);
    made.finds(
        "configuration",
        Level::Warning,
        &["mode 0666", "chmod go-w"],
    );
}

#[test]
fn unit() {
    let mut made = Made::new();
    made.finds("unit", Level::Unchecked, &["systemd does not run"]);
    let good = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\n";
    made.systemctl(good);
    made.finds_nothing("unit");
    for (output, level, part) in [
        (
            "LoadState=masked\nUnitFileState=masked\n",
            Level::Error,
            "unmask",
        ),
        ("LoadState=not-found\n", Level::Warning, "install"),
        (
            "LoadState=bad-setting\n",
            Level::Error,
            "systemd-analyze verify",
        ),
        (
            "LoadState=loaded\nUnitFileState=disabled\n",
            Level::Warning,
            "enable --now",
        ),
        (
            "LoadState=loaded\nActiveState=failed\nResult=exit-code\n",
            Level::Error,
            "failed (exit-code)",
        ),
        (
            "LoadState=loaded\nActiveState=inactive\nConditionResult=no\n",
            Level::Warning,
            "a condition was not met",
        ),
        (
            "LoadState=loaded\nNeedDaemonReload=yes\n",
            Level::Warning,
            "daemon-reload",
        ),
        (
            "LoadState=loaded\nDropInPaths=/etc/x.conf\n",
            Level::Note,
            "/etc/x.conf",
        ),
    ] {
        made.systemctl(output);
        made.finds("unit", level, &[part]);
    }
    let program = made.write("systemctl", "#!/bin/sh\necho no bus >&2; exit 1\n");
    set_mode(&program, 0o755);
    made.finds("unit", Level::Unchecked, &["no bus"]);
}

#[test]
fn boot_order() {
    let mut made = Made::new();
    made.finds("boot-order", Level::Unchecked, &["systemd does not run"]);
    let own = |before: &str, after: &str| {
        format!(
            "Id=hyperv-agent.service\nLoadState=loaded\nBefore={before}\nAfter={after}\n\n\
             Id=cloud-init-local.service\nLoadState=loaded\nBefore=\nAfter=\n\n\
             Id=waagent.service\nLoadState=not-found\n"
        )
    };
    made.systemctl(&own("cloud-init-local.service", "systemd-journald.socket"));
    made.finds_nothing("boot-order");
    made.systemctl(&own("", ""));
    made.finds(
        "boot-order",
        Level::Warning,
        &["not ordered before cloud-init-local.service"],
    );
    made.systemctl(&own("cloud-init-local.service", "network-online.target"));
    made.finds(
        "boot-order",
        Level::Warning,
        &["after network-online.target"],
    );
    made.systemctl("Id=hyperv-agent.service\nLoadState=not-found\n");
    made.finds_nothing("boot-order");
}

#[test]
fn the_shipped_unit_starts_before_all_of_the_first_boot() {
    let unit = include_str!("../../../packaging/systemd/hyperv-agent.service");
    let before = unit.lines().filter_map(|line| line.strip_prefix("Before="));
    let before: Vec<_> = before.flat_map(str::split_whitespace).collect();
    for name in super::unit::FIRST_BOOT {
        assert!(before.contains(&name), "{name}");
    }
}

/// The status of an agent of this version, with `more` in place of its services.
fn document(version: &str, services: &str, problems: &str) -> String {
    format!(
        r#"{{"version": "{version}", "pid": 1, "since": "2026-01-01T00:00:00Z",
            "services": [{services}], "problems": [{problems}]}}"#
    )
}

#[test]
fn agent() {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    Made::new().finds("agent", Level::Error, &["does not run", "systemctl start"]);
    let service = |state: &str, on: bool| {
        format!(
            r#"{{"name": "kvp", "summary": "", "on": {on}, "requests": 0, "failures": 0,
                "last_error": null, "last_backup": null, "operation": null, "devices": [
                {{"node": "/dev/uio3", "instance": null, "transport": "uio", {state},
                  "versions": null, "working": false, "operation": null}}]}}"#
        )
    };
    let serving = r#""state": "serving""#;
    let failed = r#""state": "failed", "failure": "gone", "retry_in": 3"#;
    let of_three_two_failed = service(serving, true)
        .replace(
            r#""requests": 0, "failures": 0"#,
            r#""requests": 3, "failures": 2"#,
        )
        .replace(
            r#""last_error": null"#,
            r#""last_error": {"at": "2026-01-02T03:04:05Z", "text": "no"}"#,
        );
    for (text, level, part) in [
        (
            document(VERSION, &service(serving, true), ""),
            Level::Ok,
            "",
        ),
        (
            document("0.0.1", "", ""),
            Level::Warning,
            "is version 0.0.1",
        ),
        ("{}".to_owned(), Level::Warning, "of another version"),
        (
            document(VERSION, "", r#""no module""#),
            Level::Warning,
            "says: no module",
        ),
        (
            document(VERSION, &service(failed, true), ""),
            Level::Error,
            "/dev/uio3 failed: gone",
        ),
        (
            document(VERSION, &service(serving, false), ""),
            Level::Note,
            "kvp is off in the",
        ),
        (
            document(VERSION, &of_three_two_failed, ""),
            Level::Note,
            "kvp: 2 of 3 requests of the host have failed since the agent was started; the last \
             error, 2026-01-02T03:04:05Z: no",
        ),
        ("{".to_owned(), Level::Error, "incomplete answer"),
    ] {
        let made = Made::new();
        let answered = made.status(text);
        match level {
            Level::Ok => made.finds_nothing("agent"),
            level => made.finds("agent", level, &[part]),
        }
        answered.join().unwrap();
    }
    // A capture is offered where it shows more.
    for (services, offered) in [
        (service(serving, true), None),
        (service(serving, false), None),
        (
            service(failed, true),
            Some("hyperv-agent capture --for 5min FILE"),
        ),
        (
            of_three_two_failed,
            Some("hyperv-agent capture --for 5min FILE"),
        ),
    ] {
        let made = Made::new();
        let answered = made.status(document(VERSION, &services, ""));
        let found = super::agent::agent(&made.machine);
        answered.join().unwrap();
        let report = Report::new(vec![Checked::new("agent", "", found)]);
        assert_eq!(report.capture, offered, "{services}");
    }
    let made = Made::new();
    made.process(5, "/usr/sbin/hyperv-agent run");
    symlink("/usr/sbin/hyperv-agent (deleted)", made.path("proc/5/exe")).unwrap();
    let answered = made.status(document(VERSION, "", ""));
    made.finds("agent", Level::Warning, &["was replaced since", "restart"]);
    answered.join().unwrap();
}

#[test]
fn pools() {
    let made = Made::new();
    made.finds_nothing("pools");
    let pool = made.write("pools/.kvp_pool_1", &"x".repeat(2560));
    made.finds_nothing("pools");
    set_mode(&pool, 0o666);
    made.finds("pools", Level::Warning, &["mode 0666", "chmod go-w"]);
    made.write("pools/.kvp_pool_1", &"x".repeat(2570));
    set_mode(&pool, 0o644);
    made.finds("pools", Level::Warning, &["ends with 10 bytes"]);
    File::create(&pool).unwrap().set_len(1 << 30).unwrap();
    made.finds("pools", Level::Error, &["is too large"]);
    fs::remove_file(&pool).unwrap();
    fs::create_dir(&pool).unwrap();
    made.finds("pools", Level::Error, &["is not a regular file"]);
    fs::remove_dir(&pool).unwrap();
    made.write("pools/.kvp_pool_1", "");
    set_mode(&made.path("pools"), 0o777);
    made.finds("pools", Level::Error, &["refusing to use"]);
    set_mode(&made.path("pools"), 0o755);
    if !rustix::process::geteuid().is_root() {
        return hyperv_needs::skip("only root can give a file to another user");
    }
    chown(&pool, Some(65534), None).unwrap();
    made.finds(
        "pools",
        Level::Warning,
        &["belongs to user 65534", "chown root:root"],
    );
}

#[test]
fn ip_injection() {
    let mut made = Made::new();
    made.finds_nothing("ip-injection");
    // Every machine has this interface.
    made.write(
        "sys/class/net/lo/device/device_id",
        &format!("{{{INSTANCE}}}\n"),
    );
    made.finds(
        "ip-injection",
        Level::Warning,
        &["lo: an IP configuration", "backend = \"off\""],
    );
    made.machine.config.service.kvp.network.backend = hyperv_services::kvp::Backend::Off;
    made.finds_nothing("ip-injection");
}

/// Mounts these, as `mountinfo` shows them.
fn mount(made: &mut Made, mounts: &[&str]) {
    made.machine.is_root = false;
    made.write(
        "proc/filesystems",
        "nodev\ttmpfs\nnodev\tnfs4\n\text4\n\tvfat\n",
    );
    let lines = (20..)
        .zip(mounts)
        .map(|(id, mount)| format!("{id} 1 {mount}\n"));
    let lines: String = lines.collect();
    made.write("proc/self/mountinfo", &lines);
}

#[test]
fn file_systems() {
    let mut made = Made::new();
    made.finds(
        "file-systems",
        Level::Unchecked,
        &["cannot list file systems"],
    );
    let ext4 = "8:1 / / rw - ext4 /dev/sda1 rw";
    mount(
        &mut made,
        &[
            ext4,
            "0:9 / /tmp rw - tmpfs tmpfs rw",
            "8:3 / /ro ro - ext4 /dev/sdc ro",
        ],
    );
    made.finds_nothing("file-systems");
    mount(&mut made, &[ext4, "8:2 / /boot/efi rw - vfat /dev/sda2 rw"]);
    made.finds("file-systems", Level::Note, &["/boot/efi (vfat: "]);
    mount(&mut made, &[ext4, "8:2 / /data rw - ext4 /dev/sdb ro"]);
    made.finds(
        "file-systems",
        Level::Error,
        &["/data is in no backup", "after an error"],
    );
    mount(&mut made, &["0:9 / /tmp rw - tmpfs tmpfs rw"]);
    made.finds(
        "file-systems",
        Level::Warning,
        &["would freeze no file system"],
    );
    let exclude = "[vss.exclude]\nmount-points = [\"/nowhere\"]\n";
    let mut made = Made::configured(exclude);
    mount(&mut made, &[ext4]);
    made.finds(
        "file-systems",
        Level::Warning,
        &["/nowhere", "correct the pattern"],
    );
}

#[test]
fn hidden_mounts() {
    let mut made = Made::new();
    let ext4 = "8:1 / / rw - ext4 /dev/sda1 rw";
    mount(&mut made, &[ext4]);
    made.finds_nothing("hidden-mounts");
    let below = "8:2 / /srv rw - ext4 /dev/sdb rw";
    let mounts = format!("20 1 {ext4}\n21 20 {below}\n22 21 8:3 / /srv rw - ext4 /dev/sdc rw\n");
    made.write("proc/self/mountinfo", &mounts);
    made.finds(
        "hidden-mounts",
        Level::Note,
        &["/srv is hidden under /srv", "umount"],
    );
}

#[test]
fn hooks() {
    let mut made = Made::new();
    made.finds_nothing("hooks");
    let hook = made.write("hooks/10-db", "#!/bin/sh\n");
    set_mode(&hook, 0o644);
    made.finds("hooks", Level::Warning, &["is not executable", "chmod +x"]);
    set_mode(&hook, 0o755);
    made.finds_nothing("hooks");
    made.write("hooks/10-db", "#!/nonexistent/interpreter\n");
    made.finds(
        "hooks",
        Level::Error,
        &["every backup fails", "/nonexistent/interpreter"],
    );
    made.write("hooks/10-db", "#!/bin/sh\n");
    set_mode(&hook, 0o757);
    made.finds("hooks", Level::Error, &["every backup fails", "chmod go-w"]);
    made.machine.config.service.vss.hooks.on_failure = OnFailure::GoOn;
    made.finds("hooks", Level::Warning, &["backups go on without it"]);
    set_mode(&hook, 0o755);
    made.machine.config.service.vss.hooks.time_limit = Duration::from_secs(721);
    made.finds("hooks", Level::Note, &["1 hooks may take 721 s"]);
    set_mode(&made.path("hooks"), 0o777);
    made.finds("hooks", Level::Warning, &["will not be run"]);
}

#[test]
fn time_limits() {
    Made::new().finds_nothing("time-limits");
    let made = Made::configured("[vss]\ntime-limit = 901\n");
    made.finds(
        "time-limits",
        Level::Warning,
        &["time-limit in [vss] is 901 s", "900"],
    );
    let made = Made::configured("[vss]\nprepare-limit = 1000\n[vss.hooks]\ntime-limit = 1000\n");
    assert_eq!(made.check("time-limits").len(), 2);
}

#[test]
fn limits() {
    let made = Made::new();
    made.finds_nothing("limits");
    made.process(5, "/usr/sbin/hyperv-agent run --no-daemon");
    made.finds("limits", Level::Unchecked, &["process 5"]);
    let limits = |files: &str, locked: &str| {
        let header = "Limit                     Soft Limit           Hard Limit\n";
        let text = format!(
            "{header}Max open files            256 {files} files\nMax locked memory         0 \
             {locked} bytes\n"
        );
        made.write("proc/5/limits", &text);
    };
    made.write("proc/5/status", "Name:\tx\nCapEff:\t0000000000201002\n");
    limits("524288", "unlimited");
    made.finds_nothing("limits");
    limits("256", "unlimited");
    made.finds("limits", Level::Warning, &["256 files only", "LimitNOFILE"]);
    limits("524288", "65536");
    made.finds(
        "limits",
        Level::Warning,
        &["lock 65536 bytes", "LimitMEMLOCK=infinity"],
    );
    // With CAP_IPC_LOCK the limit does not matter.
    made.write("proc/5/status", "CapEff:\t0000000000205002\n");
    made.finds_nothing("limits");
    made.write("proc/5/status", "CapEff:\t0000000000005002\n");
    made.finds(
        "limits",
        Level::Warning,
        &["lacks CAP_SYS_ADMIN: no file system"],
    );
}

#[test]
fn runtime_state() {
    let made = Made::new();
    made.finds_nothing("runtime-state");
    let record = FreezeRecord {
        frozen: vec![FrozenFileSystem {
            device: DeviceNumber { major: 8, minor: 1 },
            mount_point: "/srv".into(),
        }],
        ..FreezeRecord::default()
    };
    state_file::write(&made.path("runtime"), &record).unwrap();
    made.finds(
        "runtime-state",
        Level::Error,
        &["/srv", "hyperv-agent thaw"],
    );
    made.process(5, "/usr/sbin/hyperv-agent run");
    made.finds("runtime-state", Level::Note, &["a backup is in progress"]);
    set_mode(&made.path("runtime"), 0o777);
    made.finds(
        "runtime-state",
        Level::Error,
        &["the agent does not use", "chmod go-w"],
    );
}

#[test]
fn security_modules() {
    let made = Made::new();
    made.finds_nothing("security-modules");
    made.write("sys/fs/selinux/enforce", "1");
    made.finds("security-modules", Level::Unchecked, &["can be read"]);
    let other = "type=AVC avc:  denied  { read } for comm=\"other\"\n";
    let own = "type=AVC avc:  denied  { write } for comm=\"hyperv-agent\"\n";
    let log = "var/log/audit/audit.log";
    made.write(log, other);
    made.finds_nothing("security-modules");
    made.write(log, &format!("{own}{own}{other}"));
    made.finds(
        "security-modules",
        Level::Warning,
        &["(2 records)", "{ write }", "ausearch"],
    );
    made.write("sys/fs/selinux/enforce", "0");
    made.finds("security-modules", Level::Note, &["permissive"]);
    fs::remove_dir_all(made.path("sys/fs")).unwrap();
    made.write("sys/module/apparmor/parameters/enabled", "Y\n");
    made.write(
        "dev/kmsg",
        "audit: apparmor=\"DENIED\" profile=\"/usr/sbin/hyperv-agent\"\n",
    );
    made.finds(
        "security-modules",
        Level::Warning,
        &["AppArmor", "(1 records)", "aa-complain"],
    );
}

#[test]
fn a_check_that_hangs_or_fails_is_given_up() {
    static HANGS: [Check; 3] = [
        check("hangs", "", |_| {
            loop {
                thread::park();
            }
        }),
        check("fails", "", |_| std::panic::resume_unwind(Box::new(()))),
        check("works", "", |_| vec![Finding::note("seen", "")]),
    ];
    let mut limit = Duration::from_millis(50);
    let text = loop {
        let report = examine_within(&HANGS, Made::new().machine, limit);
        assert!(!report.is_bad());
        let text = report.text(false);
        let hangs = format!("hangs: this took more than {} s", limit.as_secs());
        assert!(text.contains(&hangs), "{text}");
        if text.matches("this took more than").count() == 1 {
            break text;
        }
        // The others get no processor for longer than that.
        assert!(limit < LIMIT, "{text}");
        limit *= 2;
    };
    assert!(text.contains("fails: this failed"), "{text}");
    assert!(text.contains("note: works: seen"), "{text}");
}

#[test]
fn there_is_nothing_to_look_at_where_neither_hyperv_nor_an_agent_is() {
    let skipped = |made: Made| {
        let report = examine(made.machine);
        let checks = report.checks.into_iter();
        let skipped = checks.filter(|it| it.result == Level::Skipped);
        skipped.map(|it| it.name).collect::<Vec<_>>()
    };
    assert!(skipped(Made::new()).is_empty());
    let elsewhere = || {
        let made = Made::new();
        fs::remove_dir_all(made.path("sys/bus")).unwrap();
        made
    };
    let expected = ["offered", "modules", "devices", "agent", "limits"];
    assert_eq!(skipped(elsewhere()), expected);
    // As of the simulated host.
    let made = elsewhere();
    made.process(7, "/usr/sbin/hyperv-agent run");
    assert!(skipped(made).is_empty());
}

#[test]
fn the_worst_comes_first_and_control_characters_are_escaped() {
    let findings = vec![
        Finding::note("a\u{1b}b", ""),
        Finding::error("two\nlines", "do this"),
    ];
    let checked = vec![
        Checked::new("first", "is it?", Vec::new()),
        Checked::new("second", "will it?", findings),
    ];
    let report = Report::new(checked);
    let findings = "error: second: two\n  lines\n  remedy: do this\nnote: second: a\\u{1b}b\n\n2 \
                    checks; errors: 1, warnings: 0, notes: 1, not checked: 0\n";
    assert_eq!(report.text(false), findings);
    let lines =
        "ok           first             is it?\nerror        second            will it?\n\n";
    let offer = "To report what goes wrong between host and guest, record it with `hyperv-agent \
                 capture --for 5min FILE`: see REPORTING A PROBLEM in hyperv-agent(8)\n";
    assert_eq!(report.text(true), format!("{lines}{findings}{offer}"));
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["capture"].is_null());
    let said = vec![Finding::note("two failed", "").said()];
    let report = Report::new(vec![Checked::new("third", "is it said?", said)]);
    let text = report.text(false);
    assert!(
        text.ends_with(&format!("notes: 1, not checked: 0\n{offer}")),
        "{text}"
    );
    let json_of_said = serde_json::to_value(&report).unwrap();
    assert_eq!(
        json_of_said["capture"],
        "hyperv-agent capture --for 5min FILE"
    );
    assert_eq!(json["result"], "error");
    assert_eq!(json["checks"][0]["result"], "ok");
    assert_eq!(json["checks"][1]["findings"][1]["remedy"], "do this");
    assert_eq!(json["checks"][1]["findings"][1]["level"], "error");
}
