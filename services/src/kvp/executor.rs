//! Executes requests on a separate thread, so that the host gets a reply in time whatever
//! that thread waits for: a disk, a lock, a program.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::cancel::CancelToken;
use super::error::Error;
use super::request::{Reply, Request};
use crate::timeouts::KVP_LAST_RESULT;

/// The jobs of the thread.
pub(super) enum Job {
    /// Executes a request of the host.
    Request(Request, CancelToken),
    /// Undoes the last request: the host got a failure for it.
    Rollback,
    /// Checks what became of deferred IP configurations.
    CheckDeferred,
}

type Outcome = Result<Reply, Error>;

/// The thread with the channels to it.
pub(super) struct Executor {
    jobs: Sender<Job>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    /// The thread still executes a cancelled request.
    overdue: bool,
    /// Everything that was submitted is done.
    idle: bool,
}

impl Executor {
    /// Starts the thread. `make` runs on it and returns the function that executes jobs,
    /// which returns an outcome for each request.
    ///
    /// # Panics
    ///
    /// If the thread cannot be started: the supervisor restarts the service later.
    pub(super) fn start<F>(make: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: FnMut(Job) -> Option<Outcome>,
    {
        let (jobs, todo) = channel();
        let (done, outcomes) = channel();
        let thread = thread::Builder::new()
            .name("kvp-work".to_owned())
            .spawn(move || {
                let mut execute = make();
                for job in todo {
                    if let Some(outcome) = execute(job) {
                        // Nobody receives it after the service was dropped.
                        let _ = done.send(outcome);
                    }
                }
            })
            .unwrap_or_else(|error| {
                resume_unwind(Box::new(format!("cannot start a thread: {error}")))
            });
        Self {
            jobs,
            outcomes,
            thread: Some(thread),
            overdue: false,
            idle: true,
        }
    }

    /// Executes a request. One that takes longer than `timeout` is cancelled; the thread
    /// undoes it, and executes no other request before that.
    pub(super) fn execute(&mut self, request: Request, timeout: Duration) -> Outcome {
        let token = CancelToken::new(timeout);
        if self.overdue {
            let _ = self.outcome(&token).ok_or(Error::TimedOut(timeout))?;
            self.overdue = false;
        }
        self.submit(Job::Request(request, token.clone()));
        let mut outcome = self.outcome(&token);
        // A request that was committed just now has its outcome here at once.
        if outcome.is_none() && !token.cancel() {
            outcome = self.outcome(&CancelToken::new(KVP_LAST_RESULT));
        }
        self.idle = outcome.is_some();
        self.overdue = !self.idle;
        outcome.unwrap_or(Err(Error::TimedOut(timeout)))
    }

    /// Whether everything that was submitted is done. It may be without this knowing.
    pub(super) fn is_idle(&self) -> bool {
        self.idle
    }

    /// Queues a job without waiting for it.
    pub(super) fn submit(&mut self, job: Job) {
        self.idle = false;
        if self.jobs.send(job).is_err() {
            self.propagate_panic();
        }
    }

    /// Waits for the outcome of a request; returns `None` at the deadline.
    fn outcome(&mut self, token: &CancelToken) -> Option<Outcome> {
        match self.outcomes.recv_timeout(token.remaining()) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => self.propagate_panic(),
        }
    }

    /// Resumes the panic of the thread, which ends before the service only by one, so
    /// that the supervisor restarts the service.
    fn propagate_panic(&mut self) -> ! {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => resume_unwind(Box::new("the thread of the service has ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn enumerate(index: u32) -> Request {
        let pool = super::super::request::PoolId::Guest;
        Request::Enumerate { pool, index }
    }

    fn value(outcome: Outcome) -> String {
        match outcome.unwrap() {
            Reply::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_that_times_out_leaves_no_outcome_for_the_next() {
        let (go_on, gate) = sync_channel::<()>(1);
        let mut executor = Executor::start(move || {
            move |job| {
                let Job::Request(Request::Enumerate { index, .. }, _) = job else {
                    return None;
                };
                if index == 0 {
                    gate.recv().unwrap();
                }
                Some(Ok(Reply::Value(index.to_string())))
            }
        });
        let late = executor.execute(enumerate(0), Duration::ZERO);
        assert!(matches!(late, Err(Error::TimedOut(_))) && !executor.is_idle());
        // It is not done yet: the next is refused, and not executed.
        let refused = executor.execute(enumerate(1), Duration::ZERO);
        assert!(matches!(refused, Err(Error::TimedOut(_))));
        go_on.send(()).unwrap();
        assert_eq!(value(executor.execute(enumerate(2), LONG)), "2");
        assert_eq!(value(executor.execute(enumerate(3), LONG)), "3");
    }

    #[test]
    fn jobs_without_an_outcome_are_not_waited_for() {
        let mut executor = Executor::start(|| {
            let mut done = 0;
            move |job| {
                done += 1;
                matches!(job, Job::Request(..)).then(|| Ok(Reply::Value(done.to_string())))
            }
        });
        assert!(executor.is_idle());
        executor.submit(Job::Rollback);
        assert!(!executor.is_idle());
        assert_eq!(value(executor.execute(enumerate(0), LONG)), "2");
        assert!(executor.is_idle());
    }

    #[test]
    fn a_panic_of_the_thread_is_propagated() {
        let mut executor = Executor::start(|| |_| panic!("of the logic"));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            executor.execute(enumerate(0), LONG)
        }));
        let panic = caught.map(drop).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"of the logic"));
    }
}
