//! Freezing and thawing: one call for each file system, and nothing else in
//! between that could wait for one.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

use super::guard::{Guard, GuardError, News};
use super::haste::{self, Haste};
use super::open::Opened;
use crate::kernel;

/// How long freezing may take: it can wait for a file system that is frozen
/// already, in ways that the plan knows nothing of.
pub(super) const FREEZING: Duration = Duration::from_secs(60);

/// Starts a guard.
pub type StartGuard = fn() -> Result<Guard, GuardError>;

/// What freezes and thaws. File systems that are frozen when it is dropped are
/// thawed.
pub struct Freezer {
    start_guard: StartGuard,
    guard: Option<Guard>,
    frozen: Option<Frozen>,
    /// What could not be thawed, in the order in which that was tried.
    stuck: Vec<Held>,
}

/// What is frozen.
struct Frozen {
    /// In the order in which they were frozen.
    held: Vec<Held>,
    /// How long it took, from the first to the last.
    took: Duration,
    since: Instant,
    /// Whether the process could leave a core dump, which it must not now: that
    /// would be written to a frozen file system, with the guard waiting for the
    /// end of a process that waits for its thaw.
    dumpable: DumpableBehavior,
}

struct Held {
    opened: Opened,
    state: State,
    /// What the kernel said to the thaw.
    thawed: Result<(), Errno>,
}

/// What a file system is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    Frozen,
    /// By somebody else.
    FrozenBefore,
    CannotFreeze,
}

/// Why nothing is frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// Nobody would thaw if the agent went away.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// One file system refused.
    #[error(
        "cannot freeze the file system at {path:?}{}, all others are thawed again",
        hint(*source)
    )]
    FileSystem {
        /// Where it is mounted.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The time was over before the last one was frozen.
    #[error(
        "freezing took longer than {} s, all is thawed again: a file system waits for its disk, or \
         for another one that was frozen before it and can be named in [vss.exclude]",
        .0.as_secs()
    )]
    TooSlow(Duration),
    /// There was no time left to begin.
    #[error(
        "it took too long until file systems could be frozen, and nothing is frozen; see          prepare-limit in hyperv-agent.toml(5)"
    )]
    TooLate,
    /// What an earlier freeze has left is still frozen.
    #[error(
        "the file system at {path:?} is frozen since an earlier backup and cannot be thawed{}",
        hint(*source)
    )]
    Stuck {
        /// Where it is mounted.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The guard has ended meanwhile.
    #[error("the guard process ended during the freeze, all is thawed again")]
    GuardGone,
    /// All that was to be frozen is frozen already.
    #[error("the file systems are frozen already")]
    Frozen,
}

/// What helps, where that is known.
pub(super) fn hint(source: Errno) -> &'static str {
    match source {
        Errno::PERM | Errno::ACCESS => " (that takes root, with the capability CAP_SYS_ADMIN)",
        Errno::IO => " (see what the kernel says of its disk; [vss.exclude] leaves it out)",
        _ => "",
    }
}

/// What a freeze came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many file systems are frozen by this freeze.
    pub frozen: usize,
    /// Where those are mounted that somebody else had frozen before.
    pub frozen_before: Vec<PathBuf>,
    /// Where those are mounted that cannot be frozen, and are not.
    pub cannot_freeze: Vec<PathBuf>,
    /// From the first freeze to the last.
    pub took: Duration,
}

/// What a thaw came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thawed {
    /// Where those are mounted that were thawed before by somebody else: what
    /// was backed up may be inconsistent.
    pub early: Vec<PathBuf>,
    /// How many were thawed.
    pub thawed: usize,
    /// How long they were frozen.
    pub after: Duration,
}

impl Freezer {
    /// A freezer that has no guard yet.
    pub fn new(start_guard: StartGuard) -> Self {
        Self {
            start_guard,
            guard: None,
            frozen: None,
            stuck: Vec::new(),
        }
    }

    /// Has a guard at hand: starts one where there is none, or none any more.
    ///
    /// # Errors
    ///
    /// Where none can be started.
    pub fn prepare(&mut self) -> Result<(), GuardError> {
        self.ready_guard().map(drop)
    }

    fn ready_guard(&mut self) -> Result<&mut Guard, GuardError> {
        let well = self.guard.take_if(|guard| guard.news() != News::Gone);
        let guard = match well {
            Some(guard) => guard,
            None => (self.start_guard)()?,
        };
        Ok(self.guard.insert(guard))
    }

    /// Whether anything is to be thawed.
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// The guard, while it matters at once that it is gone or has thawed.
    pub fn watched(&self) -> Option<&Guard> {
        self.frozen.as_ref().and(self.guard.as_ref())
    }

    /// What the guard has to say.
    pub fn news(&mut self) -> News {
        self.guard.as_mut().map_or(News::Gone, Guard::news)
    }

    /// Freezes `file_systems` in this order; after `limit` they are thawed by
    /// the guard. The first is not frozen later than at `latest`: whoever asked
    /// has given up then.
    ///
    /// # Errors
    ///
    /// Any [`FreezeError`]; nothing is frozen then.
    pub fn freeze(
        &mut self,
        file_systems: Vec<Opened>,
        limit: Duration,
        latest: Instant,
    ) -> Result<Summary, FreezeError> {
        if self.frozen.is_some() {
            return Err(FreezeError::Frozen);
        }
        self.thaw();
        if let Some((path, source)) = self.stuck().next() {
            return Err(FreezeError::Stuck { path, source });
        }
        let descriptors: Vec<_> = file_systems
            .iter()
            .map(|opened| opened.fd.as_fd())
            .collect();
        let mut handed_over = self.ready_guard()?.hold(&descriptors, limit);
        if handed_over.is_err() {
            self.guard = None;
            handed_over = self.ready_guard()?.hold(&descriptors, limit);
        }
        handed_over?;
        if Instant::now() > latest {
            if let Some(guard) = &mut self.guard {
                guard.release();
            }
            return Err(FreezeError::TooLate);
        }
        let untouched = |opened| Held {
            opened,
            state: State::Untouched,
            thawed: Ok(()),
        };
        let frozen = self.frozen.insert(Frozen {
            held: file_systems.into_iter().map(untouched).collect(),
            took: Duration::ZERO,
            since: Instant::now(),
            dumpable: dumpable_behavior().unwrap_or(DumpableBehavior::NotDumpable),
        });
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        let haste = Haste::begin(Path::new(haste::SWITCH), || {
            if let Some(guard) = &mut self.guard {
                guard.hurried();
            }
        });
        let mut refused = None;
        for (index, held) in frozen.held.iter_mut().enumerate() {
            // The guard has thawed those before.
            if frozen.since.elapsed() >= FREEZING {
                refused = Some(FreezeError::TooSlow(limit.min(FREEZING)));
                break;
            }
            match kernel::freeze(&held.opened.fd) {
                Ok(()) => held.state = State::Frozen,
                Err(Errno::BUSY) => {
                    held.state = State::FrozenBefore;
                    if let Some(guard) = &mut self.guard {
                        guard.not_ours(index);
                    }
                }
                Err(Errno::OPNOTSUPP) => held.state = State::CannotFreeze,
                Err(source) => {
                    let path = held.path();
                    refused = Some(FreezeError::FileSystem { path, source });
                    break;
                }
            }
        }
        frozen.took = frozen.since.elapsed();
        drop(haste);
        if let Some(guard) = &mut self.guard {
            guard.done();
        }
        let refused = refused.or_else(|| match self.news() {
            News::None => None,
            News::TimeLimit => Some(FreezeError::TooSlow(limit.min(FREEZING))),
            News::Gone => Some(FreezeError::GuardGone),
        });
        match refused {
            None => Ok(self.summary()),
            Some(error) => {
                self.thaw();
                Err(error)
            }
        }
    }

    /// Where those file systems are mounted that could not be thawed, and what the
    /// kernel said.
    pub fn stuck(&self) -> impl Iterator<Item = (PathBuf, Errno)> {
        let failed = |held: &Held| Some((held.path(), held.thawed.err()?));
        self.stuck.iter().filter_map(failed)
    }

    fn summary(&self) -> Summary {
        let held = || self.frozen.iter().flat_map(|frozen| &frozen.held);
        let paths = |state| {
            held()
                .filter(move |held| held.state == state)
                .map(Held::path)
        };
        Summary {
            frozen: paths(State::Frozen).count(),
            frozen_before: paths(State::FrozenBefore).collect(),
            cannot_freeze: paths(State::CannotFreeze).collect(),
            took: self.frozen.as_ref().map_or(Duration::ZERO, |it| it.took),
        }
    }

    /// Thaws what is frozen, in the reverse order, and what could not be thawed
    /// before. Without anything frozen there is nothing to do.
    pub fn thaw(&mut self) -> Thawed {
        let mut outcome = Thawed::default();
        // Nothing is taken or put down before the last is thawed: both may take
        // memory.
        let mut frozen = self.frozen.take();
        let its = frozen.iter_mut().flat_map(|frozen| &mut frozen.held).rev();
        for held in self.stuck.iter_mut().chain(its) {
            if held.state == State::Frozen {
                held.thawed = kernel::thaw(&held.opened.fd);
            }
        }
        let mut all = std::mem::take(&mut self.stuck);
        if let Some(frozen) = frozen {
            outcome.after = frozen.since.elapsed();
            let _ = set_dumpable_behavior(frozen.dumpable);
            all.extend(frozen.held.into_iter().rev());
        }
        for held in all {
            match held.thawed {
                _ if held.state != State::Frozen => {}
                Ok(()) => outcome.thawed += 1,
                Err(Errno::INVAL) => outcome.early.push(held.path()),
                Err(_) => self.stuck.push(held),
            }
        }
        // Where something could not be thawed, the guard tries on.
        if self.stuck.is_empty()
            && let Some(guard) = &mut self.guard
        {
            guard.release();
        }
        outcome
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
    }
}

impl Held {
    fn path(&self) -> PathBuf {
        self.opened.mount_point.clone()
    }
}
