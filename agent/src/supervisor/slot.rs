//! The supervisor's record of a device: its worker, or its last failure and the backoff.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyperv_services::progress::{Operation, Snapshot};
use hyperv_services::service::Entry;
use hyperv_vmbus::ChannelError;
use mio::Token;
use slog::{Logger, debug, error, warn};

use crate::timeouts::{BACKOFF_MAX, BACKOFF_MIN};
use crate::worker::control::Control;
use crate::worker::exit::Failure;

/// A device that exists, or existed until its worker ends.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) entry: &'static Entry,
    pub(crate) state: State,
    /// Consecutive failures.
    failures: u32,
    /// The last failure that was logged. The same one is not logged again.
    last_failure: Option<String>,
}

#[derive(Debug)]
pub(crate) enum State {
    Running {
        token: Token,
        control: Arc<Control>,
        thread: JoinHandle<()>,
        stopping: bool,
    },
    /// The device is opened at that time.
    Backoff(Instant),
}

impl Slot {
    /// Creates the slot of a device that is to be opened at once.
    pub(crate) fn new(entry: &'static Entry) -> Self {
        Self {
            entry,
            state: State::Backoff(Instant::now()),
            failures: 0,
            last_failure: None,
        }
    }

    /// Returns whether its service has frozen file systems, or quiesced applications.
    pub(crate) fn is_frozen(&self) -> bool {
        let operation = self.operation();
        operation.is_some_and(|seen| {
            matches!(
                seen.operation,
                Operation::Freezing | Operation::Frozen { .. }
            )
        })
    }

    /// Returns the operation that its service has in progress.
    pub(crate) fn operation(&self) -> Option<Snapshot> {
        self.control()?.state.snapshot().operation
    }

    /// The control of its worker, if it has one.
    pub(crate) fn control(&self) -> Option<&Arc<Control>> {
        match &self.state {
            State::Running { control, .. } => Some(control),
            State::Backoff(_) => None,
        }
    }

    /// Whether its worker has this token.
    pub(crate) fn has_token(&self, token: Token) -> bool {
        matches!(self.state, State::Running { token: its, .. } if its == token)
    }

    /// Joins the thread of a worker that has reported its end. This takes no longer than
    /// the exit of a thread.
    pub(crate) fn join(&mut self) {
        let idle = State::Backoff(Instant::now());
        if let State::Running { thread, .. } = std::mem::replace(&mut self.state, idle) {
            // The worker has reported a panic.
            let _ = thread.join();
        }
    }

    /// Returns the failure that was logged last: why the device is not served.
    pub(crate) fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Logs how a worker failed, and starts the backoff. It starts at its minimum if the
    /// device was healthy until then.
    pub(crate) fn start_backoff(&mut self, failure: Failure, healthy: bool, log: &Logger) {
        if healthy {
            self.failures = 0;
            self.last_failure = None;
        }
        let panicked = matches!(failure, Failure::Panicked(_));
        let message = match failure {
            Failure::Closed(ChannelError::Gone) => "the device went away".to_owned(),
            Failure::NotStarted(error) => format!("cannot start a worker: {error}"),
            Failure::NotOpened(error) => format!("cannot be opened: {error}"),
            Failure::Closed(error) => format!("closed, will be opened again: {error}"),
            Failure::Panicked(panic) => {
                format!("the service panicked and will be restarted: {panic}")
            }
        };
        self.failures = self.failures.saturating_add(1);
        let backoff = backoff_after(self.failures);
        self.state = State::Backoff(Instant::now() + backoff);
        if self.last_failure.as_ref() == Some(&message) {
            debug!(log, "{}", message; "retry_in" => ?backoff);
            return;
        }
        match panicked {
            true => error!(log, "{}", message),
            false => warn!(log, "{}", message),
        }
        self.last_failure = Some(message);
    }
}

/// Returns the backoff after that many consecutive failures.
fn backoff_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (BACKOFF_MIN * 2u32.pow(doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use hyperv_services::fcopy;
    use slog::o;

    use super::*;

    #[test]
    fn the_backoff_doubles_until_the_device_was_healthy() {
        let log = Logger::root(slog::Discard, o!());
        let mut slot = Slot::new(&fcopy::ENTRY);
        let mut fail = |healthy| {
            slot.start_backoff(Failure::Closed(ChannelError::Gone), healthy, &log);
            backoff_after(slot.failures)
        };
        for doublings in 0..8 {
            assert_eq!(fail(false), BACKOFF_MIN * 2u32.pow(doublings));
        }
        for _ in 0..100 {
            assert!(fail(false) <= BACKOFF_MAX);
        }
        assert_eq!(fail(false), BACKOFF_MAX);
        assert_eq!(fail(true), BACKOFF_MIN);
    }
}
