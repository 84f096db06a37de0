//! Waits with a deadline: for descriptors, and for what only trying again can tell.

use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// The longest single wait, within what a `timespec` can express.
const MAX_WAIT: Duration = Duration::from_secs(1 << 20);

/// Polls `fds` until one is ready or `deadline` has passed, whatever signals arrive, and
/// returns how many are ready.
///
/// # Errors
///
/// Returns the error of `poll`, never `EINTR`.
pub fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<usize, Errno> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left.min(MAX_WAIT)).ok());
        match rustix::event::poll(fds, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return polled,
        }
    }
}

/// Waits until `fd` is readable, and returns whether it is before `deadline` has passed.
pub(crate) fn is_readable(fd: impl AsFd, deadline: Instant) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll_until(&mut fds, Some(deadline)).is_ok_and(|ready| ready > 0)
}

/// Calls `attempt` until it returns a value, and returns `None` once `deadline` has
/// passed. It is called at least once, with pauses that double from the start of
/// `pauses` to its end.
///
/// # Errors
///
/// Returns the first error of `attempt`.
pub(crate) fn retry_until<T, E>(
    deadline: Instant,
    pauses: RangeInclusive<Duration>,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let mut pause = *pauses.start();
    loop {
        if let Some(value) = attempt()? {
            return Ok(Some(value));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(*pauses.end());
    }
}
