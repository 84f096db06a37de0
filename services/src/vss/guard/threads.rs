//! The threads that freeze and thaw. They do nothing else, since a call may hang in the
//! kernel for as long as a disk or another file system does: `FITHAW` of a file system
//! waits for its own `FIFREEZE`, and that may wait for anything.
//!
//! They are started, with all the memory that they need, before anything is frozen. The
//! `Schedule` says which call a thread makes next. There is one for each file system, so
//! that those that hang leave threads for the rest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::schedule::{Call, Schedule};
pub(in super::super) use super::schedule::{State, is_skippable};
use crate::sys;

/// How many threads there are: so many calls may hang before the rest has to wait.
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

struct Shared {
    held: Arc<Vec<OwnedFd>>,
    calls: Arc<dyn FileSystemCalls>,
    schedule: Mutex<Schedule>,
    /// Wakes a thread that waits for a call to make.
    work: Condvar,
    /// How many threads have started.
    started: Mutex<usize>,
    /// Signals that a thread has started.
    made: Condvar,
    /// Readable after a change.
    event: OwnedFd,
}

/// File systems with the threads that freeze and thaw them.
pub(in super::super) struct ThreadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// Starts threads that freeze and thaw `held`, which are in freeze order. Of each pair in
    /// `order` the first is frozen before the second, by their indices. If no thread can be
    /// started, [`ThreadPool::thaw`] thaws by itself.
    ///
    /// # Errors
    ///
    /// If the process has no descriptor left.
    pub(in super::super) fn new(
        held: Arc<Vec<OwnedFd>>,
        order: &[(usize, usize)],
        calls: Arc<dyn FileSystemCalls>,
    ) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wanted = held.len().min(MAX_THREADS);
        let mut pool = Self {
            threads: Vec::with_capacity(wanted),
            shared: Arc::new(Shared {
                schedule: Mutex::new(Schedule::new(held.len(), order)),
                held,
                calls,
                work: Condvar::new(),
                started: Mutex::new(0),
                made: Condvar::new(),
                event,
            }),
        };
        for _ in 0..wanted {
            if pool.start().is_err() {
                break;
            }
        }
        pool.shared.lock().set_threads(pool.threads.len());
        Ok(pool)
    }

    /// Returns whether there are threads enough to freeze: if one hangs, another one thaws.
    pub(super) fn can_freeze(&self) -> bool {
        self.threads.len() >= self.shared.held.len().min(2)
    }

    /// Starts a thread, and waits until it runs.
    fn start(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.threads.push(
            thread::Builder::new()
                .name("hyperv-guard".to_owned())
                .stack_size(STACK)
                .spawn(move || shared.work())?,
        );
        let starts = |started: &mut usize| *started < self.threads.len();
        let started = lock(&self.shared.started);
        drop(self.shared.made.wait_while(started, starts));
        Ok(())
    }

    /// Begins to freeze all.
    pub(super) fn freeze(&self) {
        self.shared.lock().freeze();
        self.shared.work.notify_one();
    }

    /// Assumes that all are frozen that these threads have not tried to freeze, except those
    /// that `but` names.
    pub(in super::super) fn assume_frozen(&self, but: impl Fn(usize) -> bool) {
        self.shared.lock().assume_frozen(but);
    }

    /// Stops freezing, and begins to thaw all that are frozen. Retries failed thaws.
    pub(in super::super) fn thaw(&self) {
        let mut schedule = self.shared.lock();
        schedule.thaw();
        match self.threads.is_empty() {
            true => drop(self.shared.call_all(schedule)),
            false => self.shared.work.notify_one(),
        }
    }

    /// Lets further threads continue with the rest if no call has returned since the last
    /// time. Called at intervals while there is anything to thaw.
    pub(in super::super) fn escalate(&self) {
        self.shared.lock().escalate();
        self.shared.work.notify_one();
    }

    /// Returns how long to wait until the next [`ThreadPool::escalate`].
    pub(in super::super) fn check_interval(&self) -> Duration {
        self.shared.lock().check_interval()
    }

    /// Calls `look` with the index of each file system that is being frozen, and for how long
    /// it has been.
    pub(super) fn each_freezing(&self, look: impl FnMut((usize, Duration))) {
        self.shared.lock().freezing().for_each(look);
    }

    /// Returns which file system has been in its freeze for the longest, and for how long.
    pub(super) fn longest_freezing(&self) -> Option<(usize, Duration)> {
        let schedule = self.shared.lock();
        schedule.freezing().max_by_key(|(_, took)| *took)
    }

    /// Returns whether no other one will be frozen.
    pub(super) fn freezing_done(&self) -> bool {
        self.shared.lock().is_frozen()
    }

    /// Calls `look` with the state of each file system.
    pub(in super::super) fn each(&self, mut look: impl FnMut(usize, State)) {
        for (index, state) in self.shared.lock().states() {
            look(index, state);
        }
    }

    /// Returns whether a call has not returned, or anything is to be thawed.
    pub(in super::super) fn is_busy(&self) -> bool {
        let schedule = self.shared.lock();
        schedule.is_calling() || schedule.any_pending()
    }

    /// Returns whether a thaw has not begun.
    pub(super) fn any_pending(&self) -> bool {
        self.shared.lock().any_pending()
    }

    /// Returns whether all are thawed.
    pub(super) fn all_thawed(&self) -> bool {
        self.shared.lock().all_thawed()
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
        let mut schedule = self.shared.lock();
        schedule.end();
        let hang = schedule.is_calling();
        drop(schedule);
        self.shared.work.notify_all();
        if !hang {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Schedule> {
        lock(&self.schedule)
    }

    fn notify(&self) {
        // It fails only if the counter would overflow.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Runs a thread.
    fn work(&self) {
        *lock(&self.started) += 1;
        self.made.notify_all();
        let mut schedule = self.lock();
        while !schedule.has_ended() {
            schedule = self.call_all(schedule);
            if !schedule.has_ended() {
                let waited = self.work.wait(schedule);
                schedule = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Makes calls as long as there are any to make. If there are several, another thread is
    /// woken, which does the same.
    fn call_all<'a>(&'a self, mut schedule: MutexGuard<'a, Schedule>) -> MutexGuard<'a, Schedule> {
        let mut next = schedule.next();
        let mut called = false;
        while let Some(call) = next {
            called = true;
            schedule.begin(call);
            if schedule.next().is_some() {
                self.work.notify_one();
            }
            drop(schedule);
            let said = self.call(call);
            schedule = self.lock();
            next = schedule.ended(call, said).or_else(|| schedule.next());
            if said.is_err() {
                self.notify();
            }
        }
        if called {
            self.notify();
        }
        schedule
    }

    fn call(&self, call: Call) -> Result<(), Errno> {
        let (Call::Freeze(index) | Call::Thaw(index)) = call;
        let descriptor = self.held.get(index).ok_or(Errno::BADF)?.as_fd();
        match call {
            Call::Thaw(_) => self.calls.thaw(descriptor),
            Call::Freeze(_) => match self.calls.freeze(descriptor) {
                Err(Errno::IO) => Err(self.calls.dead(descriptor).unwrap_or(Errno::IO)),
                said => said,
            },
        }
    }
}
