//! The threads that freeze and thaw. Each call is made by a thread that has
//! nothing else to do, since the kernel may not return from it for as long as a
//! disk or another file system stands still: `FITHAW` of a file system waits for
//! its own `FIFREEZE`, and that for whatever it likes.
//!
//! They are there, with all the memory that they need, before anything is frozen.
//! One freezes, in order. Of those that thaw one is at work, from the last file
//! system to the first; where it does not come back, further ones go on with the
//! rest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::sys;

/// Threads that thaw: so many calls may hang before the rest has to wait.
const MOST: usize = 256;

/// Bytes of a thread's stack. All of it is locked in memory.
const STACK: usize = 32 << 10;

/// What the kernel is asked for.
pub trait FileSystemCalls: Send + Sync {
    /// Freezes the file system that `fd` is on.
    ///
    /// # Errors
    ///
    /// As [`sys::freeze`].
    fn freeze(&self, fd: BorrowedFd<'_>) -> Result<(), Errno>;

    /// Thaws it.
    ///
    /// # Errors
    ///
    /// As [`sys::thaw`].
    fn thaw(&self, fd: BorrowedFd<'_>) -> Result<(), Errno>;

    /// Why nothing is written to it any more, if that is so: `ESHUTDOWN` where it was
    /// shut down, `EROFS` where the kernel made it read-only after an error.
    fn dead(&self, fd: BorrowedFd<'_>) -> Option<Errno>;
}

/// The kernel itself.
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
        // XFS opens nothing any more. Others fail in whatever they are asked to
        // write; an error of an earlier write is told once only.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if shut(rustix::fs::openat(fd, c".", flags, Mode::empty()).map(drop))
            || (shut(rustix::fs::fsync(fd)) && shut(rustix::fs::fsync(fd)))
        {
            return Some(Errno::SHUTDOWN);
        }
        // Kernels before 6.15 show nowhere that they made an ext4 read-only. It has
        // no room for a file without a name then, although it is mounted to be written.
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

/// How a file system stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum State {
    /// Nothing was done to it.
    Untouched,
    /// `FIFREEZE` gave this error. `ESHUTDOWN` stands for any of a file system
    /// that was shut down.
    Refused(Errno),
    /// It is to be thawed.
    Frozen,
    /// A thread is at it.
    Thawing,
    /// What `FITHAW` said.
    Thawed(Result<(), Errno>),
}

/// What a `FITHAW` said that leaves nothing to be done: it was frozen, or it was
/// not.
pub(in super::super) fn is_thawed(said: Result<(), Errno>) -> bool {
    matches!(said, Ok(()) | Err(Errno::INVAL))
}

/// Whether the others are frozen although one could not be, which it cannot
/// (`EOPNOTSUPP`), need not (`EBUSY`: somebody else has frozen it), or to which
/// nobody writes any more (`EROFS`: the kernel made it read-only after an error).
pub(in super::super) fn goes_on(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::BUSY | Errno::OPNOTSUPP | Errno::ROFS | Errno::SHUTDOWN
    )
}

/// What the threads do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Wait,
    Freeze,
    Thaw,
    End,
}

struct Progress {
    task: Task,
    /// How each file system stands.
    each: Vec<State>,
    /// Which one is being frozen, and since when.
    freezing: Option<(usize, Instant)>,
    /// No other one is going to be frozen.
    freezing_over: bool,
    /// How many more threads may begin to thaw.
    granted: usize,
    /// How often the kernel came back from a thaw.
    returned: u64,
    /// Threads that are there.
    started: usize,
}

struct Shared {
    held: Arc<Vec<OwnedFd>>,
    calls: Arc<dyn FileSystemCalls>,
    progress: Mutex<Progress>,
    /// The thread that freezes waits for its task.
    to_freeze: Condvar,
    /// The others for theirs.
    to_thaw: Condvar,
    /// Whoever makes the threads for them.
    made: Condvar,
    /// Readable when there is something to look at.
    news: OwnedFd,
}

/// File systems, and the threads that freeze and thaw them.
pub(in super::super) struct ThreadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// How often the kernel had come back when it was looked at last.
    returned: u64,
    /// How many threads are to be let go on next.
    step: usize,
}

impl ThreadPool {
    /// Makes threads that thaw `held`, which are in the order in which they are
    /// frozen. Where there are no threads to be had, who asks for the thaw thaws.
    ///
    /// # Errors
    ///
    /// Where the process has no descriptor left.
    pub(in super::super) fn new(
        held: Arc<Vec<OwnedFd>>,
        calls: Arc<dyn FileSystemCalls>,
    ) -> io::Result<Self> {
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let progress = Progress {
            task: Task::Wait,
            each: vec![State::Untouched; held.len()],
            freezing: None,
            freezing_over: false,
            granted: 0,
            returned: 0,
            started: 0,
        };
        let mut threads = Self {
            threads: Vec::with_capacity(held.len().min(MOST) + 1),
            shared: Arc::new(Shared {
                held,
                calls,
                progress: Mutex::new(progress),
                to_freeze: Condvar::new(),
                to_thaw: Condvar::new(),
                made: Condvar::new(),
                news,
            }),
            returned: 0,
            step: 1,
        };
        for _ in 0..threads.shared.held.len().min(MOST) {
            if threads.start(Shared::thaw).is_err() {
                break;
            }
        }
        Ok(threads)
    }

    /// Makes the thread that freezes.
    ///
    /// # Errors
    ///
    /// Where there is none to be had.
    pub(super) fn add_freezing(&mut self) -> io::Result<()> {
        self.start(Shared::freeze)
    }

    /// Starts a thread, and waits until it has all that it needs.
    fn start(&mut self, work: fn(&Shared)) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.threads.push(
            thread::Builder::new()
                .name("hyperv-guard".to_owned())
                .stack_size(STACK)
                .spawn(move || work(&shared))?,
        );
        let mut progress = self.shared.lock();
        while progress.started < self.threads.len() {
            progress = self
                .shared
                .made
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Freezes all, one after the other.
    pub(super) fn freeze(&self) {
        let mut progress = self.shared.lock();
        if progress.task == Task::Wait {
            progress.task = Task::Freeze;
            self.shared.to_freeze.notify_all();
        }
    }

    /// Takes all for frozen that these threads have not tried to freeze, but those
    /// of which `but` says that somebody else has.
    pub(in super::super) fn take_for_frozen(&self, but: impl Fn(usize) -> bool) {
        let mut progress = self.shared.lock();
        for (index, state) in progress.each.iter_mut().enumerate() {
            if *state == State::Untouched && !but(index) {
                *state = State::Frozen;
            }
        }
    }

    /// Freezes no more, and thaws all that is frozen; what could not be thawed
    /// before is tried again.
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
            progress.granted = 1;
            self.shared.to_thaw.notify_one();
        }
    }

    /// To be called again and again while there is anything to thaw: where the
    /// kernel has not come back since the last time, others go on with the rest, at
    /// each time twice as many.
    pub(in super::super) fn go_on(&mut self) {
        let mut progress = self.shared.lock();
        if progress.returned != self.returned {
            self.returned = progress.returned;
            self.step = 1;
        } else if progress.each.contains(&State::Frozen) {
            progress.granted = self.step;
            self.step = self.step.saturating_mul(2);
            self.shared.to_thaw.notify_all();
        }
    }

    /// Which file system is being frozen, and for how long.
    pub(super) fn freezing(&self) -> Option<(usize, Duration)> {
        let freezing = self.shared.lock().freezing;
        freezing.map(|(index, since)| (index, since.elapsed()))
    }

    /// Whether no other one is going to be frozen.
    pub(super) fn freezing_over(&self) -> bool {
        self.shared.lock().freezing_over
    }

    /// Hands each file system's state to `look`, but of the one that is being
    /// frozen.
    pub(in super::super) fn each(&self, mut look: impl FnMut(usize, State)) {
        let progress = self.shared.lock();
        let freezing = progress.freezing.map(|(index, _)| index);
        for (index, state) in progress.each.iter().enumerate() {
            if Some(index) != freezing {
                look(index, *state);
            }
        }
    }

    /// Whether the kernel has yet to come back from anything, or be asked to thaw.
    pub(in super::super) fn at_work(&self) -> bool {
        let progress = self.shared.lock();
        progress.freezing.is_some() || progress.each.iter().any(|state| state.is_to_thaw())
    }

    /// Whether one has yet to be tried.
    pub(super) fn any_to_try(&self) -> bool {
        self.shared.lock().each.contains(&State::Frozen)
    }

    /// Whether all is thawed.
    pub(super) fn all_thawed(&self) -> bool {
        let failed = |state: &State| matches!(*state, State::Thawed(said) if !is_thawed(said));
        !self.at_work() && !self.shared.lock().each.iter().any(failed)
    }

    /// Takes note of the news.
    pub(in super::super) fn clear_news(&self) {
        // It fails only where there are none.
        let _ = rustix::io::read(&self.shared.news, &mut [0; 8]);
    }
}

impl State {
    fn is_to_thaw(self) -> bool {
        matches!(self, Self::Frozen | Self::Thawing)
    }
}

/// Readable when there is something to look at.
impl AsFd for ThreadPool {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.news.as_fd()
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").finish_non_exhaustive()
    }
}

impl Drop for ThreadPool {
    /// Those that the kernel does not come back to are left to themselves.
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

    fn tell_news(&self) {
        // It fails only where it was told more often than a number can count.
        let _ = rustix::io::write(&self.news, &1u64.to_ne_bytes());
    }

    /// What the thread does that freezes.
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
                // It was given up meanwhile, and nobody else thaws this one.
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
                self.tell_news();
                if !goes_on(errno) {
                    break;
                }
            }
        }
        progress.freezing_over = true;
        drop(progress);
        self.tell_news();
    }

    /// What each of the others does.
    fn thaw(&self) {
        let mut progress = self.lock();
        progress.started += 1;
        self.made.notify_all();
        loop {
            while progress.task != Task::End && progress.granted == 0 {
                progress = self
                    .to_thaw
                    .wait(progress)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if progress.task == Task::End {
                return;
            }
            progress.granted -= 1;
            progress = self.thaw_each(progress);
        }
    }

    /// Thaws what no other thread is at, from the last to the first.
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
        self.tell_news();
        progress
    }
}
