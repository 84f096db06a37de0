//! The result of a backup, as the status and a rehearsal show it.

use std::time::SystemTime;

pub use hyperv_services::backup::Kind;
use hyperv_services::backup::{self, Backup, HookRun};
use serde::{Deserialize, Serialize};

use crate::terminal::escaped;
use hyperv_services::clock::{clock, rfc3339, utc};

/// Maximum number of hook runs: the document must fit the buffer of a socket.
const MAX_HOOKS: usize = 32;

/// Maximum number of mount points.
pub(crate) const MAX_MOUNT_POINTS: usize = 8;

/// Maximum length of a name or a path in characters.
pub(crate) const MAX_NAME: usize = 200;

/// Maximum length of a reason in characters.
const MAX_REASON: usize = 500;

/// A backup that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// Who requested it.
    pub kind: Kind,
    /// When it was requested.
    #[serde(with = "rfc3339")]
    pub began: SystemTime,
    /// Microseconds from the first freeze to the last thaw; `null` if nothing was frozen or
    /// the time is unknown.
    pub frozen_usec: Option<u64>,
    /// Number of frozen file systems.
    pub file_systems: usize,
    /// Mount points of the first of them.
    pub mount_points: Vec<String>,
    /// The hook runs, in the order in which they ended.
    pub hooks: Vec<Hook>,
    /// Number of further hook runs.
    pub more_hooks: usize,
    /// Whether it is consistent.
    pub outcome: Outcome,
    /// Why it is not.
    pub reason: Option<String>,
}

/// The outcome of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All file systems stayed frozen until the thaw was requested.
    Consistent,
    /// A file system was thawed earlier, or could not be thawed.
    Inconsistent,
    /// Nothing was frozen.
    Failed,
}

/// A hook run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Name of the hook.
    pub name: String,
    /// Its argument: `freeze`, `thaw` or `freeze-failed`.
    pub action: String,
    /// Duration in microseconds.
    pub usec: u64,
    /// Why it failed; `null` if it succeeded.
    pub failure: Option<String>,
}

impl From<Backup> for LastBackup {
    fn from(backup: Backup) -> Self {
        let (outcome, reason) = match backup.outcome {
            backup::Outcome::Consistent => (Outcome::Consistent, None),
            backup::Outcome::Inconsistent(why) => (Outcome::Inconsistent, Some(why)),
            backup::Outcome::Failed(why) => (Outcome::Failed, Some(why)),
        };
        Self {
            kind: backup.kind,
            began: clock(backup.began),
            frozen_usec: backup.frozen_for.map(usec),
            file_systems: backup.file_systems,
            mount_points: backup
                .mount_points
                .iter()
                .take(MAX_MOUNT_POINTS)
                .map(|path| cut(&path.display().to_string(), MAX_NAME))
                .collect(),
            more_hooks: backup.hooks.len().saturating_sub(MAX_HOOKS),
            hooks: backup
                .hooks
                .into_iter()
                .take(MAX_HOOKS)
                .map(Hook::from)
                .collect(),
            outcome,
            reason: reason.map(|why| cut(&why, MAX_REASON)),
        }
    }
}

impl From<HookRun> for Hook {
    fn from(run: HookRun) -> Self {
        Self {
            name: cut(&run.name, MAX_NAME),
            action: run.action.to_owned(),
            usec: usec(run.took),
            failure: run.failure.map(|why| cut(&why, MAX_REASON)),
        }
    }
}

impl LastBackup {
    /// Returns whether the backup is consistent and every hook succeeded.
    pub fn is_well(&self) -> bool {
        let failed = self.hooks.iter().any(|hook| hook.failure.is_some());
        self.outcome == Outcome::Consistent && !failed
    }

    /// Returns a one-line summary.
    pub fn text(&self) -> String {
        let began = utc(self.began);
        let kind = match self.kind {
            Kind::Backup => "",
            Kind::Rehearsal => " (rehearsal)",
            Kind::HooksOnly => " (rehearsal of the hooks)",
        };
        let mut parts = vec![format!("{began}{kind}")];
        match (file_systems(self.file_systems), self.frozen_usec) {
            (_, None) if self.kind == Kind::HooksOnly || self.outcome == Outcome::Failed => {}
            (count, None) => parts.push(format!("{count} frozen")),
            (count, Some(usec)) => parts.push(format!("{count} frozen for {}", seconds(usec))),
        }
        let mut names: Vec<_> = self.hooks.iter().map(|hook| &hook.name).collect();
        names.sort();
        names.dedup();
        match (names.len(), self.more_hooks) {
            (0, _) => {}
            (1, 0) => parts.push("1 hook".to_owned()),
            (count, 0) => parts.push(format!("{count} hooks")),
            (count, _) => parts.push(format!("{count} hooks or more")),
        }
        let mut failed = self.hooks.iter().filter(|hook| hook.failure.is_some());
        if let Some(hook) = failed.next() {
            let name = escaped(&hook.name);
            parts.push(format!("hook {name} failed at {}", escaped(&hook.action)));
        }
        parts.push(match (self.outcome, self.kind) {
            (Outcome::Consistent, Kind::HooksOnly) => "nothing frozen".to_owned(),
            (Outcome::Consistent, _) => "consistent".to_owned(),
            (Outcome::Inconsistent, _) => "not consistent".to_owned(),
            (Outcome::Failed, _) => "failed".to_owned(),
        });
        let reason = self.reason.as_deref();
        let reason = reason.map(|why| format!(": {}", escaped(why)));
        parts.join(", ") + &reason.unwrap_or_default()
    }
}

/// Formats a number of file systems.
pub(crate) fn file_systems(count: usize) -> String {
    match count {
        1 => "1 file system".to_owned(),
        count => format!("{count} file systems"),
    }
}

/// Formats the first of `count` mount points.
pub(crate) fn mount_points(shown: &[String], count: usize) -> String {
    let paths: Vec<_> = shown.iter().map(|path| escaped(path)).collect();
    let mut words = paths.join(", ");
    if count > shown.len() {
        words += &format!(" and {} more", count - shown.len());
    }
    words
}

/// Formats a time in seconds.
pub(crate) fn seconds(usec: u64) -> String {
    format!("{}.{:03} s", usec / 1_000_000, usec % 1_000_000 / 1000)
}

/// Truncates a text to a number of characters.
pub(crate) fn cut(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn usec(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
