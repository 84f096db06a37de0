//! What came of a freeze, or of a thaw.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use crate::vss::device_number::DeviceNumber;

/// A file system that is not frozen, and stands in nobody's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// What the kernel said. `ESHUTDOWN` stands for whatever it says of a file
    /// system that was shut down.
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

/// What a freeze came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeSummary {
    /// How many file systems are frozen by this freeze.
    pub frozen: usize,
    /// Where those are mounted that somebody else had frozen before.
    pub frozen_before: Vec<PathBuf>,
    /// Those that could not be frozen, and need not be.
    pub skipped: Vec<Skipped>,
    /// From the first freeze to the last.
    pub took: Duration,
    /// Why the guard's memory is not locked, where it is not: what it needs may have
    /// to come from a disk that stands still.
    pub not_locked: Option<Errno>,
}

/// What a thaw came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thawed {
    /// Where those are mounted that were thawed before by somebody else: what
    /// was backed up may be inconsistent.
    pub early: Vec<PathBuf>,
    /// How many were thawed.
    pub thawed: usize,
    /// How long they were frozen.
    pub after: Duration,
}

/// A file system that was to be thawed.
#[derive(Debug)]
pub struct ThawAttempt {
    /// The kernel's number for it.
    pub device: DeviceNumber,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Whether it was frozen, or why it could not be thawed, in words.
    pub outcome: Result<bool, String>,
}
