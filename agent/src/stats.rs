//! What the workers of a service count, for the status to show.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hyperv_services::backup::LastBackup;
use hyperv_vmbus::ic::Status;
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

use crate::rate_limit::{RateLimit, RateLimitedDrain, TruncatedRecord};

/// What a service has done since the agent started.
#[derive(Debug)]
pub(crate) struct ServiceStats {
    requests: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<Option<(SystemTime, String)>>,
    /// How the last backup went, of a service that makes any.
    pub(crate) last_backup: Arc<LastBackup>,
    /// How much may be logged of it, whichever device it has.
    pub(crate) limit: Arc<RateLimit>,
}

impl ServiceStats {
    /// Statistics of a service that has done nothing yet.
    pub(crate) fn new(limit: RateLimit) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicU64::default(),
            failures: AtomicU64::default(),
            last_error: Mutex::default(),
            last_backup: Arc::default(),
            limit: Arc::new(limit),
        })
    }

    /// Logs to `to`, within the service's limit, and notes what is logged as a failure.
    pub(crate) fn logger(self: &Arc<Self>, to: Logger) -> Logger {
        let drain = LastErrorDrain {
            to: RateLimitedDrain {
                to,
                limit: Arc::clone(&self.limit),
            },
            stats: Arc::clone(self),
        };
        Logger::root(drain, o!())
    }

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
struct LastErrorDrain {
    to: RateLimitedDrain,
    stats: Arc<ServiceStats>,
}

impl Drain for LastErrorDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if record.level().is_at_least(Level::Warning) {
            let none = OwnedKVList::from(o!());
            let text = TruncatedRecord::of(record, &none).text();
            let last = self.stats.last_error.lock();
            *last.unwrap_or_else(PoisonError::into_inner) = Some((SystemTime::now(), text));
        }
        self.to.log(record, values)
    }

    fn is_enabled(&self, level: Level) -> bool {
        self.to.is_enabled(level)
    }
}
