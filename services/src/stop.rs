//! Telling a service that it is to end while it works on a request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// Tells a service, from another thread, that it is to end. It is told once and
/// for good.
#[derive(Debug)]
pub struct Stop(OwnedFd);

impl Stop {
    /// One that has not been told yet.
    ///
    /// # Errors
    ///
    /// Where the process has no descriptor left for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Tells it.
    pub fn tell(&self) {
        // It fails only where it was told more often than a number can count.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// Readable once it was told.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
