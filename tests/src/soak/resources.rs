//! What the program holds, with all that it has started.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::resources::{Resources, family};
use crate::wait::until;

/// How long the program may take to let go of what it held.
const SETTLE_TIME: Duration = Duration::from_secs(60);

/// What memory may grow by, in KiB: what is free in the heap stays there until the
/// program has rested for some seconds, which uevents of others can keep it from.
const SLACK: u64 = 512;

/// The pools and the socket for changes of the network, which the service keeps open once they
/// were used: whether they were since the last change of the configuration depends on which came
/// first.
const KEPT_OPEN: usize = 6;

/// What the program holds, with all that it has started.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Processes.
    pub processes: usize,
    /// KiB of memory that holds no content of a file, such as heaps and stacks. Which
    /// pages of programs and libraries are mapped depends on what ran last, and that is
    /// several times as much.
    pub memory: u64,
    /// Bytes that it has logged.
    pub log: u64,
}

/// KiB of a process that are no content of a file.
fn memory(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).context(path)?;
    let own = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let own = own.and_then(|it| it.split_whitespace().next()?.parse().ok());
    own.context("nothing is said of its memory")
}

impl Totals {
    fn of(pid: u32, log: u64) -> Result<Self> {
        let mut all = Self {
            descriptors: 0,
            threads: 0,
            processes: 0,
            memory: 0,
            log,
        };
        for pid in family(pid)? {
            let held = Resources::of(pid)?;
            all.descriptors += held.descriptors;
            all.threads += held.threads;
            all.processes += 1;
            all.memory += memory(pid)?;
        }
        Ok(all)
    }

    fn is_more_than(&self, other: &Self) -> bool {
        self.descriptors > other.descriptors + KEPT_OPEN
            || self.threads > other.threads
            || self.processes > other.processes
            || self.memory > other.memory + SLACK
    }

    /// What is held once it is no more than `before`, but for the log.
    pub(super) fn settled(
        pid: u32,
        before: Option<Self>,
        log: impl FnOnce() -> u64,
    ) -> Result<Self> {
        let log = log();
        let Some(before) = before else {
            return Self::of(pid, log);
        };
        let mut last = before;
        until(SETTLE_TIME, "as much to be held as before", || {
            // A process that it has started may end meanwhile.
            if let Ok(now) = Self::of(pid, log) {
                last = now;
                return Ok((!now.is_more_than(&before)).then_some(now));
            }
            Ok(None)
        })
        .with_context(|| format!("before it was {before:?}, now it is {last:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_with_each_device_is_seen() -> Result<()> {
        let before = memory(std::process::id())?;
        // 33 bytes for each of 90,000 devices, used as they would be.
        let lost: Vec<Box<[u8; 33]>> = (0..90_000).map(|_| Box::new([1; 33])).collect();
        let after = memory(std::process::id())?;
        drop(lost);
        assert!(after > before + SLACK, "{before} KiB, then {after} KiB");
        Ok(())
    }
}
