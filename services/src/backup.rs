//! The outcome of the last backup.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// How many mount points of frozen file systems are recorded: there may be thousands.
pub const MOUNT_POINTS: usize = 16;

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Who requested it, and for what.
    pub kind: Kind,
    /// When it was requested; if a previous agent began it, when this agent found that.
    pub began: SystemTime,
    /// Time from the first freeze to the last thaw; `None` if nothing was frozen, or the
    /// time is unknown.
    pub frozen_for: Option<Duration>,
    /// What thawed them; `None` if nothing was frozen, or it is unknown.
    pub thawed_by: Option<ThawedBy>,
    /// How many file systems it froze.
    pub file_systems: usize,
    /// Mount points of the first [`MOUNT_POINTS`] of them.
    pub mount_points: Vec<PathBuf>,
    /// Runs of hooks, in the order in which they ended.
    pub hooks: Vec<HookRun>,
    /// Its outcome.
    pub outcome: Outcome,
}

/// Who requested a backup, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The host.
    Backup,
    /// An administrator, to rehearse a backup.
    Rehearsal,
    /// An administrator, to rehearse the hooks only: nothing is frozen.
    HooksOnly,
}

/// The outcome of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// File systems stayed frozen until the host requested the thaw.
    Consistent,
    /// File systems thawed before the host requested it, or some could not be thawed; the
    /// reason as text.
    Inconsistent(String),
    /// Nothing was frozen; the reason as text.
    Failed(String),
}

/// What ended a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawedBy {
    /// The host's request.
    Host,
    /// The end of a rehearsal.
    Rehearsal,
    /// The time limit.
    TimeLimit,
    /// The end of the agent, of its guard, of the device, or of the client of a rehearsal.
    Interruption,
}

/// One run of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRun {
    /// Its name in the directory of hooks.
    pub name: String,
    /// Its first argument.
    pub action: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did, as text.
    pub failure: Option<String>,
}

impl Backup {
    /// Counts the hooks that ran, each once.
    pub fn hooks_run(&self) -> usize {
        let mut names: Vec<_> = self.hooks.iter().map(|run| &run.name).collect();
        names.sort();
        names.dedup();
        names.len()
    }

    /// Counts the runs of hooks that failed.
    pub fn hooks_failed(&self) -> usize {
        let failed = self.hooks.iter().filter(|run| run.failure.is_some());
        failed.count()
    }
}
