//! How a worker ends.

use std::io;
use std::time::Instant;

use hyperv_vmbus::ChannelError;

use crate::opener::OpenError;
use crate::timeouts::{HEALTHY, HEALTHY_AFTER_SUCCESS};

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct WorkerExit {
    /// Why it failed; `None` if the supervisor has stopped it.
    pub(crate) failure: Option<Failure>,
    /// Whether the device was healthy until the end.
    pub(crate) healthy: bool,
}

/// The health of a device: a failure of a healthy one resets the backoff.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) opened: Option<Instant>,
    /// Whether a request has succeeded.
    pub(super) succeeded: bool,
}

impl Health {
    /// Returns whether the device was healthy until it failed. One that served a request
    /// and was then removed was healthy: the host may offer it again at once, under the
    /// same name.
    pub(super) fn was_healthy(&self, failure: Option<&Failure>, now: Instant) -> bool {
        let removed = matches!(failure, Some(Failure::Closed(ChannelError::Gone)));
        removed && self.succeeded || self.is_healthy(now)
    }

    fn is_healthy(&self, now: Instant) -> bool {
        let open = self.opened.map(|at| now.saturating_duration_since(at));
        let needed = match self.succeeded {
            true => HEALTHY_AFTER_SUCCESS,
            false => HEALTHY,
        };
        open.is_some_and(|open| open >= needed)
    }
}

/// Why a worker failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its thread cannot be started.
    NotStarted(io::Error),
    NotOpened(OpenError),
    Closed(ChannelError),
    Panicked(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_becomes_healthy_sooner_after_a_success() {
        let opened = Instant::now();
        let mut health = Health::default();
        assert!(!health.is_healthy(opened + HEALTHY));
        health.opened = Some(opened);
        assert!(!health.is_healthy(opened + HEALTHY / 2));
        assert!(health.is_healthy(opened + HEALTHY));
        health.succeeded = true;
        assert!(!health.is_healthy(opened + HEALTHY_AFTER_SUCCESS / 2));
        assert!(health.is_healthy(opened + HEALTHY_AFTER_SUCCESS));
    }

    #[test]
    fn a_device_that_served_and_was_removed_was_healthy() {
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
