//! Waits for a program, and reads meanwhile what it writes.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::retry::poll_until;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Bytes that are kept of each stream; what follows is read and dropped.
pub(super) const MAX_KEPT: usize = 64 << 10;

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// How often the child is looked at where the kernel has no pidfd (before Linux
/// 5.3).
const LOOK: Duration = Duration::from_millis(20);

/// The reading end of a pipe.
pub(super) struct Stream {
    /// `None` past the end.
    pub(super) pipe: Option<fs::File>,
    pub(super) kept: Vec<u8>,
}

impl Stream {
    pub(super) fn new(pipe: Option<OwnedFd>) -> Self {
        Self {
            // Where it could be made non-blocking, which cannot fail for a pipe.
            pipe: pipe
                .filter(|pipe| ioctl_fionbio(pipe, true).is_ok())
                .map(fs::File::from),
            kept: Vec::new(),
        }
    }

    /// Reads what is there, at most `limit` bytes or a little more: a program
    /// that writes without end does not hold up the clock.
    pub(super) fn read(&mut self, limit: usize) {
        let mut buffer = [0; CHUNK];
        let mut seen = 0;
        while seen < limit {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    seen += count;
                    let room = MAX_KEPT - self.kept.len();
                    self.kept.extend(buffer.iter().take(count.min(room)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// Reads the streams until the child has ended; `None` where it has not by
/// `deadline`, or when `stop` is readable.
pub(super) fn wait(
    child: &mut Child,
    streams: &mut [Stream],
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
) -> io::Result<Option<ExitStatus>> {
    let pidfd = match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        Ok(pidfd) => Some(pidfd),
        Err(Errno::NOSYS) => None,
        Err(error) => return Err(error.into()),
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let now = Instant::now();
        if deadline <= now {
            return Ok(None);
        }
        let until = match pidfd {
            Some(_) => deadline,
            None => deadline.min(now + LOOK),
        };
        let pipes = streams.iter().filter_map(|stream| stream.pipe.as_ref());
        let mut fds: Vec<PollFd<'_>> = stop
            .into_iter()
            .chain(pipes.map(AsFd::as_fd))
            .chain(pidfd.as_ref().map(AsFd::as_fd))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll_until(&mut fds, Some(until))?;
        if stop.is_some() && fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            return Ok(None);
        }
        streams.iter_mut().for_each(|stream| stream.read(MAX_KEPT));
    }
}
