//! What the workers of a service count, for the status to show.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hyperv_services::backup::LastBackup;
use hyperv_vmbus::ic::Status;
use slog::{Drain, Level, Never, OwnedKVList, Record, o};

use crate::fields::Texts;

/// Letters that are kept of an error: the host has a say in how long it is.
const MAX_TEXT: usize = 2000;

/// What a service has done since the agent started.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<Option<(SystemTime, String)>>,
    /// How the last backup went, of a service that makes any.
    pub(crate) last_backup: Arc<LastBackup>,
}

impl Tally {
    /// Counts a request that has come.
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what came of a request.
    pub(crate) fn outcome(&self, status: Status) {
        // The end of an enumeration is no failure, nor is a key that is not
        // there.
        if status != Status::OK && status != Status::NO_MORE_ITEMS {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests that came, and how many of them failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.requests.load(Ordering::Relaxed),
            self.failures.load(Ordering::Relaxed),
        )
    }

    /// What went wrong last, and when.
    pub(crate) fn last_error(&self) -> Option<(SystemTime, String)> {
        let last = self.last_error.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Notes what is logged as a failure, and passes every record on: each failure
/// is logged once, so that the last warning is the last error.
pub(crate) struct Noting<D> {
    pub(crate) to: D,
    pub(crate) tally: Arc<Tally>,
}

impl<D: Drain<Ok = (), Err = Never>> Drain for Noting<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if record.level().is_at_least(Level::Warning) {
            let none = OwnedKVList::from(o!());
            let text = Texts::of(record, &none).0;
            let text = text.chars().take(MAX_TEXT).collect();
            let last = self.tally.last_error.lock();
            *last.unwrap_or_else(PoisonError::into_inner) = Some((SystemTime::now(), text));
        }
        self.to.log(record, values)
    }

    fn is_enabled(&self, level: Level) -> bool {
        self.to.is_enabled(level)
    }
}
