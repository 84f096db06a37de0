//! The guard itself: a process that holds a descriptor of each file system that
//! the agent is about to freeze, and thaws them when the agent is gone or the
//! time is over.
//!
//! Between the two it only waits. It ends when the agent has gone, and by no
//! signal that can be held off: whoever stops a service may signal all of its
//! processes.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::message::{Order, Report};
use crate::kernel;
use crate::vss::freeze::FREEZING;
use crate::vss::haste;

/// How soon file systems are thawed again that an agent may still be freezing
/// past its time.
const AGAIN: Duration = Duration::from_secs(1);

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
    // The socket alone does not tell: where another thread of a killed agent
    // waits for a frozen file system, the kernel keeps all descriptors open until
    // that thread is done, which it is after the thaw.
    let orphaned = SignalFd::with_flags(
        &SigSet::from(Signal::SIGUSR1),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::USR1))?;
    // A core dump would be written to a frozen file system, with the agent waiting
    // for the end of a guard that waits for its thaw.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Not there without privileges, and not needed.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::thread::set_name(c"hyperv-guard");
    kernel::release_code();
    let agent = io::stdin().as_fd().try_clone_to_owned()?;
    serve(
        agent.into(),
        Some(orphaned.as_fd()),
        Path::new(haste::SWITCH),
    )
}

/// Guards for the agent at the other end of `socket`, until that is gone, which
/// `orphaned` tells too where it becomes readable; by `switch` the kernel is told
/// whether to hurry.
///
/// # Errors
///
/// As [`main`].
pub fn serve(
    socket: UnixStream,
    orphaned: Option<BorrowedFd<'_>>,
    switch: &Path,
) -> io::Result<()> {
    let mut guard = Guard {
        held: Vec::new(),
        not_ours: Vec::new(),
        limit: Duration::ZERO,
        thaw_at: None,
        told: false,
        hurried: false,
        switch: switch.to_owned(),
    };
    guard.serve(&socket, orphaned)
}

struct Guard {
    held: Vec<OwnedFd>,
    /// Those of them that somebody else has frozen.
    not_ours: Vec<bool>,
    /// How long they may be frozen.
    limit: Duration,
    /// When they are thawed, unless the agent says that they are.
    thaw_at: Option<Instant>,
    /// Whether the agent was told that they were.
    told: bool,
    /// The kernel hurries for as long as the agent freezes.
    hurried: bool,
    switch: PathBuf,
}

impl Guard {
    fn serve(
        &mut self,
        mut socket: &UnixStream,
        orphaned: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        loop {
            match self.wait(socket, orphaned)? {
                Woken::TimeIsOver => {
                    self.thaw();
                    // The agent may be in the middle of freezing.
                    self.thaw_at = Instant::now().checked_add(AGAIN);
                    if !self.told {
                        self.told = true;
                        socket.write_all(&[Report::TimeLimit as u8])?;
                    }
                    continue;
                }
                Woken::Orphaned => return Ok(()),
                Woken::Order => {}
            }
            let held = self.held.len();
            match Order::recv(socket, &mut self.held)? {
                None => return Ok(()),
                Some(Order::Begin(milliseconds)) => {
                    self.forget();
                    self.limit = Duration::from_millis(milliseconds);
                }
                Some(Order::Hold(count)) => {
                    // The kernel leaves out what it has no room for.
                    if (self.held.len() - held) as u64 != count {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
                Some(Order::Go) => {
                    self.not_ours = vec![false; self.held.len()];
                    self.thaw_at = Instant::now().checked_add(self.limit.min(FREEZING));
                    socket.write_all(&[Report::Ready as u8])?;
                }
                Some(Order::NotOurs(index)) => {
                    let index = usize::try_from(index).unwrap_or(usize::MAX);
                    if let Some(not_ours) = self.not_ours.get_mut(index) {
                        *not_ours = true;
                    }
                }
                Some(Order::Hurried) => self.hurried = true,
                Some(Order::Done) => {
                    self.hurried = false;
                    if !self.told {
                        self.thaw_at = Instant::now().checked_add(self.limit);
                    }
                }
                Some(Order::Release) => {
                    self.forget();
                    // It waits for days now.
                    kernel::release_code();
                }
            }
        }
    }

    fn wait(&self, socket: &UnixStream, orphaned: Option<BorrowedFd<'_>>) -> io::Result<Woken> {
        loop {
            let left = self
                .thaw_at
                .map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = left.map(Timespec::try_from).transpose();
            let timeout = timeout.map_err(|_| io::ErrorKind::InvalidInput)?;
            let of = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
            // Where nobody tells of it, the socket is in its place.
            let mut fds = [of(socket.as_fd()), of(orphaned.unwrap_or(socket.as_fd()))];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(Woken::TimeIsOver),
                // What the agent had to say comes first.
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Order),
                Ok(_) => return Ok(Woken::Orphaned),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Thaws everything that the agent has frozen, or may have, without taking
    /// memory for it.
    fn thaw(&self) {
        for (index, descriptor) in self.held.iter().enumerate().rev() {
            if self.not_ours.get(index) != Some(&true) {
                // What is not frozen gives an error, and so does what cannot be
                // thawed: there is nobody to be told.
                let _ = kernel::thaw(descriptor);
            }
        }
    }

    fn forget(&mut self) {
        self.held.clear();
        self.not_ours.clear();
        self.thaw_at = None;
        self.told = false;
    }
}

/// Why the guard does not wait any longer.
enum Woken {
    /// The agent has something to say, or has closed the socket.
    Order,
    /// The agent is gone, whether its socket is closed or not.
    Orphaned,
    TimeIsOver,
}

impl Drop for Guard {
    /// Whatever happened: who was to thaw is gone, or cannot be understood.
    fn drop(&mut self) {
        self.thaw();
        if self.hurried {
            haste::end(&self.switch);
        }
    }
}
