//! The time that a request has, and who has the last word on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Somebody waits, and it is not done.
const OPEN: u8 = 0;

/// It was done, and what it changed stays.
const COMMITTED: u8 = 1;

/// The host was told that it failed, or is about to be.
const CANCELLED: u8 = 2;

/// The time of one request, from its arrival on. Who carries it out and who answers
/// the host share it: either it is [committed](Self::commit) or [cancelled](Self::cancel),
/// never both, so that the host is not told of a failure while the change stays.
#[derive(Debug, Clone)]
pub(super) struct CancelToken {
    deadline: Instant,
    state: Arc<AtomicU8>,
}

impl CancelToken {
    /// A request that arrived now.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            deadline: Instant::now() + time,
            state: Arc::new(AtomicU8::new(OPEN)),
        }
    }

    /// When its time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Time that is left.
    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether nothing more is to be begun for it.
    pub(super) fn is_expired(&self) -> bool {
        self.is_cancelled() || self.remaining().is_zero()
    }

    /// Whether the host was told that it failed, whatever comes of it.
    pub(super) fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    /// Settles that what was done stays. `false` where it was given up before: then it
    /// is to be undone.
    #[must_use]
    pub(super) fn commit(&self) -> bool {
        self.decide(COMMITTED)
    }

    /// Settles that nothing of it stays. `false` where it was done before.
    #[must_use]
    pub(super) fn cancel(&self) -> bool {
        self.decide(CANCELLED)
    }

    fn decide(&self, state: u8) -> bool {
        let decided = self
            .state
            .compare_exchange(OPEN, state, Ordering::AcqRel, Ordering::Acquire);
        decided.is_ok() || decided == Err(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_counts() {
        for (first, second) in [
            (
                CancelToken::commit as fn(&CancelToken) -> bool,
                CancelToken::cancel as fn(&CancelToken) -> bool,
            ),
            (CancelToken::cancel, CancelToken::commit),
        ] {
            let token = CancelToken::new(Duration::from_secs(60));
            assert!(!token.is_expired());
            assert!(first(&token) && first(&token.clone()));
            assert!(!second(&token));
        }
        assert!(CancelToken::new(Duration::ZERO).is_expired());
        let token = CancelToken::new(Duration::from_secs(60));
        assert!(token.clone().cancel() && token.is_expired());
    }
}
