//! Kills hooks that an earlier agent left running.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, kill_process_group, pidfd_open};
use slog::{Logger, warn};

use super::super::blocking::Lookups;
use crate::processes::{self, Stat};
use crate::retry::is_readable;

/// How long killed hooks are waited for.
const KILL_TIME: Duration = Duration::from_secs(1);

/// Kills those of these hooks that still run with `freeze`, with their process groups: one
/// that quiesces its application after the run with `thaw` would leave it quiesced.
pub(super) fn kill(hooks: &[PathBuf], log: &Logger) {
    let wanted = hooks.to_vec();
    // The arguments of a process are in its memory, which may be on a disk that hangs.
    let found = Lookups::new().run(Path::new("/proc"), move || find(&wanted));
    let found = found.unwrap_or_else(|no_answer| Err(io::Error::other(no_answer)));
    let found = found.unwrap_or_else(|error| {
        warn!(
            log,
            "cannot find hooks that still run with freeze: {}", error
        );
        Vec::new()
    });
    let until = Instant::now() + KILL_TIME;
    for left in found {
        // Another process may have its ID now.
        if left.ends_within(Duration::ZERO) {
            continue;
        }
        warn!(
            log,
            "killing the hook {}, which still runs with freeze",
            left.hook.display()
        );
        let _ = kill_process_group(left.pid, Signal::KILL);
        left.ends_within(until.saturating_duration_since(Instant::now()));
    }
}

/// A hook that still runs with `freeze`.
#[derive(Debug)]
struct StaleHook {
    pid: Pid,
    /// The pidfd of the process, where there are any: Linux 5.3, if no filter forbids it.
    process: Option<OwnedFd>,
    hook: PathBuf,
}

impl StaleHook {
    /// Waits for its end, and returns whether it has ended.
    fn ends_within(&self, time: Duration) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| is_readable(process, Instant::now() + time))
    }
}

/// Finds the processes of this user that lead a process group and are hooks that run with
/// `freeze`.
fn find(hooks: &[PathBuf]) -> io::Result<Vec<StaleHook>> {
    let mut found = Vec::new();
    // A hook is run by its real path.
    let real = |hook: &PathBuf| fs::canonicalize(hook).ok();
    let names: Vec<_> = hooks
        .iter()
        .flat_map(|hook| [(Some(hook.clone()), hook), (real(hook), hook)])
        .collect();
    for number in processes::numbers(Path::new("/proc"))? {
        let Some(pid) = Pid::from_raw(number as i32) else {
            continue;
        };
        let directory = PathBuf::from(format!("/proc/{number}"));
        let own = fs::metadata(&directory).is_ok_and(|it| it.uid() == geteuid().as_raw());
        let leads = || Stat::of(number).is_some_and(|it| it.group as u32 == number);
        if !own || !leads() {
            continue;
        }
        // Opened before its arguments are read, so that both are of the same process.
        let process = pidfd_open(pid, PidfdFlags::empty()).ok();
        let arguments = fs::read(directory.join("cmdline")).unwrap_or_default();
        let arguments: Vec<_> = arguments.split(|byte| *byte == 0).collect();
        let hook = names.iter().find(|(name, _)| {
            let name = name.as_ref().map(|it| it.as_os_str().as_bytes());
            let runs = |pair: &[&[u8]]| matches!(pair, [one, b"freeze"] if Some(*one) == name);
            arguments.windows(2).any(runs)
        });
        if let Some((_, hook)) = hook {
            found.push(StaleHook {
                pid,
                process,
                hook: (*hook).clone(),
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_stale_hook_is_found_and_its_end_is_seen() {
        let place = tempfile::tempdir().unwrap();
        let hook = place.path().join("hook");
        let run = |argument| {
            Command::new("sh")
                .args(["-c", "read line"])
                .args([hook.as_os_str(), argument])
                .process_group(0)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut children = ["freeze", "thaw"].map(|it| run(it.as_ref()));
        // The one that is just being started may not be seen as what it will be.
        let until = Instant::now() + Duration::from_secs(20);
        let mut found = Vec::new();
        while found.is_empty() && Instant::now() < until {
            found = find(std::slice::from_ref(&hook)).unwrap();
        }
        assert_eq!(found.len(), 1, "{found:?}");
        let left = found.pop().unwrap();
        assert_eq!(left.pid, Pid::from_child(&children[0]));
        assert_eq!(left.hook, hook);
        assert!(!left.ends_within(Duration::ZERO));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(left.ends_within(Duration::ZERO));
    }
}
