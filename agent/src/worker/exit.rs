//! How a worker ends.

use std::io;
use std::time::{Duration, Instant};

use hyperv_vmbus::ChannelError;

use crate::opener::OpenError;

/// How long a device is open before it counts as in order. With a request that was
/// carried out it takes less, but some time all the same: a host may send one and spoil
/// the device, over and over.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
const HEALTHY_WITH_SUCCESS: Duration = Duration::from_secs(10);

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct WorkerExit {
    /// `None` where it was told to end.
    pub(crate) failure: Option<Failure>,
    /// Whether the device was in order until the end.
    pub(crate) healthy: bool,
}

/// Whether a device is in order: only then does a failure count as the first one.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) opened: Option<Instant>,
    /// A request was carried out.
    pub(super) succeeded: bool,
}

impl Health {
    /// Whether it was in order until it failed so. One that served and was taken away
    /// was: the host may offer it again at once, under the same name.
    pub(super) fn was_healthy(&self, failure: Option<&Failure>, now: Instant) -> bool {
        let taken_away = matches!(failure, Some(Failure::Closed(ChannelError::Gone)));
        taken_away && self.succeeded || self.is_healthy(now)
    }

    fn is_healthy(&self, now: Instant) -> bool {
        let open = self.opened.map(|at| now.saturating_duration_since(at));
        let needed = match self.succeeded {
            true => HEALTHY_WITH_SUCCESS,
            false => HEALTHY_AFTER,
        };
        open.is_some_and(|open| open >= needed)
    }
}

/// Why a worker ended unasked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no thread to be had.
    NotStarted(io::Error),
    NotOpened(OpenError),
    Closed(ChannelError),
    Panicked(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_in_order_after_a_while_which_a_request_makes_shorter() {
        let opened = Instant::now();
        let mut health = Health::default();
        assert!(!health.is_healthy(opened + HEALTHY_AFTER));
        health.opened = Some(opened);
        assert!(!health.is_healthy(opened + HEALTHY_AFTER / 2));
        assert!(health.is_healthy(opened + HEALTHY_AFTER));
        health.succeeded = true;
        assert!(!health.is_healthy(opened + HEALTHY_WITH_SUCCESS / 2));
        assert!(health.is_healthy(opened + HEALTHY_WITH_SUCCESS));
    }

    #[test]
    fn a_device_that_served_and_was_taken_away_was_in_order() {
        let now = Instant::now();
        let mut health = Health {
            opened: Some(now),
            succeeded: false,
        };
        let gone = Failure::Closed(ChannelError::Gone);
        let refused = Failure::Closed(ChannelError::ReplyRefused);
        assert!(!health.was_healthy(Some(&gone), now));
        health.succeeded = true;
        assert!(health.was_healthy(Some(&gone), now));
        assert!(!health.was_healthy(Some(&refused), now));
        assert!(!health.was_healthy(None, now));
    }
}
