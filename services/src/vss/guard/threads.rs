//! The threads that freeze and thaw. They do nothing else, since a call may hang in the
//! kernel for as long as a disk or another file system does: `FITHAW` of a file system
//! waits for its own `FIFREEZE`, and that may wait for anything.
//!
//! They are started, with all the memory that they need, before anything is frozen. One
//! freezes, in freeze order. One thaws, from the last file system to the first; if its call
//! hangs, further ones continue with the rest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::sys;

/// How many threads thaw: so many calls may hang before the rest has to wait.
const MAX_THREADS: usize = 256;

/// The stack size of a thread. All of it is locked in memory.
const STACK: usize = 32 << 10;

/// The calls into the kernel.
pub trait FileSystemCalls: Send + Sync {
    /// Freezes the file system that `fd` is on.
    ///
    /// # Errors
    ///
    /// As [`sys::freeze`].
    fn freeze(&self, fd: BorrowedFd<'_>) -> Result<(), Errno>;

    /// Thaws the file system that `fd` is on.
    ///
    /// # Errors
    ///
    /// As [`sys::thaw`].
    fn thaw(&self, fd: BorrowedFd<'_>) -> Result<(), Errno>;

    /// Returns why nothing can be written to it any more, if nothing can: `ESHUTDOWN` if it
    /// was shut down, `EROFS` if the kernel made it read-only after an error.
    fn dead(&self, fd: BorrowedFd<'_>) -> Option<Errno>;
}

/// Calls the real kernel.
#[derive(Debug, Clone, Copy)]
pub struct Kernel;

impl FileSystemCalls for Kernel {
    fn freeze(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        sys::freeze(fd)
    }

    fn thaw(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        sys::thaw(fd)
    }

    fn dead(&self, fd: BorrowedFd<'_>) -> Option<Errno> {
        let shut = |said: Result<(), Errno>| matches!(said, Err(Errno::IO | Errno::SHUTDOWN));
        // XFS opens nothing any more. Others fail to write; an error of an earlier write is
        // returned once only.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if shut(rustix::fs::openat(fd, c".", flags, Mode::empty()).map(drop))
            || (shut(rustix::fs::fsync(fd)) && shut(rustix::fs::fsync(fd)))
        {
            return Some(Errno::SHUTDOWN);
        }
        // Kernels before 6.15 do not show that they made an ext4 read-only. No unnamed file can
        // be made on it then, although it is mounted read-write.
        let mounted = rustix::fs::fstatvfs(fd).ok()?;
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(fd, c".", flags, Mode::RUSR) {
            Err(Errno::ROFS) if !mounted.f_flag.contains(StatVfsMountFlags::RDONLY) => {
                Some(Errno::ROFS)
            }
            _ => None,
        }
    }
}

/// The state of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum State {
    /// It was not tried.
    Untouched,
    /// `FIFREEZE` returned this error. `ESHUTDOWN` stands for any error of a file system that
    /// was shut down.
    Refused(Errno),
    /// It has to be thawed.
    Frozen,
    /// A thread is thawing it.
    Thawing,
    /// `FITHAW` returned this.
    Thawed(Result<(), Errno>),
}

/// Returns whether the file system is not frozen after a `FITHAW` with this result: it was
/// thawed, or was not frozen.
pub(in super::super) fn is_thawed(said: Result<(), Errno>) -> bool {
    matches!(said, Ok(()) | Err(Errno::INVAL))
}

/// Returns whether the others are frozen although one cannot be. It cannot
/// (`EOPNOTSUPP`), need not (`EBUSY`: another program froze it), or nothing is written to
/// it (`EROFS`: the kernel made it read-only after an error).
pub(in super::super) fn is_skippable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::BUSY | Errno::OPNOTSUPP | Errno::ROFS | Errno::SHUTDOWN
    )
}

/// The task of the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Wait,
    Freeze,
    Thaw,
    End,
}

struct Progress {
    task: Task,
    /// The state of each file system.
    each: Vec<State>,
    /// Which one is being frozen, and since when.
    freezing: Option<(usize, Instant)>,
    /// No other one will be frozen.
    freezing_done: bool,
    /// How many more threads may begin to thaw.
    permits: usize,
    /// How many calls to thaw have returned.
    returned: u64,
    /// How many threads have started.
    started: usize,
}

struct Shared {
    held: Arc<Vec<OwnedFd>>,
    calls: Arc<dyn FileSystemCalls>,
    progress: Mutex<Progress>,
    /// Wakes the thread that freezes.
    to_freeze: Condvar,
    /// Wakes the threads that thaw.
    to_thaw: Condvar,
    /// Signals that a thread has started.
    made: Condvar,
    /// Readable after a change.
    event: OwnedFd,
}

/// File systems with the threads that freeze and thaw them.
pub(in super::super) struct ThreadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// How many calls to thaw had returned at the last check.
    returned: u64,
    /// How many more threads begin to thaw at the next check.
    step: usize,
}

impl ThreadPool {
    /// Starts threads that thaw `held`, which are in freeze order. If no thread can be
    /// started, [`ThreadPool::thaw`] thaws by itself.
    ///
    /// # Errors
    ///
    /// If the process has no descriptor left.
    pub(in super::super) fn new(
        held: Arc<Vec<OwnedFd>>,
        calls: Arc<dyn FileSystemCalls>,
    ) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let progress = Progress {
            task: Task::Wait,
            each: vec![State::Untouched; held.len()],
            freezing: None,
            freezing_done: false,
            permits: 0,
            returned: 0,
            started: 0,
        };
        let mut threads = Self {
            threads: Vec::with_capacity(held.len().min(MAX_THREADS) + 1),
            shared: Arc::new(Shared {
                held,
                calls,
                progress: Mutex::new(progress),
                to_freeze: Condvar::new(),
                to_thaw: Condvar::new(),
                made: Condvar::new(),
                event,
            }),
            returned: 0,
            step: 1,
        };
        for _ in 0..threads.shared.held.len().min(MAX_THREADS) {
            if threads.start(Shared::thaw).is_err() {
                break;
            }
        }
        Ok(threads)
    }

    /// Starts the thread that freezes.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(super) fn add_freezing(&mut self) -> io::Result<()> {
        self.start(Shared::freeze)
    }

    /// Starts a thread, and waits until it runs.
    fn start(&mut self, work: fn(&Shared)) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.threads.push(
            thread::Builder::new()
                .name("hyperv-guard".to_owned())
                .stack_size(STACK)
                .spawn(move || work(&shared))?,
        );
        let starts = |progress: &mut Progress| progress.started < self.threads.len();
        drop(self.shared.made.wait_while(self.shared.lock(), starts));
        Ok(())
    }

    /// Begins to freeze all, one after the other.
    pub(super) fn freeze(&self) {
        let mut progress = self.shared.lock();
        if progress.task == Task::Wait {
            progress.task = Task::Freeze;
            self.shared.to_freeze.notify_all();
        }
    }

    /// Assumes that all are frozen that these threads have not tried to freeze, except those
    /// that `but` names.
    pub(in super::super) fn assume_frozen(&self, but: impl Fn(usize) -> bool) {
        let mut progress = self.shared.lock();
        for (index, state) in progress.each.iter_mut().enumerate() {
            if *state == State::Untouched && !but(index) {
                *state = State::Frozen;
            }
        }
    }

    /// Stops freezing, and begins to thaw all that are frozen. Retries failed thaws.
    pub(in super::super) fn thaw(&mut self) {
        let mut progress = self.shared.lock();
        progress.task = Task::Thaw;
        for state in &mut progress.each {
            if matches!(*state, State::Thawed(said) if !is_thawed(said)) {
                *state = State::Frozen;
            }
        }
        self.step = 1;
        self.returned = progress.returned;
        if self.threads.is_empty() {
            drop(self.shared.thaw_each(progress));
        } else {
            progress.permits = 1;
            self.shared.to_thaw.notify_one();
        }
    }

    /// Lets further threads continue with the rest if no call has returned since the last
    /// time, twice as many each time. Called at intervals while there is anything to thaw.
    pub(in super::super) fn escalate(&mut self) {
        let mut progress = self.shared.lock();
        if progress.returned != self.returned {
            self.returned = progress.returned;
            self.step = 1;
        } else if progress.each.contains(&State::Frozen) {
            progress.permits = self.step;
            self.step = self.step.saturating_mul(2);
            self.shared.to_thaw.notify_all();
        }
    }

    /// Returns which file system is being frozen, and for how long.
    pub(super) fn freezing(&self) -> Option<(usize, Duration)> {
        let freezing = self.shared.lock().freezing;
        freezing.map(|(index, since)| (index, since.elapsed()))
    }

    /// Returns whether no other one will be frozen.
    pub(super) fn freezing_done(&self) -> bool {
        self.shared.lock().freezing_done
    }

    /// Calls `look` with the state of each file system, except the one that is being frozen.
    pub(in super::super) fn each(&self, mut look: impl FnMut(usize, State)) {
        let progress = self.shared.lock();
        let freezing = progress.freezing.map(|(index, _)| index);
        for (index, state) in progress.each.iter().enumerate() {
            if Some(index) != freezing {
                look(index, *state);
            }
        }
    }

    /// Returns whether a call has not returned, or anything is to be thawed.
    pub(in super::super) fn is_busy(&self) -> bool {
        let progress = self.shared.lock();
        let to_thaw = |state: &State| matches!(state, State::Frozen | State::Thawing);
        progress.freezing.is_some() || progress.each.iter().any(to_thaw)
    }

    /// Returns whether a thaw has not begun.
    pub(super) fn any_pending(&self) -> bool {
        self.shared.lock().each.contains(&State::Frozen)
    }

    /// Returns whether all are thawed.
    pub(super) fn all_thawed(&self) -> bool {
        let failed = |state: &State| matches!(*state, State::Thawed(said) if !is_thawed(said));
        !self.is_busy() && !self.shared.lock().each.iter().any(failed)
    }

    /// Makes the descriptor unreadable until the next change.
    pub(in super::super) fn clear_event(&self) {
        // It fails only without an event.
        let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
    }
}

/// Readable after a change.
impl AsFd for ThreadPool {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

impl Drop for ThreadPool {
    /// Ends the threads, unless one hangs.
    fn drop(&mut self) {
        let mut progress = self.shared.lock();
        progress.task = Task::End;
        let hang = progress.freezing.is_some() || progress.each.contains(&State::Thawing);
        drop(progress);
        self.shared.to_freeze.notify_all();
        self.shared.to_thaw.notify_all();
        if !hang {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        // It fails only if the counter would overflow.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Runs the thread that freezes.
    fn freeze(&self) {
        let mut progress = self.lock();
        progress.started += 1;
        self.made.notify_all();
        while progress.task == Task::Wait {
            progress = self
                .to_freeze
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
        for (index, descriptor) in self.held.iter().enumerate() {
            if progress.task != Task::Freeze {
                break;
            }
            progress.freezing = Some((index, Instant::now()));
            drop(progress);
            let said = match self.calls.freeze(descriptor.as_fd()) {
                Err(Errno::IO) => Err(self.calls.dead(descriptor.as_fd()).unwrap_or(Errno::IO)),
                said => said,
            };
            progress = self.lock();
            let state = match said {
                // The freeze was aborted meanwhile, and no other thread thaws this one.
                Ok(()) if progress.task != Task::Freeze => {
                    drop(progress);
                    let said = self.calls.thaw(descriptor.as_fd());
                    progress = self.lock();
                    State::Thawed(said)
                }
                Ok(()) => State::Frozen,
                Err(errno) => State::Refused(errno),
            };
            if let Some(its) = progress.each.get_mut(index) {
                *its = state;
            }
            progress.freezing = None;
            if let Err(errno) = said {
                self.notify();
                if !is_skippable(errno) {
                    break;
                }
            }
        }
        progress.freezing_done = true;
        drop(progress);
        self.notify();
    }

    /// Runs a thread that thaws.
    fn thaw(&self) {
        let mut progress = self.lock();
        progress.started += 1;
        self.made.notify_all();
        loop {
            while progress.task != Task::End && progress.permits == 0 {
                progress = self
                    .to_thaw
                    .wait(progress)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if progress.task == Task::End {
                return;
            }
            progress.permits -= 1;
            progress = self.thaw_each(progress);
        }
    }

    /// Thaws what no other thread is thawing, from the last to the first.
    fn thaw_each<'a>(&'a self, mut progress: MutexGuard<'a, Progress>) -> MutexGuard<'a, Progress> {
        while progress.task == Task::Thaw {
            let frozen = progress.each.iter().rposition(|it| *it == State::Frozen);
            let Some((index, descriptor)) = frozen.and_then(|at| Some((at, self.held.get(at)?)))
            else {
                break;
            };
            if let Some(its) = progress.each.get_mut(index) {
                *its = State::Thawing;
            }
            drop(progress);
            let said = self.calls.thaw(descriptor.as_fd());
            progress = self.lock();
            if let Some(its) = progress.each.get_mut(index) {
                *its = State::Thawed(said);
            }
            progress.returned += 1;
        }
        self.notify();
        progress
    }
}
