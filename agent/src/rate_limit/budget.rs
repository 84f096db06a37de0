//! The bytes that each class of records may have.

use std::time::{Duration, Instant};

/// What a record is, so that many of one class leave the others their budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A warning or an error.
    Warning,
    /// An event, `HYPERV_EVENT`, of something that failed.
    FailedEvent,
    /// An event of something that did not.
    Event,
    /// What was done.
    Notice,
    /// What a program says that the agent runs.
    Output,
    /// What is logged at the levels debug and trace.
    Detail,
}

pub(super) const CLASSES: usize = 6;

/// Bytes that a class may have at once, and how long it takes to have that again. As
/// many lines as one looks through by eye.
const AT_ONCE: u64 = 24 << 10;
const AT_ONCE_AGAIN: Duration = Duration::from_secs(60);

/// How long it takes to have again what a class may have in the long run.
const AGAIN: Duration = Duration::from_secs(4 * 60 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Class {
    pub(super) const ALL: [Self; CLASSES] = [
        Self::Warning,
        Self::FailedEvent,
        Self::Event,
        Self::Notice,
        Self::Output,
        Self::Detail,
    ];

    /// Bytes that it may have in the long run, until some are given again.
    const fn capacity(self) -> u64 {
        match self {
            Self::Warning => 64 << 10,
            Self::FailedEvent => 48 << 10,
            Self::Event => 80 << 10,
            // A backup with five hooks has a dozen: enough for six of those in an hour.
            Self::Notice => 96 << 10,
            Self::Output => 24 << 10,
            Self::Detail => 32 << 10,
        }
    }
}

/// Bytes that all classes take within any 24 hours: what they may have when those begin,
/// and what is given again meanwhile.
pub(super) const ALL_A_DAY: u64 = {
    let mut bytes = 0;
    let mut rest: &[Class] = &Class::ALL;
    while let [class, others @ ..] = rest {
        let capacity = class.capacity();
        bytes += capacity + capacity * DAY.as_secs() / AGAIN.as_secs();
        rest = others;
    }
    bytes
};

/// What one class has.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) class: Class,
    /// Records that found no room.
    pub(super) suppressed: u64,
    at_once: TokenBucket,
    long_run: TokenBucket,
}

impl Budget {
    pub(super) fn new(class: Class, now: Instant) -> Self {
        Self {
            class,
            suppressed: 0,
            at_once: TokenBucket::new(AT_ONCE, AT_ONCE_AGAIN, now),
            long_run: TokenBucket::new(class.capacity(), AGAIN, now),
        }
    }

    /// Takes so many bytes, where there are as many.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> bool {
        self.at_once.fill(now);
        self.long_run.fill(now);
        let enough = self.at_once.level >= bytes && self.long_run.level >= bytes;
        if enough {
            self.at_once.level -= bytes;
            self.long_run.level -= bytes;
        }
        enough
    }
}

/// Bytes that come again over time.
#[derive(Debug)]
struct TokenBucket {
    capacity: u64,
    /// How long it takes to fill when it is empty.
    fills_in: Duration,
    level: u64,
    filled: Instant,
}

impl TokenBucket {
    fn new(capacity: u64, fills_in: Duration, now: Instant) -> Self {
        Self {
            capacity,
            fills_in,
            level: capacity,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        let gained = u128::from(self.capacity) * since.as_millis() / self.fills_in.as_millis();
        // Less than a byte is not lost, but waits to be one.
        if gained > 0 {
            let gained = u64::try_from(gained).unwrap_or(self.capacity);
            self.level = self.level.saturating_add(gained).min(self.capacity);
            self.filled = now;
        }
    }
}
