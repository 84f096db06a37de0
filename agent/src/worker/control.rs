//! How the supervisor reaches a worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyperv_services::command::{self, Command};
use mio::Waker;

use super::state::WorkerState;

/// A local command and its client.
pub(super) type PendingCommand = (Command, Box<dyn command::Client>);

/// How the supervisor reaches a worker.
#[derive(Debug)]
pub(crate) struct Control {
    waker: Waker,
    stop: AtomicBool,
    config: Mutex<Option<Arc<hyperv_services::Config>>>,
    command: Mutex<Option<PendingCommand>>,
    /// The worker's state, for the status.
    pub(crate) state: WorkerState,
}

impl Control {
    /// Creates the control of a worker that `waker` wakes.
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            waker,
            stop: AtomicBool::new(false),
            config: Mutex::default(),
            command: Mutex::default(),
            state: WorkerState::default(),
        }
    }

    /// Wakes the worker: its device is readable.
    pub(crate) fn wake(&self) {
        // This fails only if the worker has ended, and its poll with it.
        let _ = self.waker.wake();
    }

    /// Ends the worker after its current request, which its service may cut short.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.state.stop();
        self.wake();
    }

    /// Applies a configuration as soon as the service is not busy.
    pub(crate) fn configure(&self, config: Arc<hyperv_services::Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
        self.wake();
    }

    /// Executes a local command as soon as the service has no request of the host.
    pub(crate) fn command(&self, command: Command, client: Box<dyn command::Client>) {
        let mut pending = self.command.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.is_some() {
            client.end(Err("another request is pending: try again later".to_owned()));
            return;
        }
        *pending = Some((command, client));
        drop(pending);
        self.wake();
    }

    pub(super) fn has_command(&self) -> bool {
        let pending = self.command.lock();
        pending.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take_command(&self) -> Option<PendingCommand> {
        let mut pending = self.command.lock().unwrap_or_else(PoisonError::into_inner);
        pending.take()
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn has_new_config(&self) -> bool {
        let config = self.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take_config(&self) -> Option<Arc<hyperv_services::Config>> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.take()
    }
}
