//! Counters of what the services have done since the agent was started.
//!
//! A worker adds to them with one atomic addition; nobody waits for a lock. Their names in
//! JSON are documented in hyperv-agent(8) and stay.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backup::{Backup, Kind, Outcome, ThawedBy};

/// What a service has done since the agent was started. It outlives the service: a new one
/// is created when its device is opened again.
#[derive(Debug, Default)]
pub struct ServiceRecord {
    /// Its counters.
    pub counters: Counters,
    last_backup: Mutex<Option<Backup>>,
}

impl ServiceRecord {
    /// Counts a backup, and keeps it as the last one.
    pub fn end_backup(&self, backup: Backup) {
        self.counters.vss.count(&backup);
        let mut last = self
            .last_backup
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(backup);
    }

    /// Returns the last backup, if there was one.
    pub fn last_backup(&self) -> Option<Backup> {
        let last = self.last_backup.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A number that any thread may read while a worker changes it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to the number.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl From<u64> for Count {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

impl From<Count> for u64 {
    fn from(count: Count) -> Self {
        count.get()
    }
}

impl Clone for Count {
    fn clone(&self) -> Self {
        self.get().into()
    }
}

impl PartialEq for Count {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Count {}

/// The counters of all services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// File copies.
    pub fcopy: Copies,
    /// Requests of the key-value service.
    pub kvp: Operations,
    /// Backups and rehearsals.
    pub vss: Backups,
}

/// File copies by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Copies {
    /// Bytes that were written, those of copies that failed later included.
    pub bytes: Count,
    /// Copies that are complete.
    pub finished: Count,
    /// Copies that failed, or were refused.
    pub failed: Count,
    /// Copies that the host cancelled or the agent dropped.
    pub cancelled: Count,
}

/// Requests of the key-value service, by operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operations {
    /// GET: the value of a key.
    pub get: Outcomes,
    /// SET: a key.
    pub set: Outcomes,
    /// DELETE: a key.
    pub delete: Outcomes,
    /// ENUMERATE: a record by its index.
    pub enumerate: Outcomes,
    /// `GET_IP_INFO`: the IP configuration of an interface.
    pub get_ip_info: Outcomes,
    /// `SET_IP_INFO`: an IP configuration for an interface.
    pub set_ip_info: Outcomes,
    /// Messages that are no request.
    pub malformed: Outcomes,
}

/// Requests by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcomes {
    /// Those that succeeded.
    pub succeeded: Count,
    /// Those for a key or an index that does not exist.
    pub missing: Count,
    /// Those that failed.
    pub failed: Count,
}

/// Backups, and how long file systems were frozen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backups {
    /// Backups of the host.
    pub backups: BackupOutcomes,
    /// Rehearsals of an administrator.
    pub rehearsals: BackupOutcomes,
    /// How often file systems were frozen.
    pub freezes: Count,
    /// Microseconds for which they were frozen, in all.
    pub frozen_usec: Count,
    /// The longest of these times.
    pub frozen_usec_longest: Count,
    /// The last of these times.
    pub frozen_usec_last: Count,
    /// What ended the freezes.
    pub thawed_by: Thaws,
    /// Runs of hooks that failed.
    pub hooks_failed: Count,
}

/// Backups by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupOutcomes {
    /// All file systems stayed frozen until the thaw was requested.
    pub consistent: Count,
    /// A file system was thawed earlier, or could not be thawed.
    pub inconsistent: Count,
    /// Nothing was frozen.
    pub failed: Count,
}

/// What ended freezes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thaws {
    /// The host's request.
    pub host: Count,
    /// The end of a rehearsal.
    pub rehearsal: Count,
    /// The time limit.
    pub time_limit: Count,
    /// The end of the agent, of its guard or of the device.
    pub interruption: Count,
}

impl Backups {
    /// Counts a backup that has ended. Backups end one at a time.
    pub(crate) fn count(&self, backup: &Backup) {
        let outcomes = match backup.kind {
            Kind::Backup => &self.backups,
            Kind::Rehearsal | Kind::HooksOnly => &self.rehearsals,
        };
        let outcome = match backup.outcome {
            Outcome::Consistent => &outcomes.consistent,
            Outcome::Inconsistent(_) => &outcomes.inconsistent,
            Outcome::Failed(_) => &outcomes.failed,
        };
        outcome.add(1);
        let failed = u64::try_from(backup.hooks_failed());
        self.hooks_failed.add(failed.unwrap_or(u64::MAX));
        if let Some(time) = backup.frozen_for {
            self.freezes.add(1);
            self.frozen(time);
        }
        match backup.thawed_by {
            None => {}
            Some(ThawedBy::Host) => self.thawed_by.host.add(1),
            Some(ThawedBy::Rehearsal) => self.thawed_by.rehearsal.add(1),
            Some(ThawedBy::TimeLimit) => self.thawed_by.time_limit.add(1),
            Some(ThawedBy::Interruption) => self.thawed_by.interruption.add(1),
        }
    }

    fn frozen(&self, time: Duration) {
        let usec = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.frozen_usec.add(usec);
        self.frozen_usec_longest
            .0
            .fetch_max(usec, Ordering::Relaxed);
        self.frozen_usec_last.0.store(usec, Ordering::Relaxed);
    }
}
