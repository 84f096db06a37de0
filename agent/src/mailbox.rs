//! How other threads reach the supervisor's loop.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use mio::{Token, Waker};

use crate::request::{Client, Request};
use crate::worker::exit::WorkerExit;

/// What the loop is told by other threads.
#[derive(Debug)]
pub(crate) enum Notice {
    WorkerEnded { token: Token, ended: WorkerExit },
    Request { request: Request, client: Client },
    StandaloneEnded,
    Rescan,
    Reload,
    Stop,
}

/// How other threads reach the loop.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    notices: Sender<Notice>,
    waker: Arc<Waker>,
}

impl SupervisorHandle {
    /// Of the loop that takes `notices`, and that `waker` wakes.
    pub(crate) fn new(notices: Sender<Notice>, waker: Arc<Waker>) -> Self {
        Self { notices, waker }
    }

    /// Looks for devices, as after a uevent.
    pub fn rescan(&self) {
        self.tell(Notice::Rescan);
    }

    /// Reads the settings again and looks for devices, as SIGHUP does.
    pub fn reload(&self) {
        self.tell(Notice::Reload);
    }

    /// Ends the supervisor in an orderly way, as SIGTERM does.
    pub fn stop(&self) {
        self.tell(Notice::Stop);
    }

    /// Lets the loop look at what is due.
    pub(crate) fn wake(&self) {
        // It fails only when the loop is gone.
        let _ = self.waker.wake();
    }

    pub(crate) fn tell(&self, notice: Notice) {
        // It fails only when the loop is gone, and with it whom to tell.
        let _ = self.notices.send(notice);
        self.wake();
    }
}
