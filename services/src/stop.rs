//! Stopping a service while it handles a request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// Requests a service, from another thread, to stop. A request cannot be withdrawn. The
/// descriptor is readable from then on.
#[derive(Debug)]
pub struct Stop(OwnedFd);

impl Stop {
    /// Creates one without a request.
    ///
    /// # Errors
    ///
    /// Returns an error if the process has no free descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Makes the request.
    pub fn signal(&self) {
        // Fails only if the counter overflows, and then the descriptor is readable already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
