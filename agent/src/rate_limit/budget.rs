//! The budget in bytes of each class of records.

use std::time::{Duration, Instant};

/// The class of a record. Each has its own budget, so that none starves the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A warning or an error.
    Warning,
    /// An event (`HYPERV_EVENT`) that reports a failure.
    FailedEvent,
    /// Another event.
    Event,
    /// Level info.
    Notice,
    /// The output of a program that the agent runs.
    Output,
    /// Levels debug and trace.
    Detail,
}

pub(super) const CLASSES: usize = 6;

/// Capacity of the burst bucket of a class, and the time in which it refills. It is as many
/// lines as somebody still reads.
const BURST: u64 = 24 << 10;
const BURST_REFILL: Duration = Duration::from_secs(60);

/// The time in which the long-term bucket of a class refills.
const REFILL: Duration = Duration::from_secs(4 * 60 * 60);

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

    /// Capacity in bytes of the long-term bucket.
    const fn capacity(self) -> u64 {
        match self {
            Self::Warning => 64 << 10,
            Self::FailedEvent => 48 << 10,
            Self::Event => 80 << 10,
            // Enough for six backups in an hour: one with five hooks logs a dozen records.
            Self::Notice => 96 << 10,
            Self::Output => 24 << 10,
            Self::Detail => 32 << 10,
        }
    }
}

/// Maximum number of bytes of all classes within any 24 hours: the capacity of their
/// long-term buckets, and what these refill meanwhile.
pub(super) const ALL_A_DAY: u64 = {
    let mut bytes = 0;
    let mut rest: &[Class] = &Class::ALL;
    while let [class, others @ ..] = rest {
        let capacity = class.capacity();
        bytes += capacity + capacity * DAY.as_secs() / REFILL.as_secs();
        rest = others;
    }
    bytes
};

/// The budget of a class.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) class: Class,
    /// Number of suppressed records.
    pub(super) suppressed: u64,
    burst: TokenBucket,
    long_term: TokenBucket,
}

impl Budget {
    pub(super) fn new(class: Class, now: Instant) -> Self {
        Self {
            class,
            suppressed: 0,
            burst: TokenBucket::new(BURST, BURST_REFILL, now),
            long_term: TokenBucket::new(class.capacity(), REFILL, now),
        }
    }

    /// Takes that many bytes from both buckets. Returns `false` if one has fewer.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> bool {
        self.burst.fill(now);
        self.long_term.fill(now);
        let enough = self.burst.level >= bytes && self.long_term.level >= bytes;
        if enough {
            self.burst.level -= bytes;
            self.long_term.level -= bytes;
        }
        enough
    }
}

/// A token bucket of bytes.
#[derive(Debug)]
struct TokenBucket {
    capacity: u64,
    /// The time in which an empty bucket refills.
    refill: Duration,
    level: u64,
    filled: Instant,
}

impl TokenBucket {
    fn new(capacity: u64, refill: Duration, now: Instant) -> Self {
        Self {
            capacity,
            refill,
            level: capacity,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        let gained = u128::from(self.capacity) * since.as_millis() / self.refill.as_millis();
        // A fraction of a byte is not lost: the time is kept until it is a byte.
        if gained > 0 {
            let gained = u64::try_from(gained).unwrap_or(self.capacity);
            self.level = self.level.saturating_add(gained).min(self.capacity);
            self.filled = now;
        }
    }
}
