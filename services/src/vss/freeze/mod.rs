//! Freezes and thaws through the guard: what the agent asks of it, and how long it waits.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};

pub use self::error::{FreezeError, NotThawed};
pub use self::outcome::{FreezeSummary, Skipped, ThawAttempt, ThawSummary};
use super::device_number::DeviceNumber;
use super::guard::threads::{self, Kernel, ThreadPool};
use super::guard::{Guard, GuardError, GuardEvent, GuardReport, GuardState};
use super::open::Opened;
use super::rcu_expedited;
use super::state_file::FrozenFileSystem;
use crate::retry::poll_until;
use crate::sys;
use crate::timeouts::{FREEZE, FREEZE_REPORT, THAW_BRIEF};

mod error;
mod outcome;

/// How long a thaw takes until the file system that it waits for is reported.
const PATIENCE: Duration = Duration::from_secs(2);

/// The limit of open files, if the machine allows it. With a much higher one some programs
/// that hooks start are slow, since they close every possible descriptor.
const FILES: u64 = 1 << 16;

/// Raises the limit of open files of this process, so that it can open many file systems.
/// Programs that it starts get the original limit.
///
/// # Errors
///
/// If the kernel refuses.
pub fn raise_file_limit() -> Result<(), Errno> {
    let mut files = getrlimit(Resource::Nofile);
    let wanted = files.maximum.map_or(FILES, |most| most.min(FILES));
    files.current = files.current.map(|current| current.max(wanted));
    setrlimit(Resource::Nofile, files)
}

/// Starts a guard.
pub type StartGuard = fn() -> Result<Guard, GuardError>;

/// Called with the mount point of a file system that takes long.
pub type OnWait<'a> = &'a mut dyn FnMut(Action, &Path);

/// What takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Freezing.
    Freeze,
    /// Thawing.
    Thaw,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        })
    }
}

/// Freezes and thaws file systems. Thaws them when dropped.
pub struct Freezer {
    start_guard: StartGuard,
    guard: Option<Guard>,
    /// The threads that thaw without a guard.
    own: Option<ThreadPool>,
    /// What is frozen or could not be thawed, in freeze order.
    held: Vec<Held>,
    descriptors: Arc<Vec<OwnedFd>>,
    /// Pairs of indices, of which the first is frozen before the second.
    order: Vec<(u32, u32)>,
    /// When the freeze began, until the thaw.
    since: Option<Instant>,
    /// Whether the process could dump core before the freeze. It must not while anything is
    /// frozen: it would write to a frozen file system, and the guard would wait for the end
    /// of a process that waits for the thaw.
    dumpable: Option<DumpableBehavior>,
}

struct Held {
    mount_point: PathBuf,
    device: DeviceNumber,
    state: State,
    /// The result of its thaw.
    thawed: Result<ThawOutcome, NotThawed>,
}

/// The state of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The guard froze it, or may have.
    Ours,
    /// Another program froze it.
    FrozenBefore,
    /// It cannot be frozen and need not be.
    Skipped(Errno),
}

/// What a thaw found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThawOutcome {
    Frozen,
    NotFrozen,
    /// It was not tried, since the guard did not freeze it.
    Untouched,
}

impl Freezer {
    /// Returns a freezer without a guard.
    pub fn new(start_guard: StartGuard) -> Self {
        Self {
            start_guard,
            guard: None,
            own: None,
            held: Vec::new(),
            descriptors: Arc::default(),
            order: Vec::new(),
            since: None,
            dumpable: None,
        }
    }

    /// Starts the guard for a freeze, which names it, unless one runs.
    ///
    /// # Errors
    ///
    /// If the guard cannot be started.
    pub fn prepare(&mut self) -> Result<(), GuardError> {
        self.ready_guard().map(drop)
    }

    fn ready_guard(&mut self) -> Result<&mut Guard, GuardError> {
        let well = self
            .guard
            .take_if(|guard| guard.state() != GuardState::Gone);
        let guard = match well {
            Some(guard) => guard,
            None => (self.start_guard)()?,
        };
        Ok(self.guard.insert(guard))
    }

    /// Returns whether a freeze is in effect.
    pub fn is_frozen(&self) -> bool {
        self.since.is_some()
    }

    /// Returns the process ID of the guard.
    pub fn guard_pid(&self) -> Option<u32> {
        self.guard.as_ref().and_then(Guard::pid)
    }

    /// Returns the guard while its reports have to be handled at once.
    pub fn watched(&self) -> Option<&Guard> {
        self.guard.as_ref().filter(|_| !self.held.is_empty())
    }

    /// Returns whether the guard still runs and keeps the freeze.
    pub fn guard_state(&mut self) -> GuardState {
        self.guard.as_mut().map_or(GuardState::Gone, Guard::state)
    }

    /// Thaws what an earlier freeze left frozen.
    ///
    /// # Errors
    ///
    /// [`FreezeError::Stuck`] if something stays frozen.
    pub fn thaw_stuck(&mut self, on_wait: OnWait<'_>) -> Result<(), FreezeError> {
        self.thaw(THAW_BRIEF, on_wait);
        match self.stuck().next() {
            None => Ok(()),
            Some((path, why)) => Err(FreezeError::Stuck { path, why }),
        }
    }

    /// Freezes `file_systems` in this order; the guard thaws them after `limit`. Freezes
    /// none if `stop` becomes readable before the last one is frozen, or if the first one
    /// cannot be frozen before `latest`.
    ///
    /// # Errors
    ///
    /// Any [`FreezeError`]. Nothing is frozen then but what [`Freezer::stuck`] returns.
    pub fn freeze(
        &mut self,
        file_systems: Vec<Opened>,
        limit: Duration,
        latest: Instant,
        stop: Option<BorrowedFd<'_>>,
        on_wait: OnWait<'_>,
    ) -> Result<FreezeSummary, FreezeError> {
        if self.since.is_some() {
            return Err(FreezeError::Frozen);
        }
        self.thaw_stuck(on_wait)?;
        self.take(file_systems);
        if let Err(error) = self.hand_over(limit) {
            self.release();
            return Err(error.into());
        }
        if latest < Instant::now() {
            self.release();
            return Err(FreezeError::TooLate);
        }
        self.dumpable = dumpable_behavior().ok();
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        let began = Instant::now();
        self.since = Some(began);
        if let Err(error) = self.freeze_by_guard(limit.min(FREEZE), stop, on_wait) {
            self.thaw(THAW_BRIEF, on_wait);
            return Err(error);
        }
        Ok(self.summary(began.elapsed()))
    }

    fn take(&mut self, file_systems: Vec<Opened>) {
        let indices: HashMap<_, _> = (0..)
            .zip(&file_systems)
            .map(|(i, it)| (it.device, i))
            .collect();
        let index = |device| indices.get(device).copied();
        let pairs = file_systems.iter().flat_map(|it| {
            let then = index(&it.device);
            it.after
                .iter()
                .filter_map(move |device| index(device).zip(then))
        });
        self.order = pairs.collect();
        let (held, descriptors) = file_systems
            .into_iter()
            .map(|opened| {
                let held = Held {
                    mount_point: opened.mount_point,
                    device: opened.device,
                    state: State::Ours,
                    thawed: Ok(ThawOutcome::Untouched),
                };
                (held, opened.fd)
            })
            .unzip();
        self.held = held;
        self.descriptors = Arc::new(descriptors);
    }

    /// Sends a copy of each descriptor to the guard.
    fn hand_over(&mut self, limit: Duration) -> Result<(), GuardError> {
        let descriptors = Arc::clone(&self.descriptors);
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let order = std::mem::take(&mut self.order);
        let mut handed_over = self.ready_guard()?.hold(&borrowed, &order, limit);
        if handed_over.is_err() {
            self.guard = None;
            handed_over = self.ready_guard()?.hold(&borrowed, &order, limit);
        }
        self.order = order;
        if handed_over.is_err() {
            self.guard = None;
        }
        handed_over
    }

    fn freeze_by_guard(
        &mut self,
        limit: Duration,
        stop: Option<BorrowedFd<'_>>,
        on_wait: OnWait<'_>,
    ) -> Result<(), FreezeError> {
        let Some(guard) = &mut self.guard else {
            return Err(FreezeError::GuardGone);
        };
        let deadline = Instant::now() + limit + FREEZE_REPORT;
        let mut waited_for = None;
        guard.freeze();
        loop {
            match guard.next(deadline, stop) {
                GuardEvent::Report(GuardReport::Frozen) => return Ok(()),
                GuardEvent::Report(GuardReport::Waiting(index)) => {
                    let held = self.held.get(index);
                    waited_for = held.map(|held| held.mount_point.clone());
                    held.inspect(|held| on_wait(Action::Freeze, &held.mount_point));
                }
                GuardEvent::Report(GuardReport::Refused(index, source)) => {
                    let Some(held) = self.held.get_mut(index) else {
                        continue;
                    };
                    held.state = match source {
                        Errno::BUSY => State::FrozenBefore,
                        _ => State::Skipped(source),
                    };
                    if !threads::is_skippable(source) {
                        // The others need not be waited for.
                        let path = held.mount_point.clone();
                        return Err(FreezeError::FileSystem { path, source });
                    }
                }
                GuardEvent::Report(GuardReport::TimeLimit(waits)) => {
                    let path = waits.and_then(|index| self.held.get(index));
                    let path = path.map(|held| held.mount_point.clone());
                    return Err(FreezeError::TooSlow { limit, path });
                }
                GuardEvent::Timeout => {
                    let path = waited_for;
                    return Err(FreezeError::TooSlow { limit, path });
                }
                GuardEvent::Report(_) => {}
                GuardEvent::Stopped => return Err(FreezeError::Stopped),
                GuardEvent::Gone => {
                    self.guard_is_gone(true);
                    return Err(FreezeError::GuardGone);
                }
            }
        }
    }

    /// Returns the mount points of file systems that cannot be thawed, and why.
    pub fn stuck(&self) -> impl Iterator<Item = (PathBuf, NotThawed)> {
        let failed = |held: &Held| Some((held.mount_point.clone(), held.thawed.err()?));
        self.held.iter().rev().filter_map(failed)
    }

    /// Returns the same file systems for the record, in freeze order.
    pub(super) fn not_thawed(&self) -> impl Iterator<Item = FrozenFileSystem> {
        let held = self.held.iter().filter(|held| held.thawed.is_err());
        held.map(Held::record)
    }

    /// Returns those that were stuck and that the guard has thawed meanwhile. Once all are
    /// thawed their descriptors are closed, so that they can be unmounted.
    pub(super) fn late_thaws(&mut self) -> Vec<FrozenFileSystem> {
        let mut thawed = Vec::new();
        if self.held.is_empty() {
            return thawed;
        }
        while let Some(guard) = &mut self.guard {
            let report = match guard.next(Instant::now(), None) {
                GuardEvent::Report(report) => report,
                GuardEvent::Timeout | GuardEvent::Stopped => break,
                GuardEvent::Gone => {
                    self.guard_is_gone(true);
                    break;
                }
            };
            let Some((index, Ok(was))) = thaw_outcome(report) else {
                continue;
            };
            let held = self.held.get_mut(index);
            if let Some(held) = held.filter(|held| held.thawed.is_err()) {
                held.thawed = Ok(was);
                thawed.push(held.record());
            }
        }
        if self.held.iter().all(|held| held.thawed.is_ok()) {
            self.release();
        }
        thawed
    }

    fn summary(&self, took: Duration) -> FreezeSummary {
        let paths = |state| {
            let its = self.held.iter().filter(move |held| held.state == state);
            its.map(|held| held.mount_point.clone())
        };
        let skipped = self.held.iter().filter_map(|held| match held.state {
            State::Skipped(errno) => Some(Skipped {
                mount_point: held.mount_point.clone(),
                errno,
            }),
            _ => None,
        });
        let locked = self.guard.as_ref().map_or(Ok(()), Guard::locked);
        FreezeSummary {
            frozen: paths(State::Ours).count(),
            frozen_before: paths(State::FrozenBefore).collect(),
            skipped: skipped.collect(),
            took,
            not_locked: locked.err(),
        }
    }

    /// Thaws what is frozen, in reverse order, and what could not be thawed before. Waits
    /// for at most `limit`; the guard keeps trying after that.
    pub fn thaw(&mut self, limit: Duration, on_wait: OnWait<'_>) -> ThawSummary {
        let mut outcome = ThawSummary::default();
        // A freeze of no file systems has to end, too.
        if self.held.is_empty() && self.since.is_none() {
            return outcome;
        }
        for held in &mut self.held {
            held.thawed = Err(NotThawed::Waiting);
        }
        let deadline = Instant::now() + limit;
        if !self.thaw_by_guard(deadline, on_wait) {
            self.guard_is_gone(false);
            self.thaw_without_guard(deadline, on_wait);
        }
        if let Some(since) = self.since.take() {
            outcome.after = since.elapsed();
        }
        if let Some(dumpable) = self.dumpable.take() {
            let _ = set_dumpable_behavior(dumpable);
        }
        for held in self.held.iter().rev() {
            match held.thawed {
                Ok(ThawOutcome::Frozen) => outcome.thawed += 1,
                Ok(ThawOutcome::NotFrozen) if held.state == State::Ours => {
                    outcome.early.push(held.mount_point.clone());
                }
                _ => {}
            }
        }
        if self.held.iter().all(|held| held.thawed.is_ok()) {
            self.release();
        }
        outcome
    }

    fn release(&mut self) {
        self.held.clear();
        self.descriptors = Arc::default();
        self.own = None;
        self.end_unused_guard();
    }

    /// Ends the guard if there is nothing to thaw: the next freeze starts another one, so
    /// that none takes memory between backups.
    pub(super) fn end_unused_guard(&mut self) {
        if let Some(guard) = self.guard.take_if(|_| self.held.is_empty()) {
            guard.end();
        }
    }

    /// Thaws through the guard, waiting until `deadline`. Returns whether there is a guard.
    fn thaw_by_guard(&mut self, deadline: Instant, on_wait: OnWait<'_>) -> bool {
        let Some(guard) = self.guard.as_mut().filter(|_| self.own.is_none()) else {
            return false;
        };
        guard.thaw();
        let mut left = self.held.len();
        let mut patience = Instant::now() + PATIENCE;
        while left > 0 {
            let report = match guard.next(deadline.min(patience), None) {
                GuardEvent::Report(report) => report,
                GuardEvent::Gone => return false,
                GuardEvent::Timeout | GuardEvent::Stopped => {
                    if deadline <= Instant::now() {
                        break;
                    }
                    patience = deadline;
                    let first = self.held.iter().rev().find(|held| held.is_waiting());
                    first.inspect(|held| on_wait(Action::Thaw, &held.mount_point));
                    continue;
                }
            };
            let Some((index, thawed)) = thaw_outcome(report) else {
                continue;
            };
            let held = self.held.get_mut(index);
            if let Some(held) = held.filter(|held| held.is_waiting()) {
                held.thawed = thawed;
                left -= 1;
            }
        }
        true
    }

    /// Thaws by threads of this process, waiting until `deadline`.
    fn thaw_without_guard(&mut self, deadline: Instant, on_wait: OnWait<'_>) {
        if self.own.is_none() {
            let index = |index| usize::try_from(index).unwrap_or(usize::MAX);
            let order = self
                .order
                .iter()
                .map(|&(first, then)| (index(first), index(then)));
            let order: Vec<_> = order.collect();
            let held = Arc::clone(&self.descriptors);
            let made = ThreadPool::new(held, &order, Arc::new(Kernel));
            if let Ok(own) = &made {
                let held = &self.held;
                let theirs = |held: &Held| held.state != State::Ours;
                own.assume_frozen(|index| held.get(index).is_some_and(theirs));
            }
            self.own = made.ok();
        }
        let Some(own) = &self.own else {
            return;
        };
        own.thaw();
        let mut patience = Instant::now() + PATIENCE;
        while own.is_busy() && Instant::now() < deadline {
            let mut news = [PollFd::new(own, PollFlags::IN)];
            let _ = poll_until(&mut news, Some(Instant::now() + own.check_interval()));
            own.clear_event();
            own.escalate();
            if patience <= Instant::now() {
                patience = deadline;
                let mut first = None;
                own.each(|index, state| {
                    if state == threads::State::Thawing {
                        first = Some(index);
                    }
                });
                let first = first.and_then(|index| self.held.get(index));
                first.inspect(|held| on_wait(Action::Thaw, &held.mount_point));
            }
        }
        let held = &mut self.held;
        own.each(|index, state| {
            if let Some(held) = held.get_mut(index) {
                held.thawed = match state {
                    threads::State::Untouched | threads::State::Refused(_) => {
                        Ok(ThawOutcome::Untouched)
                    }
                    threads::State::Freezing(_)
                    | threads::State::Frozen
                    | threads::State::Thawing => Err(NotThawed::Waiting),
                    threads::State::Thawed(said) => ThawOutcome::new(said),
                };
            }
        });
    }

    /// Cleans up after a guard that was killed; does not thaw.
    fn guard_is_gone(&mut self, freezing: bool) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        if guard.left_rcu_expedited() {
            // It was writable before.
            let _ = rcu_expedited::disable(Path::new(rcu_expedited::SWITCH));
        }
        if freezing {
            // A call of the guard that still hangs may freeze a file system after the
            // thaw.
            let descriptors = Arc::clone(&self.descriptors);
            let theirs = self.held.iter().map(|held| held.state != State::Ours);
            let theirs: Vec<_> = theirs.collect();
            guard.after_its_end(move || {
                for (descriptor, theirs) in descriptors.iter().zip(theirs) {
                    if !theirs {
                        let _ = sys::thaw(descriptor);
                    }
                }
            });
        }
    }

    /// Thaws what another program may have left frozen, in reverse order. What cannot be
    /// thawed is also in [`Freezer::stuck`].
    pub fn thaw_leftover(
        &mut self,
        found: Vec<Opened>,
        limit: Duration,
        on_wait: OnWait<'_>,
    ) -> Vec<ThawAttempt> {
        let attempt = |tried: FrozenFileSystem, outcome| ThawAttempt {
            device: tried.device,
            mount_point: tried.mount_point,
            outcome,
        };
        let all: Vec<_> = found.iter().rev().map(FrozenFileSystem::from).collect();
        let all = all.into_iter();
        self.thaw(limit, on_wait);
        if let Some((path, why)) = self.stuck().next() {
            let outcome = || Err(format!("{path:?} is still frozen: {why}"));
            return all.map(|it| attempt(it, outcome())).collect();
        }
        if found.is_empty() {
            return Vec::new();
        }
        self.take(found);
        // Without a guard the threads of this process thaw.
        let _ = self.hand_over(Duration::ZERO);
        let thawed = self.thaw(limit, on_wait);
        let tried = all.map(|it| {
            let held = self.held.iter().find(|held| held.device == it.device);
            let outcome = match held.map(|held| held.thawed) {
                Some(Err(why)) => Err(why.to_string()),
                Some(Ok(was)) => Ok(was == ThawOutcome::Frozen),
                None => Ok(!thawed.early.contains(&it.mount_point)),
            };
            attempt(it, outcome)
        });
        tried.collect()
    }
}

impl ThawOutcome {
    /// Returns what a `FITHAW` with this result found.
    fn new(said: Result<(), Errno>) -> Result<Self, NotThawed> {
        match said {
            Ok(()) => Ok(Self::Frozen),
            Err(Errno::INVAL) => Ok(Self::NotFrozen),
            Err(errno) => Err(NotThawed::Refused(errno)),
        }
    }
}

/// Returns the result of a thaw and the index of its file system, if that is reported.
fn thaw_outcome(report: GuardReport) -> Option<(usize, Result<ThawOutcome, NotThawed>)> {
    match report {
        GuardReport::Thawed(index, said) => Some((index, ThawOutcome::new(said))),
        GuardReport::Skipped(index) => Some((index, Ok(ThawOutcome::Untouched))),
        _ => None,
    }
}

impl Held {
    fn record(&self) -> FrozenFileSystem {
        FrozenFileSystem {
            device: self.device,
            mount_point: self.mount_point.clone(),
        }
    }

    fn is_waiting(&self) -> bool {
        self.thawed == Err(NotThawed::Waiting)
    }
}

impl Drop for Freezer {
    /// Thaws what is frozen. What is stuck is left to the guard.
    fn drop(&mut self) {
        if self.since.is_some() {
            self.thaw(THAW_BRIEF, &mut |_, _| ());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::LazyLock;
    use std::thread;

    use super::*;
    use crate::stop::Stop;
    use crate::vss::guard::fake::Fake;
    use crate::vss::guard::process::{self, Context};

    const LONG: Duration = Duration::from_secs(600);

    /// The file systems of all tests: each has files of its own.
    static FAKE: LazyLock<Arc<Fake>> = LazyLock::new(Arc::default);

    fn later() -> Instant {
        Instant::now() + LONG
    }

    /// A guard on a thread.
    fn start() -> Result<Guard, GuardError> {
        let (ours, its) = UnixStream::pair().unwrap();
        let context = Context {
            switch: "/nowhere".into(),
            calls: Arc::<Fake>::clone(&FAKE),
            own_process: false,
        };
        thread::spawn(move || process::serve(&its, None, context));
        Ok(Guard::at(ours).unwrap())
    }

    fn number(minor: u32) -> DeviceNumber {
        DeviceNumber { major: 8, minor }
    }

    /// File systems, of which each waits for the one before it, and descriptors of them that
    /// stay.
    fn file_systems(count: u32, directory: &Path) -> (Vec<Opened>, Vec<OwnedFd>) {
        let files = Fake::make(count as usize, directory);
        let opened = (0..count).zip(&files).map(|(minor, fd)| Opened {
            fd: fd.try_clone().unwrap(),
            mount_point: format!("/{minor}").into(),
            device: number(minor),
            after: minor.checked_sub(1).map(number).into_iter().collect(),
        });
        (opened.collect(), files)
    }

    fn nothing_waits(action: Action, path: &Path) {
        panic!("waits for {path:?} to {action}");
    }

    #[test]
    fn a_freeze_of_no_file_system_ends_with_its_thaw() {
        let mut freezer = Freezer::new(start);
        for _ in 0..2 {
            freezer
                .freeze(Vec::new(), LONG, later(), None, &mut nothing_waits)
                .unwrap();
            assert!(freezer.is_frozen());
            assert_eq!(freezer.thaw(THAW_BRIEF, &mut nothing_waits).thawed, 0);
            assert!(!freezer.is_frozen());
        }
    }

    #[test]
    fn one_that_hangs_in_its_freeze_is_named_and_refuses_another_freeze() {
        let directory = tempfile::tempdir().unwrap();
        let (opened, files) = file_systems(3, directory.path());
        FAKE.change(&files[1], |it| it.freeze_hangs = true);
        let mut freezer = Freezer::new(start);
        let mut waited = Vec::new();
        let error = freezer
            .freeze(
                opened,
                3 * PATIENCE / 2,
                later(),
                None,
                &mut |action, path| {
                    waited.push((action, path.to_owned()));
                },
            )
            .unwrap_err();
        let words = "freezing took longer than 3 s, all others are thawed again: the file system \
                     at \"/1\" waits for its disk, or for another one that was frozen before it; \
                     list it in [vss.exclude] to leave it out";
        assert_eq!(error.to_string(), words);
        let waits = [(Action::Freeze, "/1".into()), (Action::Thaw, "/1".into())];
        assert_eq!(waited, waits);
        assert_eq!(FAKE.frozen(&files), [false; 3]);
        assert!(!freezer.is_frozen());
        let stuck: Vec<_> = freezer.stuck().collect();
        assert_eq!(stuck, [("/1".into(), NotThawed::Waiting)]);
        let (again, _) = file_systems(1, directory.path());
        let error = freezer.freeze(again, LONG, later(), None, &mut |_, _| ());
        let Err(FreezeError::Stuck { path, why }) = error else {
            panic!("{error:?}");
        };
        assert_eq!((path, why), ("/1".into(), NotThawed::Waiting));
        // As soon as it goes on it is thawed, and all works.
        FAKE.change(&files[1], |it| it.freeze_hangs = false);
        freezer.thaw_stuck(&mut nothing_waits).unwrap();
        let (again, files) = file_systems(1, directory.path());
        let summary = freezer
            .freeze(again, LONG, later(), None, &mut nothing_waits)
            .unwrap();
        assert_eq!(summary.frozen, 1);
        assert_eq!(FAKE.frozen(&files), [true]);
        drop(freezer);
        assert_eq!(FAKE.frozen(&files), [false]);
    }

    #[test]
    fn one_that_cannot_be_frozen_ends_the_freeze_although_another_one_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let (mut opened, files) = file_systems(3, directory.path());
        opened.iter_mut().for_each(|it| it.after.clear());
        FAKE.change(&files[0], |it| it.freeze_hangs = true);
        FAKE.change(&files[2], |it| it.freeze_fails = Some(Errno::IO));
        let mut freezer = Freezer::new(start);
        let error = freezer.freeze(opened, LONG, later(), None, &mut |_, _| ());
        let Err(FreezeError::FileSystem { path, source }) = error else {
            panic!("{error:?}");
        };
        assert_eq!((path, source), ("/2".into(), Errno::IO));
        let stuck: Vec<_> = freezer.stuck().collect();
        assert_eq!(stuck, [("/0".into(), NotThawed::Waiting)]);
        assert_eq!(FAKE.frozen(&files), [false; 3]);
        FAKE.change(&files[0], |it| it.freeze_hangs = false);
        freezer.thaw_stuck(&mut nothing_waits).unwrap();
        assert_eq!(FAKE.frozen(&files), [false; 3]);
        // Another test may get a file with the same number.
        FAKE.change(&files[2], |it| it.freeze_fails = None);
    }

    #[test]
    fn one_that_hangs_in_its_thaw_is_named_when_the_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let (opened, files) = file_systems(3, directory.path());
        let mut freezer = Freezer::new(start);
        freezer
            .freeze(opened, LONG, later(), None, &mut nothing_waits)
            .unwrap();
        FAKE.change(&files[2], |it| it.thaw_hangs = true);
        let mut waited = Vec::new();
        let thawed = freezer.thaw(THAW_BRIEF, &mut |action, path| {
            waited.push((action, path.to_owned()));
        });
        assert_eq!(waited, [(Action::Thaw, PathBuf::from("/2"))]);
        assert_eq!(thawed.thawed, 2);
        assert_eq!(FAKE.frozen(&files), [false, false, true]);
        let stuck: Vec<_> = freezer.stuck().collect();
        assert_eq!(stuck, [("/2".into(), NotThawed::Waiting)]);
        let noted: Vec<_> = freezer.not_thawed().collect();
        assert_eq!(noted.len(), 1);
        assert_eq!(noted[0].mount_point, Path::new("/2"));
        FAKE.change(&files[2], |it| it.thaw_hangs = false);
        FAKE.wait_frozen(&files[2], false);
        let thawed = freezer.thaw(LONG, &mut nothing_waits);
        assert_eq!((thawed.thawed, thawed.early.len()), (3, 0));
    }

    #[test]
    fn an_agent_that_is_to_end_waits_for_no_freeze() {
        let directory = tempfile::tempdir().unwrap();
        let (opened, files) = file_systems(2, directory.path());
        FAKE.change(&files[1], |it| it.freeze_hangs = true);
        let stop = Stop::new().unwrap();
        stop.signal();
        let mut freezer = Freezer::new(start);
        let error = freezer.freeze(opened, LONG, later(), Some(stop.as_fd()), &mut |_, _| ());
        assert!(matches!(error, Err(FreezeError::Stopped)), "{error:?}");
        FAKE.wait_frozen(&files[0], false);
        FAKE.change(&files[1], |it| it.freeze_hangs = false);
    }

    #[test]
    fn what_is_found_frozen_is_thawed_and_what_hangs_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (opened, files) = file_systems(3, directory.path());
        for fd in &files[1..] {
            threads::FileSystemCalls::freeze(&**FAKE, fd.as_fd()).unwrap();
        }
        FAKE.change(&files[2], |it| it.thaw_hangs = true);
        let mut freezer = Freezer::new(start);
        let mut waited = 0;
        let tried = freezer.thaw_leftover(opened, THAW_BRIEF, &mut |_, _| waited += 1);
        let tried: Vec<_> = tried
            .into_iter()
            .map(|tried| (tried.mount_point, tried.outcome))
            .collect();
        let expected = [
            ("/2".into(), Err(NotThawed::Waiting.to_string())),
            ("/1".into(), Ok(true)),
            ("/0".into(), Ok(false)),
        ];
        assert_eq!(tried, expected);
        assert_eq!(waited, 1);
        // The guard goes on without the agent.
        drop(freezer);
        FAKE.change(&files[2], |it| it.thaw_hangs = false);
        FAKE.wait_frozen(&files[2], false);
    }
}
