//! How the supervisor reaches a worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyperv_services::command::{self, Command};
use mio::Waker;

use super::state::WorkerState;

/// What a local user asks, and who.
pub(super) type PendingCommand = (Command, Box<dyn command::Client>);

/// How the supervisor reaches a worker.
#[derive(Debug)]
pub(crate) struct Control {
    waker: Waker,
    stop: AtomicBool,
    config: Mutex<Option<Arc<hyperv_services::Config>>>,
    command: Mutex<Option<PendingCommand>>,
    /// What the worker shows of itself.
    pub(crate) state: WorkerState,
}

impl Control {
    /// Of a worker that `waker` wakes.
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            waker,
            stop: AtomicBool::new(false),
            config: Mutex::default(),
            command: Mutex::default(),
            state: WorkerState::default(),
        }
    }

    /// The device is readable.
    pub(crate) fn wake(&self) {
        // It fails only when the worker, and with it the poll, is gone.
        let _ = self.waker.wake();
    }

    /// Ends the worker after the request it is at, which its service may cut
    /// short.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.state.stop();
        self.wake();
    }

    /// Makes the service anew with this configuration, as soon as it is not
    /// busy.
    pub(crate) fn configure(&self, config: Arc<hyperv_services::Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
        self.wake();
    }

    /// Lets the service carry out what a local user asks, as soon as it is at no
    /// request of the host.
    pub(crate) fn command(&self, command: Command, client: Box<dyn command::Client>) {
        let mut asked = self.command.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some() {
            client.end(Err("somebody else asks for something already".to_owned()));
            return;
        }
        *asked = Some((command, client));
        drop(asked);
        self.wake();
    }

    pub(super) fn has_command(&self) -> bool {
        let asked = self.command.lock();
        asked.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take_command(&self) -> Option<PendingCommand> {
        let mut asked = self.command.lock().unwrap_or_else(PoisonError::into_inner);
        asked.take()
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn has_new_config(&self) -> bool {
        let config = self.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take_config(&self) -> Option<Arc<hyperv_services::Config>> {
        self.config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
