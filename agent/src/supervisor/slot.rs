//! What the supervisor keeps of a device: its worker, or how it failed and when
//! to try again.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyperv_services::progress::{Operation, Snapshot};
use hyperv_services::service::Entry;
use hyperv_vmbus::ChannelError;
use mio::Token;
use slog::{Logger, debug, error, warn};

use crate::worker::control::Control;
use crate::worker::exit::Failure;

/// A device that fails is opened again after this long, twice as long after
/// each further failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// What becomes of a device that is, or was, there.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) entry: &'static Entry,
    pub(crate) state: State,
    /// Failures in a row.
    failures: u32,
    /// The last failure that was logged, so that it is not again.
    problem: Option<String>,
}

#[derive(Debug)]
pub(crate) enum State {
    Running {
        token: Token,
        control: Arc<Control>,
        thread: JoinHandle<()>,
        stopping: bool,
    },
    /// Not before then.
    Backoff(Instant),
}

impl Slot {
    /// A device to be opened at once.
    pub(crate) fn new(entry: &'static Entry) -> Self {
        Self {
            entry,
            state: State::Backoff(Instant::now()),
            failures: 0,
            problem: None,
        }
    }

    /// Whether its service has file systems frozen, or applications at rest for
    /// that.
    pub(crate) fn is_frozen(&self) -> bool {
        let operation = self.operation();
        operation.is_some_and(|seen| {
            matches!(
                seen.operation,
                Operation::Freezing | Operation::Frozen { .. }
            )
        })
    }

    /// What its service is at, if that takes longer than a request.
    pub(crate) fn operation(&self) -> Option<Snapshot> {
        match &self.state {
            State::Running { control, .. } => control.state.snapshot().operation,
            State::Backoff(_) => None,
        }
    }

    /// Joins the thread of a worker that has told of its end, which takes no
    /// longer than a thread's exit.
    pub(crate) fn join(&mut self) {
        let idle = State::Backoff(Instant::now());
        if let State::Running { thread, .. } = std::mem::replace(&mut self.state, idle) {
            // A panic was told of along with the end.
            let _ = thread.join();
        }
    }

    /// Why it is not served: the failure that was logged last.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Takes in how a worker failed, and whether its device was in order until then,
    /// and says when to try again.
    pub(crate) fn start_backoff(&mut self, failure: Failure, healthy: bool, log: &Logger) {
        if healthy {
            self.failures = 0;
            self.problem = None;
        }
        let panicked = matches!(failure, Failure::Panicked(_));
        let problem = match failure {
            Failure::Closed(ChannelError::Gone) => "the device went away".to_owned(),
            Failure::NotStarted(error) => format!("cannot start a worker: {error}"),
            Failure::NotOpened(error) => format!("cannot be opened: {error}"),
            Failure::Closed(error) => format!("closed, to be opened again: {error}"),
            Failure::Panicked(message) => {
                format!("the service panicked and will be restarted: {message}")
            }
        };
        self.failures = self.failures.saturating_add(1);
        let pause = backoff_after(self.failures);
        self.state = State::Backoff(Instant::now() + pause);
        if self.problem.as_ref() == Some(&problem) {
            debug!(log, "{}", problem; "retry_in" => ?pause);
            return;
        }
        match panicked {
            true => error!(log, "{}", problem),
            false => warn!(log, "{}", problem),
        }
        self.problem = Some(problem);
    }
}

/// How long a device is left closed after so many failures in a row.
fn backoff_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_BACKOFF * 2u32.pow(doublings)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use hyperv_services::fcopy;
    use slog::o;

    use super::*;

    #[test]
    fn pauses_double_until_the_device_was_in_order() {
        let log = Logger::root(slog::Discard, o!());
        let mut slot = Slot::new(&fcopy::ENTRY);
        let mut fail = |healthy| {
            slot.start_backoff(Failure::Closed(ChannelError::Gone), healthy, &log);
            backoff_after(slot.failures)
        };
        for doublings in 0..8 {
            assert_eq!(fail(false), FIRST_BACKOFF * 2u32.pow(doublings));
        }
        for _ in 0..100 {
            assert!(fail(false) <= LONGEST_BACKOFF);
        }
        assert_eq!(fail(false), LONGEST_BACKOFF);
        assert_eq!(fail(true), FIRST_BACKOFF);
    }
}
