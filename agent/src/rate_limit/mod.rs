//! The rate limits of the log: the host, or a program that the agent runs, can cause only
//! so many bytes of log records, for each service and for the agent itself.
//!
//! A record is [truncated](TruncatedRecord), belongs to a [`Class`], and takes its cost in
//! bytes from the [`Budget`] of its class, which has token buckets. A record that exceeds
//! the budget is suppressed and counted; a summary reports the count later. The limits
//! outlive devices, so that a device that is opened again does not get new ones.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyperv_services::PROGRAM_OUTPUT;
use hyperv_services::registry::SERVICES;
use serde::{Deserialize, Serialize};
use slog::{BorrowedKV, Drain, Level, Logger, Never, OwnedKVList, Record, RecordStatic, o, warn};

use self::budget::{Budget, CLASSES, Class};
use self::kinds::{Kinds, MAX_KINDS, Site};
pub(crate) use self::truncate::TruncatedRecord;
use self::truncate::{MAX_COST, MAX_MESSAGE};

mod budget;
mod kinds;
mod truncate;

/// Maximum cost of a summary in bytes.
const SUMMARY_COST: usize = 1024;

/// How long after the first suppressed record a summary is due.
const SUMMARY_AFTER: Duration = Duration::from_secs(10);

/// The minimum time between two summaries.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Maximum number of summaries within 24 hours, one at the beginning and one at the end
/// included.
const SUMMARIES_A_DAY: u64 = 25;

/// Maximum number of bytes that pass one limit within any 24 hours.
const ONE_A_DAY: u64 =
    budget::ALL_A_DAY + MAX_KINDS as u64 * MAX_COST + SUMMARIES_A_DAY * SUMMARY_COST as u64;

/// The same for all services and the agent itself.
const ALL_A_DAY: u64 = (SERVICES.len() as u64 + 1) * ONE_A_DAY;

/// Unwind-safe, as loggers are used inside `catch_unwind`.
type Wake = dyn Fn() + Send + Sync + UnwindSafe + RefUnwindSafe;

/// The rate limit of a service, or of the agent itself.
pub(crate) struct RateLimit {
    state: Mutex<State>,
    /// Called when a summary becomes scheduled.
    wake: Box<Wake>,
}

#[derive(Debug)]
struct State {
    budgets: [Budget; CLASSES],
    kinds: Kinds,
    /// When the first record since the last summary was suppressed.
    first_suppressed: Option<Instant>,
    last_summary: Option<Instant>,
}

/// Numbers of log records that exceeded the rate limit since the agent was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Suppressed {
    /// All records.
    pub total: u64,
    /// Warnings and errors among them.
    pub warnings: u64,
    /// Events (`HYPERV_EVENT`) among them: the end of a backup or a copy. Events that report
    /// a failure are warnings, too.
    pub events: u64,
}

impl State {
    fn new(now: Instant) -> Self {
        const {
            assert!(
                ALL_A_DAY <= 10 << 20,
                "more than 10 MiB a day may be logged"
            );
            assert!(kinds::MAX_SUMMARY < MAX_MESSAGE && MAX_MESSAGE < SUMMARY_COST);
        }
        Self {
            budgets: Class::ALL.map(|class| Budget::new(class, now)),
            kinds: Kinds::default(),
            first_suppressed: None,
            last_summary: None,
        }
    }

    /// Returns whether a record with that cost may pass.
    fn admits(&mut self, class: Class, site: Site, cost: u64, now: Instant) -> bool {
        let budget = self.budgets.iter_mut().find(|budget| budget.class == class);
        let Some(budget) = budget else {
            return false;
        };
        if budget.take(cost, now) {
            self.kinds.passed(site, now);
            return true;
        }
        if self.kinds.is_first(site, now) {
            return true;
        }
        budget.suppressed += 1;
        self.first_suppressed.get_or_insert(now);
        false
    }

    fn summary_due(&self) -> Option<Instant> {
        let after = self.first_suppressed? + SUMMARY_AFTER;
        let pause = self.last_summary.map(|last| last + SUMMARY_INTERVAL);
        Some(pause.map_or(after, |pause| pause.max(after)))
    }

    /// Returns the summary of the records that were suppressed since the last one.
    fn summary(&mut self, now: Instant) -> Option<String> {
        let since = self.first_suppressed.take()?;
        self.last_summary = Some(now);
        Some(self.kinds.summary(now.saturating_duration_since(since)))
    }

    fn suppressed(&self) -> Suppressed {
        let mut suppressed = Suppressed::default();
        for budget in &self.budgets {
            let count = budget.suppressed;
            suppressed.total += count;
            if matches!(budget.class, Class::Warning | Class::FailedEvent) {
                suppressed.warnings += count;
            }
            if matches!(budget.class, Class::Event | Class::FailedEvent) {
                suppressed.events += count;
            }
        }
        suppressed
    }
}

impl RateLimit {
    /// Creates a limit. `wake` is called, on the thread that logs, when the result of
    /// [`RateLimit::summary_due`] has changed.
    pub(crate) fn new(
        wake: impl Fn() + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
    ) -> Self {
        Self {
            state: Mutex::new(State::new(Instant::now())),
            wake: Box::new(wake),
        }
    }

    /// Returns when the next summary is due.
    pub(crate) fn summary_due(&self) -> Option<Instant> {
        self.state().summary_due()
    }

    /// Logs a summary, if any record was suppressed since the last one.
    pub(crate) fn log_summary(&self, log: &Logger) {
        let summary = self.state().summary(Instant::now());
        if let Some(summary) = summary {
            warn!(log, "{}", summary);
        }
    }

    /// Returns the numbers of suppressed records.
    pub(crate) fn suppressed(&self) -> Suppressed {
        self.state().suppressed()
    }

    fn admits(&self, record: &Record<'_>, short: &TruncatedRecord) -> bool {
        let location = record.location();
        let site = (location.file, location.line);
        let class = class_of(record, short);
        let mut state = self.state();
        let scheduled = state.first_suppressed.is_some();
        let admitted = state.admits(class, site, short.cost(), Instant::now());
        if !admitted {
            state.kinds.suppressed(site, || short.text());
        }
        let wake = state.first_suppressed.is_some() != scheduled;
        drop(state);
        if wake {
            (self.wake)();
        }
        admitted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").finish_non_exhaustive()
    }
}

fn class_of(record: &Record<'_>, short: &TruncatedRecord) -> Class {
    let warning = record.level().is_at_least(Level::Warning);
    match (warning, short.is_event()) {
        _ if record.tag() == PROGRAM_OUTPUT => Class::Output,
        (true, true) => Class::FailedEvent,
        (true, false) => Class::Warning,
        (false, true) => Class::Event,
        (false, false) if record.level() == Level::Info => Class::Notice,
        (false, false) => Class::Detail,
    }
}

/// A drain that truncates records, and drops those that exceed the rate limit.
pub(crate) struct RateLimitedDrain {
    pub(crate) to: Logger,
    pub(crate) limit: Arc<RateLimit>,
}

impl Drain for RateLimitedDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        let short = TruncatedRecord::of(record, values);
        if !self.limit.admits(record, &short) {
            return Ok(());
        }
        let static_part = RecordStatic {
            location: record.location(),
            tag: record.tag(),
            level: record.level(),
        };
        Drain::log(
            &self.to,
            &Record::new(
                &static_part,
                &format_args!("{}", short.message()),
                BorrowedKV(&short),
            ),
            &OwnedKVList::from(o!()),
        )
    }

    fn is_enabled(&self, level: Level) -> bool {
        Drain::is_enabled(&self.to, level)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation)]
mod tests;
