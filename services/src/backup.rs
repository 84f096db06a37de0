//! How the last backup went, for whoever asks from another thread.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Mount points that are kept of what is frozen: there may be thousands.
pub const MOUNT_POINTS: usize = 16;

/// One backup that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Who asked for it, and for what.
    pub kind: Kind,
    /// When it was asked for; of one that an agent before this one has begun,
    /// when that was found.
    pub began: SystemTime,
    /// From the first freeze to the last thaw; `None` where it did not come to a
    /// freeze, or that is not known.
    pub frozen_for: Option<Duration>,
    /// How many file systems were frozen by it.
    pub file_systems: usize,
    /// Where they are mounted: the first [`MOUNT_POINTS`] of them.
    pub mount_points: Vec<PathBuf>,
    /// The hooks, in the order in which they ended.
    pub hooks: Vec<HookRun>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Who asked for a backup, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host.
    Backup,
    /// An administrator, who tries what a backup would do.
    Rehearsal,
    /// The same, with the hooks only: nothing is frozen.
    HooksOnly,
}

/// What came of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// File systems were frozen until the host asked for their thaw.
    Consistent,
    /// They were frozen, and not until then, or not all could be thawed; why, in
    /// words.
    Inconsistent(String),
    /// It did not come to a freeze; why, in words.
    Failed(String),
}

/// One run of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRun {
    /// Its name in the directory of hooks.
    pub name: String,
    /// What it was told.
    pub action: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did, in words.
    pub failure: Option<String>,
}

impl Backup {
    /// How many hooks have run, each counted once.
    pub fn hooks_run(&self) -> usize {
        let mut names: Vec<_> = self.hooks.iter().map(|run| &run.name).collect();
        names.sort();
        names.dedup();
        names.len()
    }

    /// How many runs of hooks failed.
    pub fn hooks_failed(&self) -> usize {
        let failed = self.hooks.iter().filter(|run| run.failure.is_some());
        failed.count()
    }
}

/// The last backup of a service. It is kept outside of the service, which is made
/// anew when its device is opened again.
#[derive(Debug, Default)]
pub struct LastBackup(Mutex<Option<Backup>>);

impl LastBackup {
    /// Keeps this one as the last.
    pub fn set(&self, backup: Backup) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(backup);
    }

    /// The last one, if there was any.
    pub fn get(&self) -> Option<Backup> {
        let last = self.0.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
