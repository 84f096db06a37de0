//! Waits for a program and reads its output meanwhile.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::retry::poll_until;
use rustix::event::{PollFd, PollFlags};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Bytes of each stream that are kept; the rest is read and dropped.
pub(super) const MAX_KEPT: usize = 64 << 10;

/// Bytes per read.
const CHUNK: usize = 16 << 10;

/// How often the child is polled without a pidfd: before Linux 5.3, and where a filter of
/// system calls does not know `pidfd_open`, such as that of systemd 239.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The reading end of a pipe.
pub(super) struct Stream {
    /// `None` after the end of the stream.
    pub(super) pipe: Option<fs::File>,
    pub(super) kept: Vec<u8>,
}

impl Stream {
    pub(super) fn new(pipe: Option<OwnedFd>) -> Self {
        Self {
            // Making a pipe non-blocking cannot fail.
            pipe: pipe
                .filter(|pipe| ioctl_fionbio(pipe, true).is_ok())
                .map(fs::File::from),
            kept: Vec::new(),
        }
    }

    /// Reads the available bytes, up to about `limit`, so that a program that writes
    /// endlessly does not delay its timeout.
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

/// Reads the streams until the child exits; returns `None` at `deadline`, or when `stop`
/// is readable.
pub(super) fn wait(
    child: &mut Child,
    streams: &mut [Stream],
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
) -> io::Result<Option<ExitStatus>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok();
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
            None => deadline.min(now + POLL_INTERVAL),
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
