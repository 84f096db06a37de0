//! The state that a worker publishes for the status.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyperv_services::progress::{Progress, Snapshot};
use hyperv_services::service::Service;
use hyperv_services::stop::Stop;
use hyperv_vmbus::ic::Negotiated;

use crate::timeouts::OVERDUE;

/// The state of a worker. A request costs three atomic stores. The locks are taken when a
/// device is opened, and for a snapshot.
#[derive(Debug, Default)]
pub(crate) struct WorkerState {
    working: AtomicBool,
    keeps_device: AtomicBool,
    opening: Mutex<Opening>,
    open: Mutex<Option<Open>>,
}

/// The progress of opening a device.
#[derive(Debug)]
struct Opening {
    since: Instant,
    waits_for: &'static str,
    /// Whether it was logged as overdue.
    logged: bool,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            waits_for: "its turn",
            logged: false,
        }
    }
}

/// The state of an open device.
#[derive(Debug, Default)]
struct Open {
    negotiated: Option<Negotiated>,
    progress: Option<Arc<Progress>>,
    stop: Option<Arc<Stop>>,
}

/// The state of a worker at one moment.
#[derive(Debug, Default)]
pub(crate) struct WorkerSnapshot {
    /// Whether its device is open.
    pub(crate) open: bool,
    /// Whether a request is being handled.
    pub(crate) working: bool,
    pub(crate) negotiated: Option<Negotiated>,
    pub(crate) operation: Option<Snapshot>,
}

impl WorkerState {
    /// Sets what the opening of the device waits for.
    pub(crate) fn set_waits_for(&self, what: &'static str) {
        self.opening().waits_for = what;
    }

    /// Returns when the opening will be overdue, unless that was logged.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        let opening = self.opening();
        (!opening.logged && !self.snapshot().open).then(|| opening.since + OVERDUE)
    }

    /// Returns, once, how long an overdue opening has taken so far, and what it waits for.
    pub(crate) fn take_overdue(&self) -> Option<(Duration, &'static str)> {
        let is_over = self.overdue_at().is_some_and(|at| at <= Instant::now());
        let mut opening = self.opening();
        opening.logged |= is_over;
        is_over.then(|| (opening.since.elapsed(), opening.waits_for))
    }

    /// Returns how long the opening has taken, if it was logged as overdue.
    pub(crate) fn was_overdue(&self) -> Option<Duration> {
        let opening = self.opening();
        opening.logged.then(|| opening.since.elapsed())
    }

    /// Whether the device is open.
    pub(crate) fn is_open(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.is_some()
    }

    fn opening(&self) -> MutexGuard<'_, Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is open, or its service was created again.
    pub(crate) fn opened(&self, service: &dyn Service) {
        self.change(|open| {
            open.progress = service.progress();
            open.stop = service.stop();
        });
    }

    /// Stops the service.
    pub(crate) fn stop(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = open.as_ref().and_then(|open| open.stop.as_ref()) {
            stop.signal();
        }
    }

    pub(crate) fn negotiated(&self, versions: Negotiated) {
        self.change(|open| open.negotiated = Some(versions));
    }

    /// A request is being handled, or not any more.
    pub(crate) fn set_working(&self, working: bool) {
        self.working.store(working, Ordering::Release);
    }

    /// The device is registered with the worker's own poll, or not any more.
    pub(crate) fn set_keeps_device(&self, keeps: bool) {
        self.keeps_device.store(keeps, Ordering::Release);
    }

    /// Whether nothing is being worked on, and no more requests are expected at once: the
    /// device is not registered with the worker's own poll.
    pub(crate) fn is_at_rest(&self) -> bool {
        let now = self.snapshot();
        !now.working && now.operation.is_none() && !self.keeps_device.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot(&self) -> WorkerSnapshot {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (negotiated, progress) = match &*open {
            Some(open) => (open.negotiated, open.progress.clone()),
            None => (None, None),
        };
        WorkerSnapshot {
            open: open.is_some(),
            working: self.working.load(Ordering::Acquire),
            negotiated,
            operation: progress.and_then(|progress| progress.snapshot()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Open)) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        change(open.get_or_insert_default());
    }
}

#[cfg(test)]
mod tests {
    use hyperv_services::progress::Operation;

    use super::*;

    #[test]
    fn a_worker_that_works_or_keeps_its_device_is_not_at_rest() {
        let state = WorkerState::default();
        assert!(state.is_at_rest());
        for set in [WorkerState::set_working, WorkerState::set_keeps_device] {
            set(&state, true);
            assert!(!state.is_at_rest());
            set(&state, false);
            assert!(state.is_at_rest());
        }
        // As of a local command, which is no request.
        let progress = Arc::<Progress>::default();
        state.change(|open| open.progress = Some(Arc::clone(&progress)));
        let operation = progress.begin(Operation::Freezing);
        assert!(!state.is_at_rest());
        drop(operation);
        assert!(state.is_at_rest());
    }

    #[test]
    fn an_overdue_opening_is_reported_once_with_what_it_waits_for() {
        let state = WorkerState::default();
        state.set_waits_for("the host");
        assert_eq!((state.take_overdue(), state.was_overdue()), (None, None));
        let since = state.opening().since;
        state.opening().since = since.checked_sub(OVERDUE).unwrap_or(since);
        let overdue = state.take_overdue();
        assert!(overdue.is_some_and(|(waited, what)| waited >= OVERDUE && what == "the host"));
        assert_eq!((state.take_overdue(), state.overdue_at()), (None, None));
        assert!(state.was_overdue().is_some());
    }
}
