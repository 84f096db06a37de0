//! What a worker shows of itself, for the status.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyperv_services::progress::{Progress, Snapshot};
use hyperv_services::service::Service;
use hyperv_services::stop::Stop;
use hyperv_vmbus::ic::Negotiated;

/// How long a device may take to open before somebody is to know.
const OVERDUE: Duration = Duration::from_secs(5);

/// What a worker shows of itself. A request costs it two stores; the locks are
/// taken when a device is opened, and when somebody looks.
#[derive(Debug, Default)]
pub(crate) struct WorkerState {
    working: AtomicBool,
    opening: Mutex<Opening>,
    open: Mutex<Option<Open>>,
}

/// How far the opening of a device is.
#[derive(Debug)]
struct Opening {
    since: Instant,
    waits_for: &'static str,
    /// That it takes long was told.
    told: bool,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            waits_for: "its turn",
            told: false,
        }
    }
}

/// What there is of an open device.
#[derive(Debug, Default)]
struct Open {
    negotiated: Option<Negotiated>,
    progress: Option<Arc<Progress>>,
    stop: Option<Arc<Stop>>,
}

/// What was seen of a worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerSnapshot {
    /// Whether its device is open.
    pub(crate) open: bool,
    /// Whether a request is being worked on.
    pub(crate) working: bool,
    pub(crate) negotiated: Option<Negotiated>,
    pub(crate) operation: Option<Snapshot>,
}

impl WorkerState {
    /// While its device is being opened, this is waited for.
    pub(crate) fn waits_for(&self, what: &'static str) {
        self.opening().waits_for = what;
    }

    /// When its device will take long to open, unless it is open, or that was told.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        let opening = self.opening();
        (!opening.told && !self.snapshot().open).then(|| opening.since + OVERDUE)
    }

    /// How long its device has taken to open so far, and what is waited for, where that
    /// is too long: told once.
    pub(crate) fn is_overdue(&self) -> Option<(Duration, &'static str)> {
        let is_over = self.overdue_at().is_some_and(|at| at <= Instant::now());
        let mut opening = self.opening();
        opening.told |= is_over;
        is_over.then(|| (opening.since.elapsed(), opening.waits_for))
    }

    /// How long its device has taken to open, where that was told to be too long.
    pub(crate) fn took_long(&self) -> Option<Duration> {
        let opening = self.opening();
        opening.told.then(|| opening.since.elapsed())
    }

    fn opening(&self) -> MutexGuard<'_, Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is open, or its service was made anew.
    pub(crate) fn opened(&self, service: &dyn Service) {
        self.change(|open| {
            open.progress = service.progress();
            open.stop = service.stop();
        });
    }

    /// Tells the service that it is to end.
    pub(crate) fn stop(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = open.as_ref().and_then(|open| open.stop.as_ref()) {
            stop.tell();
        }
    }

    pub(crate) fn negotiated(&self, versions: Negotiated) {
        self.change(|open| open.negotiated = Some(versions));
    }

    /// A request is being worked on, or no longer.
    pub(crate) fn set_working(&self, working: bool) {
        self.working.store(working, Ordering::Release);
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
    use super::*;

    #[test]
    fn an_opening_that_takes_long_is_told_once_with_what_it_waits_for() {
        let view = WorkerState::default();
        view.waits_for("the host");
        assert_eq!((view.is_overdue(), view.took_long()), (None, None));
        let since = view.opening().since;
        view.opening().since = since.checked_sub(OVERDUE).unwrap_or(since);
        let told = view.is_overdue();
        assert!(told.is_some_and(|(waited, what)| waited >= OVERDUE && what == "the host"));
        assert_eq!((view.is_overdue(), view.overdue_at()), (None, None));
        assert!(view.took_long().is_some());
    }
}
