//! Kills a program and all its descendants.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::wait::{Stream, wait};
use crate::processes::{self, Stat};
use crate::timeouts::KILL;

/// Kills the child and its descendants, and reaps the child.
///
/// All processes are stopped before the first is killed: while a parent lives, its
/// children can be found. A process whose parent has ended is found by its process group
/// or by the pipe that it holds. One that has left all three is not found.
pub(super) fn kill(child: Child, streams: &[Stream]) {
    let leader = Pid::from_child(&child);
    let mut stopped = HashSet::from([leader]);
    // The leader is not reaped yet, so its process ID cannot be reused.
    let _ = kill_process_group(leader, Signal::STOP);
    loop {
        let new = descendants(&stopped, leader, streams);
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kill_process(pid, Signal::STOP);
            stopped.insert(pid);
        }
    }
    let _ = kill_process_group(leader, Signal::KILL);
    for pid in stopped {
        let _ = kill_process(pid, Signal::KILL);
    }
    reap(child, KILL);
}

/// Waits up to `timeout` for a child that is about to exit; a thread reaps it if it takes
/// longer.
pub(crate) fn reap(mut child: Child, timeout: Duration) {
    let ended = wait(&mut child, &mut [], Instant::now() + timeout, None);
    if !matches!(ended, Ok(Some(_))) {
        let _ = thread::Builder::new().spawn(move || child.wait());
    }
}

/// Finds processes that are not in `known` and are children of one in it, in the leader's
/// group, or hold one of the pipes as standard output or error.
fn descendants(known: &HashSet<Pid>, leader: Pid, streams: &[Stream]) -> Vec<Pid> {
    let pipes: Vec<PathBuf> = streams
        .iter()
        .filter_map(|stream| stream.pipe.as_ref())
        .filter_map(|pipe| fs::read_link(format!("/proc/self/fd/{}", pipe.as_raw_fd())).ok())
        .collect();
    let myself = rustix::process::getpid();
    let Ok(numbers) = processes::numbers(Path::new("/proc")) else {
        return Vec::new();
    };
    numbers
        .filter_map(|number| {
            let pid = Pid::from_raw(number as i32)?;
            if pid == myself || known.contains(&pid) {
                return None;
            }
            let belongs = related(&Stat::of(number)?, known, leader)
                || ["1", "2"].iter().any(|fd| {
                    fs::read_link(format!("/proc/{number}/fd/{fd}"))
                        .is_ok_and(|target| pipes.contains(&target))
                });
            belongs.then_some(pid)
        })
        .collect()
}

/// Whether a process is in the leader's group or is a child of one in `known`.
fn related(stat: &Stat, known: &HashSet<Pid>, leader: Pid) -> bool {
    let has_parent = || Pid::from_raw(stat.parent).is_some_and(|pid| known.contains(&pid));
    !stat.is_zombie && (stat.group == leader.as_raw_nonzero().get() || has_parent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_in_a_name_do_not_hide_a_child() {
        let leader = Pid::from_raw(7).unwrap();
        let known = HashSet::from([leader]);
        let related = |text| Stat::parse(text).is_some_and(|stat| related(&stat, &known, leader));
        assert!(related("8 (a) Z 1) S 7 99 99 0"));
        assert!(related("8 (a) S 1 7 99 0"));
        assert!(!related("8 (S 7 7) S 1 99 99 0"));
        assert!(!related("8 (a) Z 7 7 99 0"));
        assert!(!related(""));
    }
}
