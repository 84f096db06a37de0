//! Statistics of a service, for the status.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hyperv_services::counters::{Count, ServiceRecord};
use hyperv_vmbus::ic::Status;
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

use crate::rate_limit::{RateLimit, RateLimitedDrain, TruncatedRecord};

/// The statistics of a service since the agent was started. They outlive its devices.
#[derive(Debug)]
pub(crate) struct ServiceStats {
    requests: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<Option<(SystemTime, String)>>,
    /// How often a device was opened.
    pub(crate) opened: Count,
    /// How often one could not be opened, or was closed after an error.
    pub(crate) device_failures: Count,
    /// What the service counts itself.
    pub(crate) record: Arc<ServiceRecord>,
    /// The rate limit of its log.
    pub(crate) limit: Arc<RateLimit>,
}

impl ServiceStats {
    /// Statistics of a service that has done nothing yet.
    pub(crate) fn new(limit: RateLimit) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicU64::default(),
            failures: AtomicU64::default(),
            last_error: Mutex::default(),
            opened: Count::default(),
            device_failures: Count::default(),
            record: Arc::default(),
            limit: Arc::new(limit),
        })
    }

    /// Returns a logger that logs to `to` within the service's rate limit, and keeps the
    /// last error.
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

    /// Counts a request.
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the outcome of a request.
    pub(crate) fn outcome(&self, status: Status) {
        // The end of an enumeration is no failure, nor is a missing key.
        if status != Status::OK && status != Status::NO_MORE_ITEMS {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of requests, and how many of them failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.requests.load(Ordering::Relaxed),
            self.failures.load(Ordering::Relaxed),
        )
    }

    /// Returns the last error and its time.
    pub(crate) fn last_error(&self) -> Option<(SystemTime, String)> {
        let last = self.last_error.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A drain that keeps the last error. Each failure is logged once, so the last warning is
/// the last error.
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
