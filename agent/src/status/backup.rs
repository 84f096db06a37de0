//! How a backup went, as the status and a rehearsal tell it.

use std::time::SystemTime;

use hyperv_services::backup::{self, Backup, HookRun};
use serde::{Deserialize, Serialize};

use super::clock::{clock, rfc3339, utc};
use crate::terminal::escaped;

/// Runs of hooks that are told of; the document must fit the buffer of a socket.
const MAX_HOOKS: usize = 32;

/// Mount points that are told of.
pub(crate) const MAX_MOUNT_POINTS: usize = 8;

/// Letters of a name or a path.
pub(crate) const MAX_NAME: usize = 200;

/// Letters of why something failed.
const MAX_REASON: usize = 500;

/// A backup that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// Who asked for it, and for what.
    pub kind: Kind,
    /// When it was asked for.
    #[serde(with = "rfc3339")]
    pub began: SystemTime,
    /// Microseconds from the first freeze to the last thaw; `null` where nothing
    /// was frozen, or that is not known.
    pub frozen_usec: Option<u64>,
    /// How many file systems were frozen.
    pub file_systems: usize,
    /// Where the first of them are mounted.
    pub mount_points: Vec<String>,
    /// The runs of hooks, in the order in which they ended.
    pub hooks: Vec<Hook>,
    /// How many more runs there were.
    pub more_hooks: usize,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it is not consistent.
    pub reason: Option<String>,
}

/// Who asked for a backup, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The host.
    Backup,
    /// An administrator, by `hyperv-agent vss rehearse`.
    Rehearsal,
    /// The same with `--hooks-only`.
    HooksOnly,
}

/// What came of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// File systems were frozen until their thaw was asked for.
    Consistent,
    /// Something else thawed them before, or not all could be thawed.
    Inconsistent,
    /// It did not come to a freeze.
    Failed,
}

/// One run of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// What it was told.
    pub action: String,
    /// Microseconds that it took.
    pub usec: u64,
    /// Why it failed; `null` where it did not.
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
            kind: match backup.kind {
                backup::Kind::Backup => Kind::Backup,
                backup::Kind::Rehearsal => Kind::Rehearsal,
                backup::Kind::HooksOnly => Kind::HooksOnly,
            },
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
    /// Whether all went as it should, the hooks too.
    pub fn is_well(&self) -> bool {
        let failed = self.hooks.iter().any(|hook| hook.failure.is_some());
        self.outcome == Outcome::Consistent && !failed
    }

    /// What came of it, in a line.
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
            parts.push(format!("hook {name} failed with {}", escaped(&hook.action)));
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

/// How many file systems, in words.
pub(crate) fn file_systems(count: usize) -> String {
    match count {
        1 => "1 file system".to_owned(),
        count => format!("{count} file systems"),
    }
}

/// The first of so many mount points, in words.
pub(crate) fn mount_points(shown: &[String], count: usize) -> String {
    let mut words = shown
        .iter()
        .map(|path| escaped(path))
        .collect::<Vec<_>>()
        .join(", ");
    if count > shown.len() {
        words += &format!(" and {} more", count - shown.len());
    }
    words
}

/// A time in seconds.
pub(crate) fn seconds(usec: u64) -> String {
    format!("{}.{:03} s", usec / 1_000_000, usec % 1_000_000 / 1000)
}

/// The beginning of a text.
pub(crate) fn cut(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn usec(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
