//! Hooks that an agent which is gone has left running.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, kill_process_group, pidfd_open};
use slog::{Logger, warn};

use super::super::limited::Lookups;

/// How long they may take to be gone.
const GONE: Duration = Duration::from_secs(1);

/// Kills those of these hooks that still run with `freeze`, with all of their process
/// groups: one that lets an application come to rest after that was told to go on would
/// leave it so.
pub(super) fn kill(hooks: &[PathBuf], log: &Logger) {
    let wanted = hooks.to_vec();
    // What a process was started with is in its memory, which may be on a disk that
    // does not answer.
    let found = Lookups::new().look(Path::new("/proc"), move || find(&wanted));
    let found = found.unwrap_or_else(|no_answer| Err(io::Error::other(no_answer)));
    let found = found.unwrap_or_else(|error| {
        warn!(
            log,
            "cannot tell whether a hook still runs with freeze: {}", error
        );
        Vec::new()
    });
    let until = Instant::now() + GONE;
    for (pid, hook) in found {
        warn!(
            log,
            "the hook {} still ran with freeze, and is killed",
            hook.display()
        );
        let process = pidfd_open(pid, PidfdFlags::empty());
        let _ = kill_process_group(pid, Signal::KILL);
        let left = until.saturating_duration_since(Instant::now());
        if let (Ok(process), Ok(left)) = (process, Timespec::try_from(left)) {
            let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left));
        }
    }
}

/// The processes of this user that lead a group and are a hook that was run with
/// `freeze`.
fn find(hooks: &[PathBuf]) -> io::Result<Vec<(Pid, PathBuf)>> {
    let mut found = Vec::new();
    // A hook is run by the path that a link to it leads to.
    let real = |hook: &PathBuf| fs::canonicalize(hook).ok();
    let names: Vec<_> = hooks
        .iter()
        .flat_map(|hook| [(Some(hook.clone()), hook), (real(hook), hook)])
        .collect();
    for entry in fs::read_dir("/proc")?.flatten() {
        let number = entry.file_name().to_str().and_then(|it| it.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else {
            continue;
        };
        let its_own = entry
            .metadata()
            .is_ok_and(|it| it.uid() == geteuid().as_raw());
        if !its_own || !leads_group(&entry.path(), pid) {
            continue;
        }
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<_> = arguments.split(|byte| *byte == 0).collect();
        let hook = names.iter().find(|(name, _)| {
            let name = name.as_ref().map(|it| it.as_os_str().as_bytes());
            let runs = |pair: &[&[u8]]| matches!(pair, [one, b"freeze"] if Some(*one) == name);
            arguments.windows(2).any(runs)
        });
        found.extend(hook.map(|(_, hook)| (pid, (*hook).clone())));
    }
    Ok(found)
}

/// Whether a process, with this directory, leads its process group.
fn leads_group(process: &Path, pid: Pid) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // The name is in parentheses, and its state, parent and group behind it.
    let group = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(2)?.parse().ok());
    group == Some(pid.as_raw_nonzero().get())
}
