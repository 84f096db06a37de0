//! What the program holds, with all that it has started.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::held::{Held, family};
use crate::wait::until;

/// How long the program may take to let go of what it held.
const SETTLE_TIME: Duration = Duration::from_secs(60);

/// What memory may grow by, in KiB: allocators round up.
const SLACK: u64 = 1024;

/// What the program holds, with all that it has started.
#[derive(Debug, Clone, Copy)]
pub struct Holding {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Processes.
    pub processes: usize,
    /// KiB of memory, of what others have too its share only.
    pub memory: u64,
    /// Bytes that it has logged.
    pub log: u64,
}

impl Holding {
    fn of(pid: u32, log: u64) -> Result<Self> {
        let mut all = Self {
            descriptors: 0,
            threads: 0,
            processes: 0,
            memory: 0,
            log,
        };
        for pid in family(pid)? {
            let held = Held::by(pid)?;
            all.descriptors += held.descriptors;
            all.threads += held.threads;
            all.processes += 1;
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let share = rollup.lines().find(|line| line.starts_with("Pss:"));
            let share = share.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            all.memory += share.context("no share of memory")?;
        }
        Ok(all)
    }

    fn is_more_than(&self, other: &Self) -> bool {
        self.descriptors > other.descriptors
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
