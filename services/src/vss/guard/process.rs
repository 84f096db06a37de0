//! The guard itself: a process that holds a descriptor of each file system,
//! freezes them when the agent says so, and thaws them when it says so, when it is
//! gone, or when the time is over.
//!
//! Its main thread only waits, for the agent and for the `threads` that ask the
//! kernel, so that nothing which hangs there holds it up. While anything may be
//! frozen its memory is locked: it never waits for a disk. It ends when the agent
//! has gone and all is thawed, and by no signal that can be held off: whoever stops
//! a service may signal all of its processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::net::{SendFlags, send};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::message::{Order, Report};
use super::threads::{FileSystemCalls, Kernel, State, ThreadPool};
use crate::sys;
use crate::timeouts::FREEZE;
use crate::vss::freeze;
use crate::vss::rcu_expedited::{self, ExpeditedRcu};

/// How often it is looked at what freezes or thaws.
const LOOK: Duration = Duration::from_millis(100);

/// How long one file system may take while the kernel hurries: it waits for
/// something else then.
const HURRY: Duration = Duration::from_secs(1);

/// How long one may take to freeze before the agent is told that it is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How soon what cannot be thawed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often, where nobody asks for it any more: what the kernel refuses each time
/// it refuses always. What it has not come back from is waited for.
const LAST_TRIES: u32 = 60;

/// What a guard works with.
pub struct Context {
    /// The switch by which the kernel is told whether to hurry.
    pub switch: PathBuf,
    /// What it asks the kernel for.
    pub calls: Arc<dyn FileSystemCalls>,
    /// Whether it has a process to itself, whose memory it may lock and give back.
    pub own_process: bool,
}

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
    // It is handed one for each file system.
    let _ = freeze::raise_file_limit();
    sys::release_memory();
    let agent = io::stdin().as_fd().try_clone_to_owned()?;
    let context = Context {
        switch: PathBuf::from(rcu_expedited::SWITCH),
        calls: Arc::new(Kernel),
        own_process: true,
    };
    serve(&agent.into(), Some(orphaned.as_fd()), context)
}

/// Guards for the agent at the other end of `socket`, until that is gone, which
/// `orphaned` tells too where it becomes readable, and all is thawed.
///
/// # Errors
///
/// As [`main`].
pub fn serve(
    socket: &UnixStream,
    orphaned: Option<BorrowedFd<'_>>,
    context: Context,
) -> io::Result<()> {
    let mut guard = Guard {
        socket,
        context,
        received: Vec::new(),
        threads: None,
        limit: Duration::ZERO,
        phase: Phase::Rest,
        told: Vec::new(),
        outbox: Vec::new(),
        rcu_expedited: None,
    };
    let attended = guard.attend(orphaned);
    // Whatever happened: who was to thaw is gone, or cannot be understood.
    guard.finish();
    attended
}

struct Guard<'a> {
    socket: &'a UnixStream,
    context: Context,
    /// What the agent has handed over so far.
    received: Vec<OwnedFd>,
    /// And then, who freezes and thaws it.
    threads: Option<ThreadPool>,
    /// How long it may be frozen.
    limit: Duration,
    phase: Phase,
    /// Of which file systems the agent was told how it went.
    told: Vec<bool>,
    /// Records that are on their way to the agent.
    outbox: Vec<u8>,
    /// The kernel hurries.
    rcu_expedited: Option<ExpeditedRcu>,
}

/// How far a freeze is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Rest,
    /// All is there that it takes.
    Ready,
    Freezing {
        /// When it is given up.
        until: Option<Instant>,
        /// Which file system the agent was told about as one that is waited for.
        waits: Option<usize>,
    },
    Frozen {
        /// When it is thawed, unless the agent asks for it before.
        until: Option<Instant>,
    },
    Thawing {
        /// Whether the agent has asked for it.
        asked: bool,
        /// When what could not be thawed is tried again.
        again: Instant,
    },
}

impl Guard<'_> {
    /// Does what the agent says for as long as it is there.
    fn attend(&mut self, orphaned: Option<BorrowedFd<'_>>) -> io::Result<()> {
        loop {
            let more = if self.outbox.is_empty() {
                PollFlags::IN
            } else {
                PollFlags::IN | PollFlags::OUT
            };
            let woken = wait(
                [
                    Some((self.socket.as_fd(), more)),
                    orphaned.map(|fd| (fd, PollFlags::IN)),
                    self.threads.as_ref().map(|it| (it.as_fd(), PollFlags::IN)),
                ],
                self.next_look(),
            )?;
            if woken[0].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                // What the agent had to say comes first.
                match Order::recv(self.socket, &mut self.received)? {
                    Some(order) => self.carry_out(order)?,
                    None => return Ok(()),
                }
            } else if !woken[1].is_empty() {
                return Ok(());
            }
            self.look();
            self.flush()?;
        }
    }

    fn carry_out(&mut self, order: Order) -> io::Result<()> {
        let forgets = matches!(order, Order::Begin(_) | Order::Go | Order::Release);
        if forgets && self.has_frozen() {
            // No agent says so: whatever this one is, it is not to be relied on.
            return Err(io::ErrorKind::InvalidData.into());
        }
        match order {
            Order::Begin(milliseconds) => {
                self.forget();
                self.limit = Duration::from_millis(milliseconds);
            }
            Order::Hold(count) => {
                // The kernel leaves out what it has no room for.
                let held = self.told.len();
                if (self.received.len() - held) as u64 != count {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.told.resize(self.received.len(), false);
            }
            Order::Go => {
                let held = Arc::new(std::mem::take(&mut self.received));
                // One record of each kind for each, and some for all.
                self.outbox.reserve(Report::LEN * (3 * held.len() + 16));
                let mut threads = ThreadPool::new(held, Arc::clone(&self.context.calls))?;
                threads.add_freezing()?;
                self.threads = Some(threads);
                // All that is needed is there. What might yet be taken comes from no
                // disk; locked beforehand, it would count against a limit.
                let locked = match self.context.own_process {
                    true => mlockall(MlockAllFlags::CURRENT),
                    false => Ok(()),
                };
                self.phase = Phase::Ready;
                self.tell(Report::Ready(locked));
            }
            Order::Freeze => {
                if self.phase == Phase::Ready {
                    self.freeze();
                }
            }
            Order::Thaw => {
                if self.phase == Phase::Ready {
                    if let Some(threads) = &self.threads {
                        threads.take_for_frozen(|_| false);
                    }
                }
                self.told.fill(false);
                self.thaw(true);
            }
            Order::Release => {
                self.forget();
                if self.context.own_process {
                    // It waits for days now.
                    sys::release_memory();
                }
            }
        }
        Ok(())
    }

    /// Whether anything is frozen, or may be.
    fn has_frozen(&self) -> bool {
        match self.phase {
            Phase::Rest | Phase::Ready => false,
            // The first one may not have begun.
            Phase::Freezing { .. } => true,
            Phase::Frozen { .. } | Phase::Thawing { .. } => {
                self.threads.as_ref().is_some_and(|it| !it.all_thawed())
            }
        }
    }

    fn freeze(&mut self) {
        let mut hurries = false;
        self.rcu_expedited = ExpeditedRcu::enable(&self.context.switch, || hurries = true);
        // Nothing waits in the outbox, so this is sent before anything is frozen.
        if hurries {
            self.tell(Report::Hurries);
            let _ = self.flush();
        }
        if let Some(threads) = &self.threads {
            threads.freeze();
        }
        self.phase = Phase::Freezing {
            until: Instant::now().checked_add(self.limit.min(FREEZE)),
            waits: None,
        };
    }

    fn thaw(&mut self, asked: bool) {
        self.calm();
        if let Some(threads) = &mut self.threads {
            threads.thaw();
        }
        self.phase = Phase::Thawing {
            asked,
            again: Instant::now() + AGAIN,
        };
    }

    /// Tells the kernel that it need not hurry any more.
    fn calm(&mut self) {
        if self.rcu_expedited.take().is_some() {
            self.tell(Report::Calm);
        }
    }

    /// When to look again, unless there is news before.
    fn next_look(&self) -> Option<Instant> {
        let soon = Instant::now() + LOOK;
        match self.phase {
            Phase::Rest | Phase::Ready => None,
            Phase::Freezing { until, .. } => Some(until.map_or(soon, |until| until.min(soon))),
            Phase::Frozen { until } => until,
            Phase::Thawing { again, .. } => {
                let threads = self.threads.as_ref()?;
                match threads.any_to_try() {
                    true => Some(soon),
                    false => (!threads.all_thawed()).then_some(again),
                }
            }
        }
    }

    /// Looks how far the threads are, and what time it is.
    fn look(&mut self) {
        let Some(threads) = &self.threads else {
            return;
        };
        threads.clear_news();
        let now = Instant::now();
        match self.phase {
            Phase::Rest | Phase::Ready => {}
            Phase::Freezing { until, waits } => {
                let (freezing, over) = (threads.freezing(), threads.freezing_over());
                self.tell_refused();
                if over {
                    self.calm();
                    self.phase = Phase::Frozen {
                        until: now.checked_add(self.limit),
                    };
                    self.tell(Report::Frozen);
                    return;
                }
                if freezing.is_some_and(|(_, took)| took >= HURRY) {
                    self.calm();
                }
                if let Some((index, took)) = freezing {
                    if took >= PATIENCE && waits != Some(index) {
                        self.phase = Phase::Freezing {
                            until,
                            waits: Some(index),
                        };
                        self.tell(Report::Waits(index));
                    }
                }
                self.look_at_the_clock(until, now);
            }
            Phase::Frozen { until } => self.look_at_the_clock(until, now),
            Phase::Thawing { asked, again } => {
                if now >= again {
                    self.thaw(asked);
                } else if let Some(threads) = &mut self.threads {
                    threads.go_on();
                }
                if asked {
                    self.tell_thawed();
                }
            }
        }
    }

    /// Thaws where the time is over.
    fn look_at_the_clock(&mut self, until: Option<Instant>, now: Instant) {
        if until.is_some_and(|until| until <= now) {
            self.tell(Report::TimeLimit);
            self.thaw(false);
        }
    }

    /// Tells which file systems could not be frozen.
    fn tell_refused(&mut self) {
        self.tell_each(|index, state| match state {
            State::Refused(errno) => Some(Report::Refused(index, errno)),
            _ => None,
        });
    }

    /// Tells which are thawed, or could not be.
    fn tell_thawed(&mut self) {
        self.tell_each(|index, state| match state {
            State::Untouched | State::Refused(_) => Some(Report::Spared(index)),
            State::Frozen | State::Thawing => None,
            State::Thawed(said) => Some(Report::Thawed(index, said)),
        });
    }

    /// Tells what there is to tell of those that nothing was told of.
    fn tell_each(&mut self, report: impl Fn(usize, State) -> Option<Report>) {
        let (Some(threads), told, outbox) = (&self.threads, &mut self.told, &mut self.outbox)
        else {
            return;
        };
        threads.each(|index, state| {
            if let Some(told) = told.get_mut(index) {
                if !*told {
                    if let Some(report) = report(index, state) {
                        *told = true;
                        outbox.extend_from_slice(&report.encode());
                    }
                }
            }
        });
    }

    fn tell(&mut self, report: Report) {
        self.outbox.extend_from_slice(&report.encode());
    }

    /// Sends what there is room for.
    fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(self.socket, &self.outbox, flags) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(Errno::AGAIN) => break,
                // The agent has gone, which is seen when it is waited for.
                Err(Errno::PIPE | Errno::CONNRESET) => self.outbox.clear(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.calm();
        if self.context.own_process {
            // Before the threads end: the memory that they had is given back then.
            let _ = munlockall();
        }
        self.threads = None;
        self.received.clear();
        self.told = Vec::new();
        self.phase = Phase::Rest;
    }

    /// Thaws everything, with nobody left to be told.
    fn finish(&mut self) {
        if !matches!(self.phase, Phase::Rest | Phase::Ready) {
            self.thaw(false);
        }
        let mut again = Instant::now() + AGAIN;
        let mut tries = LAST_TRIES;
        while tries > 0 {
            let Some(threads) = self.threads.as_mut().filter(|it| !it.all_thawed()) else {
                return;
            };
            let at_work = threads.at_work();
            let soon = Instant::now() + LOOK;
            let until = match threads.any_to_try() {
                true => soon.min(again),
                false => again,
            };
            let news = at_work.then(|| (threads.as_fd(), PollFlags::IN));
            let _ = wait([None, None, news], Some(until));
            threads.clear_news();
            threads.go_on();
            if again <= Instant::now() {
                again = Instant::now() + AGAIN;
                if !at_work {
                    tries -= 1;
                }
                self.thaw(false);
            }
        }
    }
}

/// Waits until one of these is ready, or it is this late; gives what each is ready
/// for.
fn wait(
    fds: [Option<(BorrowedFd<'_>, PollFlags)>; 3],
    until: Option<Instant>,
) -> io::Result<[PollFlags; 3]> {
    let mut ready = [PollFlags::empty(); 3];
    let left = until.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.map(Timespec::try_from).transpose();
    let timeout = timeout.map_err(|_| io::ErrorKind::InvalidInput)?;
    // What is not to be waited for is another one, for nothing.
    let Some(any) = fds.iter().flatten().map(|(fd, _)| *fd).next() else {
        if let Some(left) = left {
            std::thread::sleep(left);
        }
        return Ok(ready);
    };
    let mut polled = fds.map(|fd| match fd {
        Some((fd, flags)) => PollFd::from_borrowed_fd(fd, flags),
        None => PollFd::from_borrowed_fd(any, PollFlags::empty()),
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(ready),
        Err(error) => return Err(error.into()),
    }
    for ((ready, polled), fd) in ready.iter_mut().zip(&polled).zip(&fds) {
        if fd.is_some() {
            *ready = polled.revents();
        }
    }
    Ok(ready)
}
