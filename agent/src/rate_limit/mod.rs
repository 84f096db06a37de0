//! How much may be logged: what the host, or a program that the agent runs, can cause
//! is limited in size and number, for each service and for the agent itself.
//!
//! A record is made [`TruncatedRecord`], belongs to a [`Class`], and takes as many bytes from its
//! class's budget as it costs. What finds no room is counted, and told in a summary after
//! a while. The limits outlive devices, so that one that is opened again has no new ones.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyperv_services::PROGRAM_OUTPUT;
use hyperv_services::registry::SERVICES;
use slog::{BorrowedKV, Drain, Level, Logger, Never, OwnedKVList, Record, RecordStatic, o, warn};

use self::budget::{Budget, CLASSES, Class};
use self::kinds::{Kinds, MAX_KINDS, Site};
pub(crate) use self::truncate::TruncatedRecord;
use self::truncate::{MAX_COST, MAX_MESSAGE};

mod budget;
mod kinds;
mod truncate;

/// Bytes that a summary costs at most, its text and what surrounds it.
const SUMMARY_COST: usize = 1024;

/// When a summary is due: so long after the first record that found no room, but never
/// sooner than this after the last summary.
const SUMMARY_AFTER: Duration = Duration::from_secs(10);
const SUMMARY_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Summaries within a day: one at its very beginning and one at its very end among them.
const SUMMARIES_A_DAY: u64 = 25;

/// Bytes that pass one limit within any 24 hours.
const ONE_A_DAY: u64 =
    budget::ALL_A_DAY + MAX_KINDS as u64 * MAX_COST + SUMMARIES_A_DAY * SUMMARY_COST as u64;

/// Bytes that are logged within any 24 hours, of all services and the agent itself.
const ALL_A_DAY: u64 = (SERVICES.len() as u64 + 1) * ONE_A_DAY;

const _: () = assert!(
    ALL_A_DAY <= 10 << 20,
    "more than 10 MiB a day may be logged"
);
const _: () = assert!(kinds::MAX_SUMMARY < MAX_MESSAGE && MAX_MESSAGE < SUMMARY_COST);

/// A logger may be used where a panic is caught.
type Wake = dyn Fn() + Send + Sync + UnwindSafe + RefUnwindSafe;

/// The limit of one service, or of the agent itself.
pub(crate) struct RateLimit {
    state: Mutex<State>,
    /// Called when a summary will be due that was not before.
    wake: Box<Wake>,
}

#[derive(Debug)]
struct State {
    budgets: [Budget; CLASSES],
    kinds: Kinds,
    /// The first record that found no room since the last summary.
    first_suppressed: Option<Instant>,
    last_summary: Option<Instant>,
}

/// Records that found no room since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Suppressed {
    /// All of them.
    pub(crate) total: u64,
    /// Warnings and errors among them.
    pub(crate) warnings: u64,
    /// Events among them; those that tell of a failure are warnings, too.
    pub(crate) events: u64,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            budgets: Class::ALL.map(|class| Budget::new(class, now)),
            kinds: Kinds::default(),
            first_suppressed: None,
            last_summary: None,
        }
    }

    /// Whether a record that costs so much may pass.
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
        let pause = self.last_summary.map(|last| last + SUMMARY_PAUSE);
        Some(pause.map_or(after, |pause| pause.max(after)))
    }

    /// What found no room since the last summary.
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
    /// A limit from which nothing was taken; `wake` is called, from any thread that
    /// logs, when [`RateLimit::summary_due`] is to be asked again.
    pub(crate) fn new(
        wake: impl Fn() + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
    ) -> Self {
        Self {
            state: Mutex::new(State::new(Instant::now())),
            wake: Box::new(wake),
        }
    }

    /// When [`RateLimit::tell`] has something to tell.
    pub(crate) fn summary_due(&self) -> Option<Instant> {
        self.state().summary_due()
    }

    /// Logs what was suppressed since it was told last, if anything was.
    pub(crate) fn tell(&self, log: &Logger) {
        let summary = self.state().summary(Instant::now());
        if let Some(summary) = summary {
            warn!(log, "{}", summary);
        }
    }

    /// What was suppressed since the agent started.
    pub(crate) fn suppressed(&self) -> Suppressed {
        self.state().suppressed()
    }

    fn admits(&self, record: &Record<'_>, short: &TruncatedRecord) -> bool {
        let location = record.location();
        let site = (location.file, location.line);
        let class = class_of(record, short);
        let mut state = self.state();
        let told = state.first_suppressed.is_some();
        let admitted = state.admits(class, site, short.cost(), Instant::now());
        if !admitted {
            state.kinds.suppressed(site, || short.text());
        }
        let wake = state.first_suppressed.is_some() != told;
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

/// Passes on what a limit admits, each record made short.
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
