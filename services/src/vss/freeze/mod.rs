//! Freezing and thawing, by the guard: what the agent asks of it, what it waits
//! for, and for how long.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};

pub use self::error::{FreezeError, NotThawed};
pub use self::outcome::{FreezeSummary, Skipped, ThawAttempt, Thawed};
use super::device_number::DeviceNumber;
use super::guard::threads::{self, Kernel, ThreadPool};
use super::guard::{Guard, GuardError, GuardEvent, GuardState, Report};
use super::open::Opened;
use super::rcu_expedited;
use super::state_file::FrozenFileSystem;
use crate::sys;
use crate::timeouts::{FREEZE, FREEZE_REPORT, THAW_BRIEF};

mod error;
mod outcome;

/// How long it may take before it is said which file system is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked how far this process' own threads are.
const LOOK: Duration = Duration::from_millis(100);

/// How many files may be open, if the machine allows it. With many more, some
/// programs that a hook may start take their time closing all that could be.
const FILES: u64 = 1 << 16;

/// Lets this process have a descriptor of each of many file systems; no program that it
/// starts.
///
/// # Errors
///
/// Where the kernel refuses it.
pub fn raise_file_limit() -> Result<(), Errno> {
    let mut files = getrlimit(Resource::Nofile);
    let wanted = files.maximum.map_or(FILES, |most| most.min(FILES));
    files.current = files.current.map(|current| current.max(wanted));
    setrlimit(Resource::Nofile, files)
}

/// Starts a guard.
pub type StartGuard = fn() -> Result<Guard, GuardError>;

/// Says which file system is waited for, by the place where it is mounted.
pub type OnWait<'a> = &'a mut dyn FnMut(Action, &Path);

/// What a file system is waited for to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To freeze.
    Freeze,
    /// To thaw.
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

/// What freezes and thaws. File systems that are frozen when it is dropped are
/// thawed.
pub struct Freezer {
    start_guard: StartGuard,
    guard: Option<Guard>,
    /// What thaws where the guard is gone.
    own: Option<ThreadPool>,
    /// What is frozen or could not be thawed, in the order in which it was frozen.
    held: Vec<Held>,
    descriptors: Arc<Vec<OwnedFd>>,
    /// Since when it is frozen, until it is to be thawed.
    since: Option<Instant>,
    /// Whether the process could leave a core dump, which it must not while
    /// anything is frozen: that would be written to a frozen file system, with the
    /// guard waiting for the end of a process that waits for its thaw.
    dumpable: Option<DumpableBehavior>,
}

struct Held {
    mount_point: PathBuf,
    device: DeviceNumber,
    state: State,
    /// What came of its thaw.
    thawed: Result<Was, NotThawed>,
}

/// What a file system is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is frozen, or may be.
    Ours,
    /// By somebody else.
    FrozenBefore,
    /// It could not be frozen, and is not.
    Skipped(Errno),
}

/// What a file system was that is not frozen any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Was {
    Frozen,
    NotFrozen,
    /// Nothing was done to it.
    Untouched,
}

impl Freezer {
    /// A freezer that has no guard yet.
    pub fn new(start_guard: StartGuard) -> Self {
        Self {
            start_guard,
            guard: None,
            own: None,
            held: Vec::new(),
            descriptors: Arc::default(),
            since: None,
            dumpable: None,
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
        let well = self
            .guard
            .take_if(|guard| guard.state() != GuardState::Gone);
        let guard = match well {
            Some(guard) => guard,
            None => (self.start_guard)()?,
        };
        Ok(self.guard.insert(guard))
    }

    /// Whether anything is to be thawed.
    pub fn is_frozen(&self) -> bool {
        self.since.is_some()
    }

    /// The number of the guard's process.
    pub fn guard_pid(&self) -> Option<u32> {
        self.guard.as_ref().and_then(Guard::process)
    }

    /// The guard, while it matters at once that it is gone or has thawed.
    pub fn watched(&self) -> Option<&Guard> {
        self.guard.as_ref().filter(|_| !self.held.is_empty())
    }

    /// What the guard has to say.
    pub fn guard_state(&mut self) -> GuardState {
        self.guard.as_mut().map_or(GuardState::Gone, Guard::state)
    }

    /// Thaws what an earlier freeze has left.
    ///
    /// # Errors
    ///
    /// [`FreezeError::Stuck`] where something stays frozen.
    pub fn thaw_stuck(&mut self, waits: OnWait<'_>) -> Result<(), FreezeError> {
        self.thaw(THAW_BRIEF, waits);
        match self.stuck().next() {
            None => Ok(()),
            Some((path, why)) => Err(FreezeError::Stuck { path, why }),
        }
    }

    /// Freezes `file_systems` in this order, or none where `stop` is readable before
    /// the last of them is frozen; after `limit` they are thawed by the guard. The
    /// first is not frozen later than at `latest`: whoever asked has given up then.
    ///
    /// # Errors
    ///
    /// Any [`FreezeError`]; nothing is frozen then, but what [`Freezer::stuck`]
    /// tells.
    pub fn freeze(
        &mut self,
        file_systems: Vec<Opened>,
        limit: Duration,
        latest: Instant,
        stop: Option<BorrowedFd<'_>>,
        waits: OnWait<'_>,
    ) -> Result<FreezeSummary, FreezeError> {
        if self.since.is_some() {
            return Err(FreezeError::Frozen);
        }
        self.thaw_stuck(waits)?;
        self.hold(file_systems);
        if let Err(error) = self.hand_over(limit) {
            self.let_go();
            return Err(error.into());
        }
        if latest < Instant::now() {
            self.let_go();
            return Err(FreezeError::TooLate);
        }
        self.dumpable = dumpable_behavior().ok();
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        let began = Instant::now();
        self.since = Some(began);
        match self.ask_to_freeze(limit.min(FREEZE), stop, waits) {
            Ok(()) => Ok(self.summary(began.elapsed())),
            Err(error) => {
                self.thaw(THAW_BRIEF, waits);
                Err(error)
            }
        }
    }

    fn hold(&mut self, file_systems: Vec<Opened>) {
        let (held, descriptors) = file_systems
            .into_iter()
            .map(|opened| {
                let held = Held {
                    mount_point: opened.mount_point,
                    device: opened.device,
                    state: State::Ours,
                    thawed: Ok(Was::Untouched),
                };
                (held, opened.fd)
            })
            .unzip();
        self.held = held;
        self.descriptors = Arc::new(descriptors);
    }

    /// Gives the guard a copy of each descriptor.
    fn hand_over(&mut self, limit: Duration) -> Result<(), GuardError> {
        let descriptors = Arc::clone(&self.descriptors);
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut handed_over = self.ready_guard()?.hold(&borrowed, limit);
        if handed_over.is_err() {
            self.guard = None;
            handed_over = self.ready_guard()?.hold(&borrowed, limit);
        }
        if handed_over.is_err() {
            self.guard = None;
        }
        handed_over
    }

    fn ask_to_freeze(
        &mut self,
        limit: Duration,
        stop: Option<BorrowedFd<'_>>,
        waits: OnWait<'_>,
    ) -> Result<(), FreezeError> {
        let Some(guard) = &mut self.guard else {
            return Err(FreezeError::GuardGone);
        };
        let deadline = Instant::now() + limit + FREEZE_REPORT;
        let mut waited_for = None;
        let mut refused = Ok(());
        guard.freeze();
        loop {
            match guard.next(deadline, stop) {
                GuardEvent::Report(Report::Frozen) => return refused,
                GuardEvent::Report(Report::Waits(index)) => {
                    waited_for = self
                        .held
                        .get_mut(index)
                        .map(|held| held.mount_point.clone());
                    waited_for
                        .as_deref()
                        .inspect(|path| waits(Action::Freeze, path));
                }
                GuardEvent::Report(Report::Refused(index, source)) => {
                    let Some(held) = self.held.get_mut(index) else {
                        continue;
                    };
                    held.state = match source {
                        Errno::BUSY => State::FrozenBefore,
                        _ => State::Skipped(source),
                    };
                    if !threads::goes_on(source) {
                        let path = held.mount_point.clone();
                        refused = Err(FreezeError::FileSystem { path, source });
                    }
                }
                GuardEvent::Report(Report::TimeLimit) | GuardEvent::Nothing => {
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

    /// Those file systems that could not be thawed: where they are mounted, and why.
    pub fn stuck(&self) -> impl Iterator<Item = (PathBuf, NotThawed)> {
        let failed = |held: &Held| Some((held.mount_point.clone(), held.thawed.err()?));
        self.held.iter().rev().filter_map(failed)
    }

    /// The same, to be noted, in the order in which they were frozen.
    pub(super) fn not_thawed(&self) -> impl Iterator<Item = FrozenFileSystem> {
        let held = self.held.iter().filter(|held| held.thawed.is_err());
        held.map(Held::noted)
    }

    /// Those that were stuck and are thawed by now, as far as the guard has said so.
    /// They are held no longer when all are: then they can be unmounted.
    pub(super) fn late_thaws(&mut self) -> Vec<FrozenFileSystem> {
        let mut thawed = Vec::new();
        if self.held.is_empty() {
            return thawed;
        }
        while let Some(guard) = &mut self.guard {
            let (index, was) = match guard.next(Instant::now(), None) {
                GuardEvent::Report(Report::Thawed(index, Ok(()))) => (index, Was::Frozen),
                GuardEvent::Report(Report::Thawed(index, Err(Errno::INVAL))) => {
                    (index, Was::NotFrozen)
                }
                GuardEvent::Report(Report::Spared(index)) => (index, Was::Untouched),
                GuardEvent::Report(_) => continue,
                GuardEvent::Nothing | GuardEvent::Stopped => break,
                GuardEvent::Gone => {
                    self.guard_is_gone(true);
                    break;
                }
            };
            if let Some(held) = self.held.get_mut(index) {
                if held.thawed.is_err() {
                    held.thawed = Ok(was);
                    thawed.push(held.noted());
                }
            }
        }
        if self.held.iter().all(|held| held.thawed.is_ok()) {
            self.let_go();
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

    /// Thaws what is frozen, in the reverse order, and what could not be thawed
    /// before; waits for that for at most `limit`. The guard goes on with what is
    /// not thawed by then. Without anything frozen there is nothing to do.
    pub fn thaw(&mut self, limit: Duration, waits: OnWait<'_>) -> Thawed {
        let mut outcome = Thawed::default();
        // A freeze of no file system ends as any other.
        if self.held.is_empty() && self.since.is_none() {
            return outcome;
        }
        for held in &mut self.held {
            held.thawed = Err(NotThawed::Waits);
        }
        let deadline = Instant::now() + limit;
        if !self.ask_to_thaw(deadline, waits) {
            self.guard_is_gone(false);
            self.thaw_alone(deadline, waits);
        }
        if let Some(since) = self.since.take() {
            outcome.after = since.elapsed();
        }
        if let Some(dumpable) = self.dumpable.take() {
            let _ = set_dumpable_behavior(dumpable);
        }
        for held in self.held.iter().rev() {
            match held.thawed {
                Ok(Was::Frozen) => outcome.thawed += 1,
                Ok(Was::NotFrozen) if held.state == State::Ours => {
                    outcome.early.push(held.mount_point.clone());
                }
                _ => {}
            }
        }
        if self.held.iter().all(|held| held.thawed.is_ok()) {
            self.let_go();
        }
        outcome
    }

    fn let_go(&mut self) {
        self.held.clear();
        self.descriptors = Arc::default();
        self.own = None;
        if let Some(guard) = &mut self.guard {
            guard.release();
        }
    }

    /// Has the guard thaw, until `deadline`; false where there is none.
    fn ask_to_thaw(&mut self, deadline: Instant, waits: OnWait<'_>) -> bool {
        let Some(guard) = self.guard.as_mut().filter(|_| self.own.is_none()) else {
            return false;
        };
        guard.thaw();
        let mut left = self.held.len();
        let mut patience = Instant::now() + PATIENCE;
        while left > 0 {
            let (index, thawed) = match guard.next(deadline.min(patience), None) {
                GuardEvent::Report(Report::Thawed(index, Ok(()))) => (index, Ok(Was::Frozen)),
                GuardEvent::Report(Report::Thawed(index, Err(Errno::INVAL))) => {
                    (index, Ok(Was::NotFrozen))
                }
                GuardEvent::Report(Report::Thawed(index, Err(errno))) => {
                    (index, Err(NotThawed::Refused(errno)))
                }
                GuardEvent::Report(Report::Spared(index)) => (index, Ok(Was::Untouched)),
                GuardEvent::Report(_) => continue,
                GuardEvent::Gone => return false,
                GuardEvent::Nothing | GuardEvent::Stopped => {
                    if deadline <= Instant::now() {
                        break;
                    }
                    patience = deadline;
                    let first = self.held.iter().rev().find(|held| held.waits());
                    first.inspect(|held| waits(Action::Thaw, &held.mount_point));
                    continue;
                }
            };
            if let Some(held) = self.held.get_mut(index) {
                if held.waits() {
                    held.thawed = thawed;
                    left -= 1;
                }
            }
        }
        true
    }

    /// Thaws by threads of this process, until `deadline`: the guard is gone.
    fn thaw_alone(&mut self, deadline: Instant, waits: OnWait<'_>) {
        if self.own.is_none() {
            let made = ThreadPool::new(Arc::clone(&self.descriptors), Arc::new(Kernel));
            if let Ok(own) = &made {
                let held = &self.held;
                own.take_for_frozen(|index| {
                    held.get(index)
                        .is_some_and(|held| held.state != State::Ours)
                });
            }
            self.own = made.ok();
        }
        let Some(own) = &mut self.own else {
            return;
        };
        own.thaw();
        let mut patience = Instant::now() + PATIENCE;
        while own.at_work() && Instant::now() < deadline {
            let mut news = [PollFd::new(&*own, PollFlags::IN)];
            if let Ok(look) = Timespec::try_from(LOOK) {
                let _ = poll(&mut news, Some(&look));
            }
            own.clear_news();
            own.go_on();
            if patience <= Instant::now() {
                patience = deadline;
                let mut first = None;
                own.each(|index, state| {
                    if state == threads::State::Thawing {
                        first = Some(index);
                    }
                });
                let first = first.and_then(|index| self.held.get(index));
                first.inspect(|held| waits(Action::Thaw, &held.mount_point));
            }
        }
        let held = &mut self.held;
        own.each(|index, state| {
            if let Some(held) = held.get_mut(index) {
                held.thawed = match state {
                    threads::State::Untouched | threads::State::Refused(_) => Ok(Was::Untouched),
                    threads::State::Frozen | threads::State::Thawing => Err(NotThawed::Waits),
                    threads::State::Thawed(Ok(())) => Ok(Was::Frozen),
                    threads::State::Thawed(Err(Errno::INVAL)) => Ok(Was::NotFrozen),
                    threads::State::Thawed(Err(errno)) => Err(NotThawed::Refused(errno)),
                };
            }
        });
    }

    /// Does what a guard that was killed has left to do, but the thaw.
    fn guard_is_gone(&mut self, freezing: bool) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        if guard.left_rcu_expedited() {
            // It could be told before.
            let _ = rcu_expedited::disable(Path::new(rcu_expedited::SWITCH));
        }
        if freezing {
            // The kernel may not have come back to it, and freeze after the thaw what
            // it was told to freeze before.
            let descriptors = Arc::clone(&self.descriptors);
            let theirs: Vec<bool> = self
                .held
                .iter()
                .map(|held| held.state != State::Ours)
                .collect();
            guard.after_its_end(move || {
                for (descriptor, theirs) in descriptors.iter().zip(theirs) {
                    if !theirs {
                        let _ = sys::thaw(descriptor);
                    }
                }
            });
        }
    }

    /// Thaws what somebody else may have left frozen, in the reverse order. What
    /// could not be thawed is in [`Freezer::stuck`], too.
    pub fn thaw_found(
        &mut self,
        found: Vec<Opened>,
        limit: Duration,
        waits: OnWait<'_>,
    ) -> Vec<ThawAttempt> {
        let tried = |device, mount_point: &Path, outcome| ThawAttempt {
            device,
            mount_point: mount_point.to_owned(),
            outcome,
        };
        self.thaw(limit, waits);
        if let Some((path, why)) = self.stuck().next() {
            let outcome = || Err(format!("{path:?} is not thawed yet: {why}"));
            let found = found.iter().rev();
            return found
                .map(|it| tried(it.device, &it.mount_point, outcome()))
                .collect();
        }
        if found.is_empty() {
            return Vec::new();
        }
        let all: Vec<_> = found
            .iter()
            .rev()
            .map(|it| (it.device, it.mount_point.clone()))
            .collect();
        self.hold(found);
        // Without a guard this process thaws.
        let _ = self.hand_over(Duration::ZERO);
        let thawed = self.thaw(limit, waits);
        let outcome = |(device, mount_point): (DeviceNumber, PathBuf)| {
            let held = self.held.iter().find(|held| held.device == device);
            let outcome = match held.map(|held| held.thawed) {
                Some(Err(why)) => Err(why.to_string()),
                Some(Ok(was)) => Ok(was == Was::Frozen),
                None => Ok(!thawed.early.contains(&mount_point)),
            };
            tried(device, &mount_point, outcome)
        };
        all.into_iter().map(outcome).collect()
    }
}

impl Held {
    fn noted(&self) -> FrozenFileSystem {
        FrozenFileSystem {
            device: self.device,
            mount_point: self.mount_point.clone(),
        }
    }

    fn waits(&self) -> bool {
        self.thawed == Err(NotThawed::Waits)
    }
}

impl Drop for Freezer {
    /// What could not be thawed before is the guard's affair.
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

    /// File systems, and descriptors of them that stay.
    fn file_systems(count: u32, directory: &Path) -> (Vec<Opened>, Vec<OwnedFd>) {
        let files = Fake::make(count as usize, directory);
        let opened = (0..count).zip(&files).map(|(minor, fd)| Opened {
            fd: fd.try_clone().unwrap(),
            mount_point: format!("/{minor}").into(),
            device: DeviceNumber { major: 8, minor },
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
                     name it in [vss.exclude] to leave it out";
        assert_eq!(error.to_string(), words);
        let waits = [(Action::Freeze, "/1".into()), (Action::Thaw, "/1".into())];
        assert_eq!(waited, waits);
        assert_eq!(FAKE.frozen(&files), [false; 3]);
        assert!(!freezer.is_frozen());
        let stuck: Vec<_> = freezer.stuck().collect();
        assert_eq!(stuck, [("/1".into(), NotThawed::Waits)]);
        let (again, _) = file_systems(1, directory.path());
        let error = freezer.freeze(again, LONG, later(), None, &mut |_, _| ());
        let Err(FreezeError::Stuck { path, why }) = error else {
            panic!("{error:?}");
        };
        assert_eq!((path, why), ("/1".into(), NotThawed::Waits));
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
        assert_eq!(stuck, [("/2".into(), NotThawed::Waits)]);
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
        stop.tell();
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
        let tried = freezer.thaw_found(opened, THAW_BRIEF, &mut |_, _| waited += 1);
        let tried: Vec<_> = tried
            .into_iter()
            .map(|tried| (tried.mount_point, tried.outcome))
            .collect();
        let expected = [
            ("/2".into(), Err(NotThawed::Waits.to_string())),
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
