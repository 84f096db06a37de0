//! Thaws what an earlier agent or another program left frozen.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::event::{PollFd, PollFlags};
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
use crate::retry::poll_until;
use crate::sys;
use crate::timeouts::THAW;

/// Returns the file systems in `record` that are mounted, in freeze order.
///
/// # Errors
///
/// If the list of mounts cannot be read.
pub fn recorded(config: &Config, record: &FreezeRecord) -> Result<Vec<FileSystem>, PlanError> {
    let mounted = all_freezable(config)?;
    let of = |frozen: &FrozenFileSystem| mounted.iter().find(|it| it.device == frozen.device);
    Ok(record.frozen.iter().filter_map(of).cloned().collect())
}

/// Returns all file systems that can be frozen, in freeze order, whatever the
/// configuration selects now.
///
/// # Errors
///
/// If the list of mounts cannot be read.
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

/// Returns whether the guard is going to set `rcu_expedited` while it freezes.
pub(super) fn can_expedite_rcu(root: &Path) -> bool {
    rcu_expedited::is_off(&under(root, Path::new(rcu_expedited::SWITCH)))
}

/// Resets `rcu_expedited` if the guard in `record` may have left it set. Returns its path
/// if it was set.
///
/// # Errors
///
/// If it cannot be reset, with its path.
pub fn reset_rcu_expedited(
    root: &Path,
    record: &FreezeRecord,
) -> Result<Option<PathBuf>, (PathBuf, io::Error)> {
    let switch = under(root, Path::new(rcu_expedited::SWITCH));
    if !record.rcu_expedited {
        return Ok(None);
    }
    match rcu_expedited::disable(&switch) {
        Ok(was_on) => Ok(was_on.then_some(switch)),
        Err(error) => Err((switch, error)),
    }
}

/// Thaws `file_systems` in reverse order, whichever program froze them. The guard keeps
/// trying to thaw what cannot be thawed in time.
///
/// `record` is that of another agent. While a thread of the guard in it hangs in the
/// kernel, what is in the record and not frozen may still become frozen: that counts as
/// not thawed, and is thawed once that guard has ended.
pub fn thaw(
    freezer: &mut Freezer,
    file_systems: &[FileSystem],
    root: &Path,
    record: &FreezeRecord,
    on_wait: OnWait<'_>,
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
    let before = record.guard.filter(|&pid| Some(pid) != freezer.guard_pid());
    let is_recorded = |opened: &&Opened| record.frozen.iter().any(|it| it.device == opened.device);
    let copies: Vec<_> = found
        .iter()
        .filter(is_recorded)
        .filter_map(|opened| Some((opened.device, opened.fd.try_clone().ok()?)))
        .collect();
    let mut tried = freezer.thaw_leftover(found, THAW, on_wait);
    if let Some(before) = before.filter(|&pid| is_hung(pid)) {
        let mut late = Vec::new();
        for (device, descriptor) in copies {
            let its = tried.iter_mut().find(|tried| tried.device == device);
            if let Some(tried) = its.filter(|tried| tried.outcome == Ok(false)) {
                tried.outcome = Err(format!(
                    "process {before}, the guard of another agent, waits for it to freeze or thaw"
                ));
                late.push(descriptor);
            }
        }
        thaw_after(before, late);
    }
    tried.extend(failed);
    tried
}

/// Thaws these once a guard has ended: a killed one does not thaw what the kernel is still
/// freezing for it.
fn thaw_after(guard: u32, late: Vec<OwnedFd>) {
    let pid = i32::try_from(guard).ok().and_then(Pid::from_raw);
    let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return;
    };
    // Without a thread the next request thaws.
    let _ = thread::Builder::new().spawn(move || {
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        let _ = poll_until(&mut ended, None);
        for descriptor in late {
            let _ = sys::thaw(descriptor);
        }
    });
}

/// Returns whether a thread of the guard hangs in the kernel (state `D`).
fn is_hung(guard: u32) -> bool {
    let process = format!("/proc/{guard}");
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let Ok(threads) = fs::read_dir(format!("{process}/task")) else {
        return false;
    };
    // The state follows the name, which is in parentheses.
    read(format!("{process}/comm")) == "hyperv-guard\n"
        && threads.flatten().any(|thread| {
            let stat = read(format!("{}/stat", thread.path().display()));
            stat.rsplit_once(") ")
                .is_some_and(|(_, state)| state.starts_with('D'))
        })
}
