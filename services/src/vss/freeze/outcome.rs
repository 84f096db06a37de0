//! Results of freezes and thaws.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use crate::vss::device_number::DeviceNumber;

/// A file system that cannot be frozen and need not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its mount point.
    pub mount_point: PathBuf,
    /// The error of the kernel. `ESHUTDOWN` stands for any error of a file system that was
    /// shut down.
    pub errno: Errno,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.errno {
            Errno::OPNOTSUPP => "it cannot be frozen",
            Errno::ROFS => "the kernel made it read-only after an error",
            Errno::SHUTDOWN => "it was shut down after an error",
            _ => "the kernel does not freeze it",
        };
        let path = &self.mount_point;
        write!(f, "the file system at {path:?} is left out: {why}")
    }
}

/// The result of a freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeSummary {
    /// How many file systems it froze.
    pub frozen: usize,
    /// The mount points of those that another program had frozen before.
    pub frozen_before: Vec<PathBuf>,
    /// Those that could not be frozen and need not be.
    pub skipped: Vec<Skipped>,
    /// The time from the first freeze to the last.
    pub took: Duration,
    /// Why the guard's memory is not locked, if it is not: a page fault may have to wait for a
    /// disk.
    pub not_locked: Option<Errno>,
}

/// The result of a thaw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ThawSummary {
    /// The mount points of those that another program thawed before: the backup may be
    /// inconsistent.
    pub early: Vec<PathBuf>,
    /// How many were thawed.
    pub thawed: usize,
    /// How long they were frozen.
    pub after: Duration,
}

/// An attempt to thaw a file system.
#[derive(Debug)]
pub struct ThawAttempt {
    /// Its device number.
    pub device: DeviceNumber,
    /// Its mount point.
    pub mount_point: PathBuf,
    /// Whether it was frozen, or why it cannot be thawed.
    pub outcome: Result<bool, String>,
}
