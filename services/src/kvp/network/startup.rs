//! Whether the units of a network manager run, or will in this boot.
//!
//! The service manager is asked without the system bus: early in the boot, clients of the bus
//! block until it runs. `systemctl`, run by root, talks to systemd directly. A unit with a job
//! will start: the first transaction of a boot queues all jobs before the first unit starts,
//! whatever enables a unit.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::kvp::files;
use crate::program;
use crate::subprocess::run;

/// The unit of the system bus.
pub(super) const BUS: &str = "dbus.service";

/// How long systemd may take to answer. In tests a busy machine must not count as no answer.
const ANSWER: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 1 });

/// Whether units run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Startup {
    /// They run.
    Running,
    /// At least one will start in this boot, or is starting.
    Starting,
    /// One failed to start.
    Failed,
    /// The first one is missing, disabled or stopped.
    Absent,
}

/// Returns whether the units run: the first, and those of the others that this boot starts.
/// `root` stands for `/`.
pub(super) fn of(root: &Path, units: &[&str]) -> Startup {
    systemd(root, units)
        .or_else(|| openrc(root, units))
        .unwrap_or_else(|| enabled(root, units))
}

/// Asks systemd; `None` where it is not the service manager, or does not answer.
pub(super) fn systemd(root: &Path, units: &[&str]) -> Option<Startup> {
    if units.is_empty() || !root.join("run/systemd/system").is_dir() {
        return None;
    }
    let program = program::find(root, "systemctl").ok()?;
    let show = [
        "show",
        "--no-pager",
        "--property=LoadState,ActiveState,Job",
        "--",
    ];
    let args: Vec<&OsStr> = show.iter().chain(units).map(OsStr::new).collect();
    let output = run(&program, &args, &[], Instant::now() + ANSWER, None).ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // One block for each unit, in order.
    let states: Vec<Startup> = text.trim().split("\n\n").map(state).collect();
    (states.len() == units.len()).then(|| combined(&states))
}

/// Returns the state in one answer of `systemctl show`.
fn state(properties: &str) -> Startup {
    let get = |key: &str| {
        let mut lines = properties.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    // Some versions print it only if there is a job.
    let has_job = get("Job").is_some_and(|job| !matches!(job, "" | "0"));
    match (get("LoadState"), get("ActiveState")) {
        (Some("loaded"), Some("active" | "reloading" | "refreshing")) => Startup::Running,
        (Some("loaded"), Some("activating")) => Startup::Starting,
        (Some("loaded"), Some("inactive" | "failed")) if has_job => Startup::Starting,
        (Some("loaded"), Some("failed")) => Startup::Failed,
        _ => Startup::Absent,
    }
}

/// Returns the state of all units. Those after the first may be missing.
fn combined(states: &[Startup]) -> Startup {
    match states.first() {
        Some(first @ (Startup::Absent | Startup::Failed)) => *first,
        Some(_) if states.contains(&Startup::Starting) => Startup::Starting,
        _ => Startup::Running,
    }
}

/// Returns the names of the units without their suffix, as other service managers have them.
fn names<'a>(units: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let names = units.iter();
    names.map(|unit| unit.strip_suffix(".service").unwrap_or(unit))
}

/// Reads the state of OpenRC; `None` where it is not the service manager.
fn openrc(root: &Path, units: &[&str]) -> Option<Startup> {
    let state = root.join("run/openrc");
    if !state.is_dir() {
        return None;
    }
    let runlevels = files::in_directory(&root.join("etc/runlevels"));
    let states = names(units).map(|name| {
        let is_in = |directory: &str| state.join(directory).join(name).exists();
        if is_in("started") {
            Startup::Running
        } else if is_in("failed") {
            Startup::Failed
        } else if runlevels.iter().any(|level| level.join(name).exists()) {
            Startup::Starting
        } else {
            Startup::Absent
        }
    });
    Some(combined(&states.collect::<Vec<_>>()))
}

/// Returns whether the first unit starts in every boot, by files alone.
fn enabled(root: &Path, units: &[&str]) -> Startup {
    let (Some(unit), Some(name)) = (units.first(), names(units).next()) else {
        return Startup::Running;
    };
    match has_link(root, unit) || has_script(root, name) {
        true => Startup::Starting,
        false => Startup::Absent,
    }
}

/// Returns whether a target of systemd wants the unit, and it is not masked.
fn has_link(root: &Path, unit: &str) -> bool {
    let masked = |place: &str| {
        let link = root.join(place).join(unit);
        std::fs::read_link(link).is_ok_and(|target| target == Path::new("/dev/null"))
    };
    let wants = |place: &str| {
        let directories = files::in_directory(&root.join(place));
        directories.into_iter().any(|directory| {
            directory.extension() == Some(OsStr::new("wants"))
                && directory.join(unit).symlink_metadata().is_ok()
        })
    };
    let places = [
        "etc/systemd/system",
        "run/systemd/system",
        "run/systemd/generator",
        "run/systemd/generator.late",
        "usr/lib/systemd/system",
    ];
    !masked(places[0]) && !masked(places[1]) && places.into_iter().any(wants)
}

/// Returns whether a runlevel of SysV init starts the script.
fn has_script(root: &Path, name: &str) -> bool {
    ["etc/rc2.d", "etc/rc3.d", "etc/rc5.d", "etc/rcS.d"]
        .into_iter()
        .flat_map(|level| files::in_directory(&root.join(level)))
        .any(|path| {
            let link = path.file_name().and_then(OsStr::to_str);
            let numbered = link.and_then(|link| link.strip_prefix('S'));
            numbered
                .is_some_and(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()) == name)
        })
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
