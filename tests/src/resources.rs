//! What a process holds of a machine.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// KiB of memory that it has to itself.
    pub private: u64,
}

impl Resources {
    /// Looks at a process of this machine.
    ///
    /// # Errors
    ///
    /// If there is none of that number.
    pub fn of(pid: u32) -> Result<Self> {
        let count = |what: &str| -> Result<usize> {
            let path = format!("/proc/{pid}/{what}");
            Ok(fs::read_dir(&path).context(path)?.count())
        };
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let private = rollup
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        Ok(Self {
            descriptors: count("fd")?,
            threads: count("task")?,
            private: private.sum(),
        })
    }
}

/// Those that a process has started and not yet waited for.
///
/// # Errors
///
/// If it, or one of its threads, is gone.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).context(tasks)? {
        // A thread may end meanwhile, and its children are another's then.
        let list = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_whitespace()
                .filter_map(|it| it.parse::<u32>().ok()),
        );
    }
    Ok(children)
}

/// A process and all that it has started, itself first.
///
/// # Errors
///
/// As [`children`].
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(children(parent)?);
        next += 1;
    }
    Ok(family)
}
