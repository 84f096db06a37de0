//! What a worker shows of itself, for the status.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyperv_services::activity::{Activity, Seen};
use hyperv_services::service::Service;
use hyperv_services::stop::Stop;
use hyperv_vmbus::ic::Negotiated;

/// What a worker shows of itself. A request costs it two stores; the locks are
/// taken when a device is opened, and when somebody looks.
#[derive(Debug, Default)]
pub(crate) struct View {
    working: AtomicBool,
    open: Mutex<Option<Open>>,
}

/// What there is of an open device.
#[derive(Debug, Default)]
struct Open {
    negotiated: Option<Negotiated>,
    activity: Option<Arc<Activity>>,
    stop: Option<Arc<Stop>>,
}

/// What was seen of a worker.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Whether its device is open.
    pub(crate) open: bool,
    /// Whether a request is being worked on.
    pub(crate) working: bool,
    pub(crate) negotiated: Option<Negotiated>,
    pub(crate) activity: Option<Seen>,
}

impl View {
    /// The device is open, or its service was made anew.
    pub(crate) fn opened(&self, service: &dyn Service) {
        self.change(|open| {
            open.activity = service.activity();
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
        self.working.store(working, Ordering::Relaxed);
    }

    pub(crate) fn look(&self) -> Look {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (negotiated, activity) = match &*open {
            Some(open) => (open.negotiated, open.activity.clone()),
            None => (None, None),
        };
        Look {
            open: open.is_some(),
            working: self.working.load(Ordering::Relaxed),
            negotiated,
            activity: activity.and_then(|activity| activity.look()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Open)) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        change(open.get_or_insert_default());
    }
}
