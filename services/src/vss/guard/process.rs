//! The guard itself, a watchdog process. It holds a descriptor of each file system, freezes
//! them when the agent tells it to, and thaws them when the agent tells it to, when the
//! agent is gone, or at the time limit.
//!
//! Its main thread only waits, for the agent and for the `threads` that call the kernel,
//! so that it never hangs itself. While anything may be frozen its memory is locked, so
//! that it waits for no disk. It ends once the agent is gone and everything is thawed. It
//! blocks all signals that can be blocked, since a service manager may signal all
//! processes of a service.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::net::{SendFlags, send};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::message::{GuardCommand, GuardReport};
use super::threads::{FileSystemCalls, Kernel, State, ThreadPool};
use crate::retry::poll_until;
use crate::timeouts::FREEZE;
use crate::vss::freeze;
use crate::vss::rcu_expedited::{self, ExpeditedRcu};

/// How often the threads are checked while they freeze.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How long one file system may take to freeze with `rcu_expedited` set: after that it does
/// not wait for RCU.
const RCU_EXPEDITED_MAX: Duration = Duration::from_secs(1);

/// How long one file system takes to freeze until the agent gets a report.
const PATIENCE: Duration = Duration::from_secs(2);

/// The interval at which a failed thaw is retried.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is retried once the agent is gone: what the kernel refused that often, it
/// refuses always. A call that hangs is waited for.
const MAX_RETRIES: u32 = 60;

/// What a guard works with.
pub struct Context {
    /// The path of `rcu_expedited`.
    pub switch: PathBuf,
    /// The calls into the kernel.
    pub calls: Arc<dyn FileSystemCalls>,
    /// Whether it has a process to itself, whose memory it may lock.
    pub own_process: bool,
}

/// Runs the guard in a process that was started as one, with the socket to the agent as its
/// standard input.
///
/// # Errors
///
/// If the socket fails, or the agent sends an invalid command. File systems are thawed in
/// any case.
pub fn main() -> io::Result<()> {
    use Signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV};
    let mut held_off = SigSet::all();
    for not in [SIGSEGV, SIGBUS, SIGILL, SIGFPE] {
        held_off.remove(not);
    }
    held_off.thread_block()?;
    // The socket alone does not show the end of the agent: while another thread of a killed
    // agent waits for a frozen file system, which it does until the thaw, the kernel keeps
    // all of its descriptors open.
    let orphaned = SignalFd::with_flags(
        &SigSet::from(Signal::SIGUSR1),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::USR1))?;
    // A core dump would be written to a frozen file system, and the agent would wait for
    // the end of a guard that waits for the thaw.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // This fails without privileges, and is not essential.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::thread::set_name(c"hyperv-guard");
    // It gets a descriptor for each file system.
    let _ = freeze::raise_file_limit();
    let agent = io::stdin().as_fd().try_clone_to_owned()?;
    let context = Context {
        switch: PathBuf::from(rcu_expedited::SWITCH),
        calls: Arc::new(Kernel),
        own_process: true,
    };
    serve(&agent.into(), Some(orphaned.as_fd()), context)
}

/// Serves the agent at the other end of `socket` until that is gone and everything is thawed.
/// `orphaned` becomes readable when the agent is gone.
///
/// # Errors
///
/// As [`main`].
pub fn serve(
    socket: &UnixStream,
    orphaned: Option<BorrowedFd<'_>>,
    context: Context,
) -> io::Result<()> {
    let mut watchdog = Watchdog {
        socket,
        context,
        received: Vec::new(),
        order: Vec::new(),
        threads: None,
        limit: Duration::ZERO,
        phase: Phase::Idle,
        reported: Vec::new(),
        waited: Vec::new(),
        outbox: Vec::new(),
        rcu_expedited: None,
    };
    let served = watchdog.serve_agent(orphaned);
    // Whatever happened, the agent cannot tell the guard to thaw any more.
    watchdog.thaw_finally();
    served
}

struct Watchdog<'a> {
    socket: &'a UnixStream,
    context: Context,
    /// The descriptors that the agent has sent so far.
    received: Vec<OwnedFd>,
    /// Pairs of indices, of which the first is frozen before the second.
    order: Vec<(usize, usize)>,
    /// The threads that freeze and thaw, once the agent has sent all.
    threads: Option<ThreadPool>,
    /// The time limit of the freeze.
    limit: Duration,
    phase: Phase,
    /// Which file systems the agent has a report of.
    reported: Vec<bool>,
    /// Which ones the agent knows to take long to freeze.
    waited: Vec<bool>,
    /// Records that have to be sent to the agent.
    outbox: Vec<u8>,
    /// Set while it freezes.
    rcu_expedited: Option<ExpeditedRcu>,
}

/// The phase of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Idle,
    /// Everything is prepared.
    Ready,
    Freezing {
        /// When it is aborted.
        until: Option<Instant>,
        /// The file system that the agent was last told to take long.
        waits: Option<usize>,
    },
    Frozen {
        /// When it is thawed, unless the agent asks before.
        until: Option<Instant>,
    },
    Thawing {
        /// Whether the agent asked for it.
        asked: bool,
        /// When failed thaws are retried.
        retry: Instant,
    },
}

impl Watchdog<'_> {
    /// Executes the commands of the agent until it is gone.
    fn serve_agent(&mut self, orphaned: Option<BorrowedFd<'_>>) -> io::Result<()> {
        loop {
            let mut more = PollFlags::IN;
            more.set(PollFlags::OUT, !self.outbox.is_empty());
            let ready = wait(
                [
                    Some((self.socket.as_fd(), more)),
                    orphaned.map(|fd| (fd, PollFlags::IN)),
                    self.threads.as_ref().map(|it| (it.as_fd(), PollFlags::IN)),
                ],
                self.next_check(),
            )?;
            if ready[0].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                // A pending command comes first.
                match GuardCommand::recv(self.socket, &mut self.received)? {
                    Some(command) => self.execute(command)?,
                    None => return Ok(()),
                }
            } else if !ready[1].is_empty() {
                return Ok(());
            }
            self.check_threads();
            self.flush()?;
        }
    }

    fn execute(&mut self, command: GuardCommand) -> io::Result<()> {
        let resets = matches!(command, GuardCommand::Begin(_) | GuardCommand::Prepare);
        if resets && self.has_frozen() {
            // No agent sends that: do not rely on this one.
            return Err(io::ErrorKind::InvalidData.into());
        }
        match command {
            GuardCommand::Begin(milliseconds) => {
                self.reset();
                self.limit = Duration::from_millis(milliseconds);
            }
            GuardCommand::Hold(count) => {
                // The kernel drops descriptors that exceed the limit of open files.
                let held = self.reported.len();
                if (self.received.len() - held) as u64 != count {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.reported.resize(self.received.len(), false);
                self.waited.resize(self.received.len(), false);
            }
            GuardCommand::Order(first, then) => {
                let index = |index| usize::try_from(index).unwrap_or(usize::MAX);
                self.order.push((index(first), index(then)));
            }
            GuardCommand::Prepare => {
                let held = Arc::new(std::mem::take(&mut self.received));
                // A record of each kind for each file system, and some more.
                self.outbox
                    .reserve(GuardReport::LEN * (4 * held.len() + 16));
                let order = std::mem::take(&mut self.order);
                let threads = ThreadPool::new(held, &order, Arc::clone(&self.context.calls))?;
                if !threads.can_freeze() {
                    return Err(io::Error::other("cannot start threads"));
                }
                self.threads = Some(threads);
                // Everything needed is mapped now. Later allocations come from no disk;
                // locking them in advance would count against a limit.
                let locked = match self.context.own_process {
                    true => mlockall(MlockAllFlags::CURRENT),
                    false => Ok(()),
                };
                self.phase = Phase::Ready;
                self.report(GuardReport::Ready(locked));
            }
            GuardCommand::Freeze if self.phase == Phase::Ready => self.freeze(),
            GuardCommand::Freeze => {}
            GuardCommand::Thaw => {
                if self.phase == Phase::Ready {
                    if let Some(threads) = &self.threads {
                        threads.assume_frozen(|_| false);
                    }
                }
                self.reported.fill(false);
                self.thaw(true);
            }
        }
        Ok(())
    }

    /// Returns whether anything is or may be frozen.
    fn has_frozen(&self) -> bool {
        match self.phase {
            Phase::Idle | Phase::Ready => false,
            // Even if the first call has not begun.
            Phase::Freezing { .. } => true,
            Phase::Frozen { .. } | Phase::Thawing { .. } => {
                self.threads.as_ref().is_some_and(|it| !it.all_thawed())
            }
        }
    }

    fn freeze(&mut self) {
        let mut expedited = false;
        self.rcu_expedited = ExpeditedRcu::enable(&self.context.switch, || expedited = true);
        // The outbox is empty, so this is sent before anything is frozen.
        if expedited {
            self.report(GuardReport::RcuExpedited);
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
        self.reset_rcu_expedited();
        if let Some(threads) = &self.threads {
            threads.thaw();
        }
        self.phase = Phase::Thawing {
            asked,
            retry: Instant::now() + RETRY,
        };
    }

    /// Resets `rcu_expedited`.
    fn reset_rcu_expedited(&mut self) {
        if self.rcu_expedited.take().is_some() {
            self.report(GuardReport::RcuNormal);
        }
    }

    /// Returns when to check the threads again without an event.
    fn next_check(&self) -> Option<Instant> {
        let soon = Instant::now() + CHECK_INTERVAL;
        match self.phase {
            Phase::Idle | Phase::Ready => None,
            Phase::Freezing { until, .. } => Some(until.map_or(soon, |until| until.min(soon))),
            Phase::Frozen { until } => until,
            Phase::Thawing { retry, .. } => {
                let threads = self.threads.as_ref()?;
                match threads.any_pending() {
                    true => Some(Instant::now() + threads.check_interval()),
                    false => (!threads.all_thawed()).then_some(retry),
                }
            }
        }
    }

    /// Checks the progress of the threads, and the time.
    fn check_threads(&mut self) {
        let Some(threads) = &self.threads else {
            return;
        };
        threads.clear_event();
        let now = Instant::now();
        match self.phase {
            Phase::Idle | Phase::Ready => {}
            Phase::Freezing { until, waits } => {
                let (longest, over) = (threads.longest_freezing(), threads.freezing_done());
                self.report_each(|index, state| match state {
                    State::Refused(errno) => Some(GuardReport::Refused(index, errno)),
                    _ => None,
                });
                if over {
                    self.reset_rcu_expedited();
                    self.phase = Phase::Frozen {
                        until: now.checked_add(self.limit),
                    };
                    self.report(GuardReport::Frozen);
                    return;
                }
                if longest.is_some_and(|(_, took)| took >= RCU_EXPEDITED_MAX) {
                    self.reset_rcu_expedited();
                }
                let waits = self.report_waiting(waits);
                self.phase = Phase::Freezing { until, waits };
                self.check_time_limit(until, now, waits.and(longest).map(|(index, _)| index));
            }
            Phase::Frozen { until } => self.check_time_limit(until, now, None),
            Phase::Thawing { asked, retry } => {
                if now >= retry {
                    self.thaw(asked);
                } else {
                    threads.escalate();
                }
                if asked {
                    self.report_each(|index, state| match state {
                        State::Untouched | State::Refused(_) => Some(GuardReport::Skipped(index)),
                        State::Freezing(_) | State::Frozen | State::Thawing => None,
                        State::Thawed(said) => Some(GuardReport::Thawed(index, said)),
                    });
                }
            }
        }
    }

    /// Reports each file system that takes long to freeze. If the one that was reported last,
    /// `before`, is frozen, one that is not is reported again. Returns the last one.
    fn report_waiting(&mut self, before: Option<usize>) -> Option<usize> {
        let threads = self.threads.as_ref()?;
        let (waited, outbox) = (&mut self.waited, &mut self.outbox);
        let (mut new, mut any, mut still) = (None, None, false);
        let mut report = |index| outbox.extend_from_slice(&GuardReport::Waiting(index).encode());
        threads.each_freezing(|(index, took)| {
            if took < PATIENCE {
                return;
            }
            any = Some(index);
            still |= before == any;
            if let Some(waited) = waited.get_mut(index).filter(|it| !**it) {
                *waited = true;
                report(index);
                new = any;
            }
        });
        match new {
            None if still => before,
            None => any.inspect(|index| report(*index)),
            new => new,
        }
    }

    /// Thaws if the time is over; `waits` is the file system that has been waited for.
    fn check_time_limit(&mut self, until: Option<Instant>, now: Instant, waits: Option<usize>) {
        if until.is_some_and(|until| until <= now) {
            self.report(GuardReport::TimeLimit(waits));
            self.thaw(false);
        }
    }

    /// Reports each file system once.
    fn report_each(&mut self, report: impl Fn(usize, State) -> Option<GuardReport>) {
        let (Some(threads), reported, outbox) =
            (&self.threads, &mut self.reported, &mut self.outbox)
        else {
            return;
        };
        threads.each(|index, state| {
            let unreported = reported.get_mut(index).filter(|it| !**it);
            if let Some((reported, report)) = unreported.zip(report(index, state)) {
                *reported = true;
                outbox.extend_from_slice(&report.encode());
            }
        });
    }

    fn report(&mut self, report: GuardReport) {
        self.outbox.extend_from_slice(&report.encode());
    }

    /// Sends what the socket has room for.
    fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(self.socket, &self.outbox, flags) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(Errno::AGAIN) => break,
                // The agent is gone: the next wait returns that.
                Err(Errno::PIPE | Errno::CONNRESET) => self.outbox.clear(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.reset_rcu_expedited();
        if self.context.own_process {
            let _ = munlockall();
        }
        self.threads = None;
        self.received.clear();
        self.order.clear();
        self.reported = Vec::new();
        self.waited = Vec::new();
        self.phase = Phase::Idle;
    }

    /// Thaws everything once the agent is gone.
    fn thaw_finally(&mut self) {
        if !matches!(self.phase, Phase::Idle | Phase::Ready) {
            self.thaw(false);
        }
        let mut retry = Instant::now() + RETRY;
        let mut tries = MAX_RETRIES;
        while tries > 0 {
            let Some(threads) = self.threads.as_ref().filter(|it| !it.all_thawed()) else {
                return;
            };
            let is_busy = threads.is_busy();
            let soon = Instant::now() + threads.check_interval();
            let until = match threads.any_pending() {
                true => soon.min(retry),
                false => retry,
            };
            let news = is_busy.then(|| (threads.as_fd(), PollFlags::IN));
            let _ = wait([None, None, news], Some(until));
            threads.clear_event();
            threads.escalate();
            if retry <= Instant::now() {
                retry = Instant::now() + RETRY;
                if !is_busy {
                    tries -= 1;
                }
                self.thaw(false);
            }
        }
    }
}

/// Waits until one of these is ready, or until `until`. Returns what each is ready for.
fn wait(
    fds: [Option<(BorrowedFd<'_>, PollFlags)>; 3],
    until: Option<Instant>,
) -> io::Result<[PollFlags; 3]> {
    let mut ready = [PollFlags::empty(); 3];
    // An unused entry polls another descriptor for no events.
    let Some(any) = fds.iter().flatten().map(|(fd, _)| *fd).next() else {
        if until.is_some() {
            poll_until(&mut [], until)?;
        }
        return Ok(ready);
    };
    let mut polled = fds.map(|fd| match fd {
        Some((fd, flags)) => PollFd::from_borrowed_fd(fd, flags),
        None => PollFd::from_borrowed_fd(any, PollFlags::empty()),
    });
    poll_until(&mut polled, until)?;
    for ((ready, polled), fd) in ready.iter_mut().zip(&polled).zip(&fds) {
        if fd.is_some() {
            *ready = polled.revents();
        }
    }
    Ok(ready)
}
