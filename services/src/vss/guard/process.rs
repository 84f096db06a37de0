//! The guard itself: a process that holds a descriptor of each file system that
//! the agent is about to freeze, and thaws them when the agent is gone or the
//! time is over.
//!
//! Between the two it only waits. It ends when the agent has gone, and by no
//! signal that can be held off: whoever stops a service may signal all of its
//! processes.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::message::{Order, Report};
use crate::kernel;
use crate::vss::haste;

/// Runs the guard in a process that was started as one, with the agent at its
/// standard input.
///
/// # Errors
///
/// Where the agent is not there, or says what no agent says; file systems are
/// thawed all the same.
pub fn main() -> io::Result<()> {
    let mut held_off = SigSet::all();
    for not in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
    ] {
        held_off.remove(not);
    }
    held_off.thread_block()?;
    // Neither is there without privileges, and neither is needed.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::thread::set_name(c"hyperv-guard");
    kernel::release_code();
    let agent = io::stdin().as_fd().try_clone_to_owned()?;
    serve(agent.into(), Path::new(haste::SWITCH))
}

/// Guards for the agent at the other end of `socket`, until that is gone; by
/// `switch` the kernel is told whether to hurry.
///
/// # Errors
///
/// As [`main`].
pub fn serve(socket: UnixStream, switch: &Path) -> io::Result<()> {
    let mut guard = Guard::default();
    let outcome = guard.serve(&socket);
    // Whatever happened: who was to thaw is gone, or cannot be understood.
    guard.thaw();
    if guard.hurried {
        haste::end(switch);
    }
    outcome
}

#[derive(Default)]
struct Guard {
    held: Vec<OwnedFd>,
    /// Those of them that somebody else has frozen.
    not_ours: Vec<bool>,
    limit: Duration,
    deadline: Option<Instant>,
    /// The kernel hurries for as long as the agent freezes.
    hurried: bool,
}

impl Guard {
    fn serve(&mut self, mut socket: &UnixStream) -> io::Result<()> {
        loop {
            if !self.wait(socket)? {
                self.thaw();
                self.deadline = None;
                socket.write_all(&[Report::TimeLimit as u8])?;
                continue;
            }
            match Order::recv(socket, &mut self.held)? {
                None => return Ok(()),
                Some(Order::Begin(milliseconds)) => {
                    self.forget();
                    self.limit = Duration::from_millis(milliseconds);
                }
                Some(Order::Hold(_)) => {}
                Some(Order::Go) => {
                    self.not_ours = vec![false; self.held.len()];
                    self.deadline = Instant::now().checked_add(self.limit);
                    socket.write_all(&[Report::Ready as u8])?;
                }
                Some(Order::NotOurs(index)) => {
                    let index = usize::try_from(index).unwrap_or(usize::MAX);
                    if let Some(not_ours) = self.not_ours.get_mut(index) {
                        *not_ours = true;
                    }
                }
                Some(Order::Hurried) => self.hurried = true,
                Some(Order::Done) => self.hurried = false,
                Some(Order::Release) => {
                    self.forget();
                    // It waits for days now.
                    kernel::release_code();
                }
            }
        }
    }

    /// Waits for the agent; `false` where the time is over.
    fn wait(&self, socket: &UnixStream) -> io::Result<bool> {
        loop {
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(Timespec::try_from).transpose();
            let timeout = timeout.map_err(|_| io::ErrorKind::InvalidInput)?;
            let mut fds = [PollFd::new(socket, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Thaws everything that the agent has frozen, or may have.
    fn thaw(&mut self) {
        let nobody = std::iter::repeat(&false);
        let all = self.held.iter().zip(self.not_ours.iter().chain(nobody));
        let ours: Vec<_> = all
            .filter(|(_, not_ours)| !**not_ours)
            .map(|(descriptor, _)| descriptor)
            .collect();
        for descriptor in ours.into_iter().rev() {
            // What is not frozen gives an error, and so does what cannot be
            // thawed: there is nobody to be told.
            let _ = kernel::thaw(descriptor);
        }
    }

    fn forget(&mut self) {
        self.held.clear();
        self.not_ours.clear();
        self.deadline = None;
    }
}
