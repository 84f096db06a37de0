//! The time that a request has, and who has the last word on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Somebody waits, and it is not done.
const OPEN: u8 = 0;

/// It was done, and what it changed stays.
const DONE: u8 = 1;

/// The host was told that it failed, or is about to be.
const GIVEN_UP: u8 = 2;

/// The time of one request, from its arrival on. Who carries it out and who answers
/// the host share it: either it is [done](Self::done) or [given up](Self::give_up),
/// never both, so that the host is not told of a failure while the change stays.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    end: Instant,
    state: Arc<AtomicU8>,
}

impl Limit {
    /// A request that arrived now.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            end: Instant::now() + time,
            state: Arc::new(AtomicU8::new(OPEN)),
        }
    }

    /// When its time is over.
    pub(super) fn end(&self) -> Instant {
        self.end
    }

    /// Time that is left.
    pub(super) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Whether nothing more is to be begun for it.
    pub(super) fn is_over(&self) -> bool {
        self.is_given_up() || self.left().is_zero()
    }

    /// Whether the host was told that it failed, whatever comes of it.
    pub(super) fn is_given_up(&self) -> bool {
        self.state.load(Ordering::Acquire) == GIVEN_UP
    }

    /// Settles that what was done stays. `false` where it was given up before: then it
    /// is to be undone.
    #[must_use]
    pub(super) fn done(&self) -> bool {
        self.settle(DONE)
    }

    /// Settles that nothing of it stays. `false` where it was done before.
    #[must_use]
    pub(super) fn give_up(&self) -> bool {
        self.settle(GIVEN_UP)
    }

    fn settle(&self, state: u8) -> bool {
        let settled = self
            .state
            .compare_exchange(OPEN, state, Ordering::AcqRel, Ordering::Acquire);
        settled.is_ok() || settled == Err(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_counts() {
        for (first, second) in [
            (
                Limit::done as fn(&Limit) -> bool,
                Limit::give_up as fn(&Limit) -> bool,
            ),
            (Limit::give_up, Limit::done),
        ] {
            let limit = Limit::new(Duration::from_secs(60));
            assert!(!limit.is_over());
            assert!(first(&limit) && first(&limit.clone()));
            assert!(!second(&limit));
        }
        assert!(Limit::new(Duration::ZERO).is_over());
        let limit = Limit::new(Duration::from_secs(60));
        assert!(limit.clone().give_up() && limit.is_over());
    }
}
