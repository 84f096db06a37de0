//! Thawing what somebody else has frozen: an agent that is gone, or whoever left
//! a file system frozen that the administrator wants back.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::blocking::Lookups;
use super::config::{Config, Patterns};
use super::file_system::FileSystem;
use super::freeze::{Freezer, OnWait, ThawAttempt};
use super::open::{Opened, open_within};
use super::plan::{self, PlanError};
use super::rcu_expedited;
use super::state_file::{FreezeRecord, FrozenFileSystem};
use super::sysfs::under;
use crate::error_chain::display_chain;
use crate::sys;
use crate::timeouts::THAW;

/// Those file systems of `note` that are mounted, in the order in which they were
/// frozen.
///
/// # Errors
///
/// Where it cannot be told what is mounted.
pub fn recorded(config: &Config, note: &FreezeRecord) -> Result<Vec<FileSystem>, PlanError> {
    let mounted = all_freezable(config)?;
    let of =
        |noted: &FrozenFileSystem| mounted.iter().find(|it| it.device == noted.device).cloned();
    Ok(note.frozen.iter().filter_map(of).collect())
}

/// Whatever can be frozen, in the order of freezing: what is configured may have
/// been another thing then.
///
/// # Errors
///
/// Where it cannot be told what is mounted.
pub fn all_freezable(config: &Config) -> Result<Vec<FileSystem>, PlanError> {
    let everything = Config {
        include: Patterns::default(),
        exclude: Patterns::default(),
        other_namespaces: true,
        ..config.clone()
    };
    let plan = plan::make(&everything)?;
    let blocked = plan.blocked.into_iter().map(|it| it.file_system);
    Ok(plan.freeze.into_iter().chain(blocked).collect())
}

/// Whether the guard is going to have the kernel hurry while it freezes.
pub(super) fn can_expedite_rcu(root: &Path) -> bool {
    rcu_expedited::is_off(&under(root, Path::new(rcu_expedited::SWITCH)))
}

/// Lets the kernel take its time again where a guard that `note` tells of may have had
/// it hurry, and nobody is left to end that; gives the switch where that was on.
///
/// # Errors
///
/// Where the kernel cannot be told, with the switch.
pub fn reset_rcu_expedited(
    root: &Path,
    note: &FreezeRecord,
) -> Result<Option<PathBuf>, (PathBuf, io::Error)> {
    let switch = under(root, Path::new(rcu_expedited::SWITCH));
    if !note.rcu_expedited {
        return Ok(None);
    }
    match rcu_expedited::disable(&switch) {
        Ok(was_on) => Ok(was_on.then_some(switch)),
        Err(error) => Err((switch, error)),
    }
}

/// Thaws these, in the reverse order, whoever has frozen them. The guard goes on
/// with what cannot be thawed in time.
///
/// `note` is that of another agent. For as long as the kernel does not come back to the
/// guard in it, what is noted and not frozen may be yet; then it is not thawed.
pub fn thaw(
    freezer: &mut Freezer,
    file_systems: &[FileSystem],
    root: &Path,
    note: &FreezeRecord,
    waits: OnWait<'_>,
) -> Vec<ThawAttempt> {
    let mut found = Vec::with_capacity(file_systems.len());
    let mut failed = Vec::new();
    let lookups = Lookups::new();
    for file_system in file_systems {
        match open_within(file_system, root, &lookups) {
            Ok(opened) => found.push(opened),
            Err(error) => failed.push(ThawAttempt {
                device: file_system.device,
                mount_point: file_system.mount_point().to_owned(),
                outcome: Err(display_chain(&error)),
            }),
        }
    }
    let before = note.guard.filter(|&pid| Some(pid) != freezer.guard_pid());
    let noted = |opened: &&Opened| note.frozen.iter().any(|it| it.device == opened.device);
    let copies: Vec<_> = found
        .iter()
        .filter(noted)
        .filter_map(|opened| Some((opened.device, opened.fd.try_clone().ok()?)))
        .collect();
    let mut tried = freezer.thaw_found(found, THAW, waits);
    if let Some(before) = before.filter(|&pid| hangs(pid)) {
        let mut late = Vec::new();
        for (device, descriptor) in copies {
            let its = tried.iter_mut().find(|tried| tried.device == device);
            if let Some(tried) = its.filter(|tried| tried.outcome == Ok(false)) {
                tried.outcome = Err(format!(
                    "process {before}, the guard of another agent, waits for it to freeze or to \
                     thaw"
                ));
                late.push(descriptor);
            }
        }
        thaw_after(before, late);
    }
    tried.extend(failed);
    tried
}

/// Thaws these when a guard is gone: one that was killed thaws nothing that the kernel
/// freezes for it yet.
fn thaw_after(guard: u32, late: Vec<OwnedFd>) {
    let pid = i32::try_from(guard).ok().and_then(Pid::from_raw);
    let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return;
    };
    // Without a thread it is done at the next request.
    let _ = thread::Builder::new().spawn(move || {
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        while poll(&mut ended, None) == Err(Errno::INTR) {}
        for descriptor in late {
            let _ = sys::thaw(descriptor);
        }
    });
}

/// Whether a guard waits for the kernel.
fn hangs(guard: u32) -> bool {
    let process = format!("/proc/{guard}");
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let Ok(threads) = fs::read_dir(format!("{process}/task")) else {
        return false;
    };
    // The name is in parentheses, and the state behind it.
    read(format!("{process}/comm")) == "hyperv-guard\n"
        && threads.flatten().any(|thread| {
            let stat = read(format!("{}/stat", thread.path().display()));
            stat.rsplit_once(") ")
                .is_some_and(|(_, state)| state.starts_with('D'))
        })
}
