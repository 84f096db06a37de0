//! A guest with a private root: what is in it, what is not, and that nothing
//! of it stays.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyperv_needs::skip;
use hyperv_sim::blackbox::{BlackBox, root_unavailable};
use hyperv_sim::host::Protocol as _;
use hyperv_sim::port::Machine;
use hyperv_sim::vss::Vss;
use hyperv_sim::wait::until;

const GUEST: &str = env!("CARGO_BIN_EXE_test-guest");
/// Far beyond what anything here takes; nothing waits that long unless broken.
const LONG: Duration = Duration::from_secs(20);

/// Whether these tests can run here; where they must, it is an error that they
/// cannot.
fn available() -> bool {
    let why = root_unavailable();
    if let Some(why) = &why {
        skip(why);
    }
    why.is_none()
}

fn devices(mountinfo: &str) -> BTreeSet<&str> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .collect()
}

#[test]
fn a_device_for_backups_is_offered_to_nobody_who_sees_the_machines_file_systems() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut shared = BlackBox::new("true")?;
    for offer in [Vss::SERVICE.uio(0, 1 << 16), Vss::SERVICE.hvutil()] {
        let refused = shared.offer(offer).err().context("it was offered")?;
        let words = format!("{refused:#}");
        ensure!(
            words.contains("refusing to offer a device for backups"),
            "{words}"
        );
    }
    ensure!(
        shared.volumes().is_err(),
        "it has the machine's file systems"
    );
    let mut own = BlackBox::with_root("true")?;
    for offer in [Vss::SERVICE.uio(0, 1 << 16), Vss::SERVICE.hvutil()] {
        own.offer(offer)?.rescind()?;
    }
    Ok(())
}

#[test]
fn nothing_of_the_machine_is_to_be_found_in_a_root_of_its_own() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut machine = BlackBox::with_root("true")?;
    let volumes = machine.volumes()?;
    let inside = volumes.run(&["cat", "/proc/self/mountinfo"])?;
    let outside = std::fs::read_to_string("/proc/self/mountinfo")?;
    let shared: Vec<&str> = devices(&inside)
        .intersection(&devices(&outside))
        .copied()
        .collect();
    ensure!(shared.is_empty(), "{shared:?} in\n{inside}");
    // The first process, and the one that looks.
    let script = "echo /proc/[0-9]*; ls -d /proc/1/root/etc/hostname; cat /etc/hostname";
    let seen = volumes.script(script, &[])?;
    ensure!(
        seen.ends_with("/proc/1/root/etc/hostname\nguest\n"),
        "{seen}"
    );
    ensure!(seen.split_whitespace().count() <= 5, "{seen}");
    for real in ["/sys/dev/block", "/sys/block", "/sys/fs/btrfs"] {
        volumes.run(&["ls", "-d", real])?;
    }
    Ok(())
}

/// Loop devices whose file has this name.
fn loops(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let device = entry?.path();
        let file = std::fs::read_to_string(device.join("loop/backing_file"));
        if file.is_ok_and(|file| file.contains(name)) {
            found.push(device.display().to_string());
        }
    }
    Ok(found)
}

#[test]
fn loop_devices_are_let_go_although_their_file_system_is_frozen() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let name = format!("dropped-{}.img", std::process::id());
    let mut machine = BlackBox::with_root("sleep 1000")?;
    machine.start()?;
    let volumes = machine.volumes()?;
    volumes.script(include_str!("freeze-one"), &[&name])?;
    ensure!(loops(&name)?.len() == 1, "no loop device has {name}");
    // One that waits for the thaw.
    let write = "(echo late >/mnt/test/file) </dev/null >/dev/null 2>&1 &";
    volumes.script(write, &[])?;
    drop(machine);
    until(LONG, "the loop device to go", || {
        Ok(loops(&name)?.is_empty().then_some(()))
    })
}

#[test]
fn loop_devices_are_let_go_when_the_simulator_is_killed() -> Result<()> {
    if !available() {
        return Ok(());
    }
    // What a killed host cannot remove any more goes in here.
    let directory = tempfile::tempdir()?;
    let mut host = Command::new(GUEST)
        .arg("frozen-host")
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(host.stdout.take().context("no output")?).read_line(&mut line)?;
    let (guest, name) = line.trim().split_once(' ').context("no guest")?;
    ensure!(loops(name)?.len() == 1, "no loop device has {name}");
    host.kill()?;
    host.wait()?;
    until(LONG, "the loop device and the program to go", || {
        let lives = Path::new(&format!("/proc/{guest}/exe")).exists();
        Ok((loops(name)?.is_empty() && !lives).then_some(()))
    })
}
