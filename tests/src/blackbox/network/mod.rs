//! A network namespace of the guest's own, with interfaces that look like those
//! of the host's adapters, and with tools of ours for whoever configures them.
//!
//! The kernel's own network tools do the work; what stands for
//! systemd-networkd, and for the script that distributions bring for the stock
//! daemon, records its calls and configures an interface as requested.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Weak;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::Guest;
use crate::network::{Adapter, Network, tools};

/// Where the kernel shows interfaces.
const CLASS: &str = "/sys/class/net";

/// Where systemd-networkd shows what it has to do with them.
const LINKS: &str = "/run/systemd/netif/links";

/// Directory of the files that control the tools.
const TELL: &str = "/run/hyperv-sim";

/// The driver of the host's adapters.
const DRIVER: &str = "/sys/bus/vmbus/drivers/hv_netvsc";

const TOOLS: [(&str, &str); 2] = [
    ("/usr/bin/networkctl", include_str!("networkctl")),
    (
        "/usr/libexec/hypervkvpd/hv_set_ifconfig",
        include_str!("hv_set_ifconfig"),
    ),
];

/// What every tool begins with.
const TOOL: &str = include_str!("tool");

/// The guest's network.
pub(super) struct OwnNetwork {
    pub(super) program: String,
    pub(super) guest: Weak<Guest>,
}

/// Gives the guest's processes from now on a network without anything in it;
/// `layers` is an empty directory. Runs on the thread of the guest's mounts.
pub(super) fn prepare(layers: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    in_memory(layers)?;
    for directory in ["/etc", "/usr/bin", "/usr/libexec"] {
        overlay(directory, layers)?;
    }
    in_memory(Path::new("/run"))?;
    in_memory(Path::new(CLASS))?;
    // Who else configures networks on this machine has no part in it.
    for directory in ["/etc/netplan", tools::CONFIGURATIONS] {
        fs::create_dir_all(directory).context(directory)?;
        in_memory(Path::new(directory))?;
    }
    for directory in [LINKS, TELL, DRIVER] {
        fs::create_dir_all(directory).context(directory)?;
    }
    fs::write("/run/systemd/netif/state", "OPER_STATE=routable\n")?;
    fs::write(format!("{TELL}/tool"), TOOL)?;
    for (path, script) in TOOLS {
        let path = Path::new(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Not through what is there: it may be a link to somewhere else.
        let _ = fs::remove_file(path);
        fs::write(path, script).with_context(|| path.display().to_string())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    run(&["ip", "link", "set", "lo", "up"]).map(drop)
}

fn in_memory(directory: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = Some("mode=755");
    mount(Some("hyperv-sim"), directory, Some("tmpfs"), flags, options)
        .with_context(|| format!("covering {}", directory.display()))
}

/// Lets the guest change what is in a directory of the machine, for itself.
fn overlay(directory: &str, layers: &Path) -> Result<()> {
    let place = layers.join(directory.trim_start_matches('/').replace('/', "-"));
    let (upper, work) = (place.join("upper"), place.join("work"));
    for made in [&upper, &work] {
        fs::create_dir_all(made).with_context(|| made.display().to_string())?;
    }
    let options = format!(
        "lowerdir={directory},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let (source, flags) = (Some("hyperv-sim"), MsFlags::empty());
    mount(
        source,
        directory,
        Some("overlay"),
        flags,
        Some(options.as_str()),
    )
    .with_context(|| format!("the guest's own {directory}"))
}

/// Runs a command, and returns what it prints.
fn run(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("the command is empty")?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| (*program).to_owned())?;
    ensure!(
        output.status.success(),
        "{}: {}",
        command.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a pair of which the guest's end is the interface: unlike a dummy it is
/// there on every kernel.
fn add(adapter: &Adapter) -> Result<()> {
    let Adapter { name, mac, device } = *adapter;
    let shown = Path::new(CLASS).join(name);
    if shown.exists() {
        run(&["ip", "link", "delete", name])?;
        fs::remove_dir_all(&shown).with_context(|| shown.display().to_string())?;
    }
    let peer = format!("{name}-host");
    let kind = ["type", "veth", "peer", "name", &peer];
    run(&[&["ip", "link", "add", name, "address", mac][..], &kind].concat())?;
    for end in [name, &peer] {
        // No addresses but those that are asked for.
        run(&["ip", "link", "set", end, "addrgenmode", "none"])?;
        run(&["ip", "link", "set", end, "up"])?;
    }
    let index = run(&["ip", "-o", "link", "show", name])?;
    let index = index.split(':').next().unwrap_or_default().to_owned();
    fs::create_dir_all(shown.join("device"))?;
    for (file, content) in [
        ("address", mac.to_owned()),
        ("ifindex", index.clone()),
        ("type", "1".to_owned()),
        ("operstate", "up".to_owned()),
        ("device/device_id", format!("{{{device}}}")),
    ] {
        let path = shown.join(file);
        fs::write(&path, content + "\n").with_context(|| path.display().to_string())?;
    }
    symlink(DRIVER, shown.join("device/driver"))?;
    fs::write(format!("{LINKS}/{index}"), "ADMIN_STATE=configured\n")?;
    Ok(())
}

impl Network for OwnNetwork {
    fn add(&self, adapter: &Adapter) -> Result<()> {
        let guest = self.guest.upgrade().context("the guest has ended")?;
        let adapter = *adapter;
        guest.namespace.run(move || add(&adapter))?
    }

    fn run(&self, command: &[&str]) -> Result<String> {
        let guest = self.guest.upgrade().context("the guest has ended")?;
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        guest.namespace.run(move || {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            run(&command)
        })?
    }

    fn program(&self) -> &str {
        &self.program
    }
}
