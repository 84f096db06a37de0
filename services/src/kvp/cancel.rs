//! Cancels requests that time out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The request is being executed.
const OPEN: u8 = 0;

/// The request is done; its changes stay.
const COMMITTED: u8 = 1;

/// The host gets a failure; the changes of the request must be undone.
const CANCELLED: u8 = 2;

/// A cancellation token with a deadline. The thread that executes a request and the one
/// that replies to the host share it: the request is either [committed](Self::commit) or
/// [cancelled](Self::cancel), never both, so no change stays that the host saw fail.
#[derive(Debug, Clone)]
pub(super) struct CancelToken {
    deadline: Instant,
    state: Arc<AtomicU8>,
}

impl CancelToken {
    /// Starts the time of a request.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            deadline: Instant::now() + timeout,
            state: Arc::new(AtomicU8::new(OPEN)),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the time until the deadline.
    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the request was cancelled or its deadline has passed.
    pub(super) fn is_expired(&self) -> bool {
        self.is_cancelled() || self.remaining().is_zero()
    }

    /// Whether the host got a failure already.
    pub(super) fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    /// Commits the request. Returns `false` if it was cancelled: the caller must undo it.
    #[must_use]
    pub(super) fn commit(&self) -> bool {
        self.decide(COMMITTED)
    }

    /// Cancels the request. Returns `false` if it was committed before.
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
    fn the_first_decision_is_final() {
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
