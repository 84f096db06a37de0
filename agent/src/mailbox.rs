//! The mailbox by which other threads reach the supervisor's loop.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use mio::{Token, Waker};

use crate::request::{Client, Request};
use crate::worker::exit::WorkerExit;

/// A message to the loop.
#[derive(Debug)]
pub(crate) enum Notice {
    WorkerEnded {
        token: Token,
        ended: WorkerExit,
    },
    Request {
        request: Request,
        client: Client,
    },
    StandaloneEnded,
    Rescan,
    /// Local file systems are still being mounted.
    Mounting,
    /// All local file systems are mounted.
    Mounted,
    Reload,
    Stop,
}

/// Sends messages to the loop.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    notices: Sender<Notice>,
    waker: Arc<Waker>,
}

impl SupervisorHandle {
    /// Creates the handle of the loop that receives `notices` and that `waker` wakes.
    pub(crate) fn new(notices: Sender<Notice>, waker: Arc<Waker>) -> Self {
        Self { notices, waker }
    }

    /// Makes the loop scan for devices, as after a uevent.
    pub fn rescan(&self) {
        self.send(Notice::Rescan);
    }

    /// Makes the loop reload the settings and scan for devices, as after SIGHUP.
    pub fn reload(&self) {
        self.send(Notice::Reload);
    }

    /// Ends the supervisor, as SIGTERM does.
    pub fn stop(&self) {
        self.send(Notice::Stop);
    }

    /// Wakes the loop, which then computes its next deadline.
    pub(crate) fn wake(&self) {
        // This fails only if the loop has ended.
        let _ = self.waker.wake();
    }

    pub(crate) fn send(&self, notice: Notice) {
        // This fails only if the loop has ended.
        let _ = self.notices.send(notice);
        self.wake();
    }
}
