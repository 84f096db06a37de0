//! The agent's side of its guard: the watchdog process that freezes and thaws.
//!
//! The guard is started at the beginning of a freeze, before anything is frozen, from the
//! agent's own executable, and ends when everything is thawed. A socket connects the two:
//! each knows by its end that the other is gone. The guard also knows it by the end of the
//! thread that started it.
//!
//! While there is a guard no thread of the agent calls `FIFREEZE` or `FITHAW`. Either may
//! hang in the kernel, and a process with a thread that hangs does not end, whatever
//! signal it gets: its devices and locks would stay taken.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

pub(super) use self::message::GuardReport;
use self::message::{GuardCommand, MAX_DESCRIPTORS};
use crate::retry::poll_until;
use crate::timeouts::GUARD_EXIT;
use crate::{subprocess, sys};

#[cfg(test)]
pub(super) mod fake;
mod message;
pub mod process;
mod schedule;
pub mod threads;

/// The argument that makes the agent's executable run [`process::main`].
pub const ARGUMENT: &str = "vss-guard";

/// How long the guard may take to answer: it has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a silent guard is checked for being alive.
const LOOK: Duration = Duration::from_secs(1);

/// A guard that was started.
#[derive(Debug)]
pub struct Guard {
    socket: UnixStream,
    process: Option<Child>,
    /// Whether its memory is locked while anything is frozen.
    locked: Result<(), Errno>,
    /// Whether it has set `rcu_expedited`.
    rcu_expedited: bool,
}

/// There is no guard.
#[derive(Debug, thiserror::Error)]
#[error("the guard process, without which nothing is frozen, {doing}")]
pub struct GuardError {
    doing: &'static str,
    source: io::Error,
}

/// What a guard does that was not told to do anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardState {
    /// It keeps file systems frozen, or waits for commands.
    Running,
    /// The time limit was reached, and it thaws.
    TimeLimit,
    /// It is gone.
    Gone,
}

/// What ended a wait for the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuardEvent {
    Report(GuardReport),
    /// The deadline.
    Timeout,
    /// The agent is being stopped.
    Stopped,
    /// It is gone.
    Gone,
}

impl Guard {
    /// Starts a guard from the executable of this process. The guard takes the end of the
    /// calling thread for the end of the agent.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start() -> Result<Self, GuardError> {
        let cannot = |source| GuardError {
            doing: "cannot be started from /proc/self/exe",
            source,
        };
        let (ours, its) = UnixStream::pair().map_err(cannot)?;
        let mut command = Command::new("/proc/self/exe");
        let process = sys::reset_limits_and_signals(&mut command)
            .arg0("hyperv-agent")
            .arg(ARGUMENT)
            .env_clear()
            .current_dir("/")
            // Signals of a terminal to the agent must not reach the guard.
            .process_group(0)
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(cannot)?;
        let mut guard = Self::at(ours).map_err(cannot)?;
        guard.process = Some(process);
        Ok(guard)
    }

    /// Returns a guard at the other end of `socket`.
    ///
    /// # Errors
    ///
    /// If the timeouts of the socket cannot be set.
    pub fn at(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            process: None,
            locked: Ok(()),
            rcu_expedited: false,
        })
    }

    /// Returns its process ID, if it is a process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Sends it the file systems that are about to be frozen, in freeze order. Of each pair in
    /// `order` the first is frozen before the second, by their indices. Once they are frozen it
    /// thaws them after `limit` in any case.
    ///
    /// # Errors
    ///
    /// If it is gone, or does not answer.
    pub fn hold(
        &mut self,
        file_systems: &[BorrowedFd<'_>],
        order: &[(u32, u32)],
        limit: Duration,
    ) -> Result<(), GuardError> {
        let mut hold = || {
            let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            GuardCommand::Begin(milliseconds).send(&self.socket, &[])?;
            for batch in file_systems.chunks(MAX_DESCRIPTORS) {
                GuardCommand::Hold(batch.len() as u64).send(&self.socket, batch)?;
            }
            for &(first, then) in order {
                GuardCommand::Order(first, then).send(&self.socket, &[])?;
            }
            GuardCommand::Prepare.send(&self.socket, &[])?;
            loop {
                // Skip reports of an earlier freeze.
                if let GuardReport::Ready(locked) = self.read()? {
                    self.locked = locked;
                    return Ok(());
                }
            }
        };
        hold().map_err(|source| GuardError {
            doing: "does not answer",
            source,
        })
    }

    /// Returns whether its memory is locked, so that it waits for no disk while anything is
    /// frozen. Known after [`Guard::hold`].
    pub fn locked(&self) -> Result<(), Errno> {
        self.locked
    }

    /// Tells it to freeze its file systems.
    pub fn freeze(&mut self) {
        // The next wait for a report fails, too.
        let _ = GuardCommand::Freeze.send(&self.socket, &[]);
    }

    /// Tells it to thaw the file systems that it has frozen, or all, if it was not told to
    /// freeze them. It reports the result of each.
    pub fn thaw(&mut self) {
        let _ = GuardCommand::Thaw.send(&self.socket, &[]);
    }

    /// Ends it without waiting for that. Nothing may be frozen.
    pub(super) fn end(mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(process) = self.process.take() {
            subprocess::reap(process, Duration::ZERO);
        }
    }

    /// Returns what it does, without waiting for a report.
    pub fn state(&mut self) -> GuardState {
        loop {
            match self.next(Instant::now(), None) {
                GuardEvent::Report(GuardReport::TimeLimit(_)) => return GuardState::TimeLimit,
                GuardEvent::Report(_) => {}
                GuardEvent::Timeout | GuardEvent::Stopped => return GuardState::Running,
                GuardEvent::Gone => return GuardState::Gone,
            }
        }
    }

    /// Waits for a report, until `deadline` or until `stop` is readable.
    pub(super) fn next(&mut self, deadline: Instant, stop: Option<BorrowedFd<'_>>) -> GuardEvent {
        loop {
            let until = deadline.min(Instant::now() + LOOK);
            let socket = PollFd::new(&self.socket, PollFlags::IN);
            let mut fds = Vec::from([socket]);
            fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
            let Ok(ready) = poll_until(&mut fds, Some(until)) else {
                return GuardEvent::Gone;
            };
            if fds.first().is_some_and(|it| !it.revents().is_empty()) {
                return self.read().map_or(GuardEvent::Gone, GuardEvent::Report);
            }
            if ready > 0 {
                return GuardEvent::Stopped;
            }
            if deadline <= Instant::now() {
                return GuardEvent::Timeout;
            }
            if self.is_dead() {
                return GuardEvent::Gone;
            }
        }
    }

    fn read(&mut self) -> io::Result<GuardReport> {
        let mut record = [0; GuardReport::LEN];
        (&self.socket).read_exact(&mut record)?;
        let report = GuardReport::decode(record)?;
        match report {
            GuardReport::RcuExpedited => self.rcu_expedited = true,
            GuardReport::RcuNormal => self.rcu_expedited = false,
            _ => {}
        }
        Ok(report)
    }

    /// Returns whether it is dead although its socket is open: it was stopped, or killed while
    /// one of its threads hangs in the kernel.
    fn is_dead(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, fields)| fields.starts_with(['Z', 'X', 'T']))
    }

    /// Returns whether it has left `rcu_expedited` set.
    pub(super) fn left_rcu_expedited(&self) -> bool {
        self.rcu_expedited
    }

    /// Calls `then` on another thread once every thread of a killed guard has ended, and with
    /// it every call into the kernel.
    pub(super) fn after_its_end(mut self, then: impl FnOnce() + Send + 'static) {
        if let Some(mut process) = self.process.take() {
            // Without a thread it is not called.
            let _ = thread::Builder::new().spawn(move || {
                let _ = process.wait();
                then();
            });
        }
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Guard {
    /// Closes the socket: the guard ends once everything is thawed, however long that takes.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(process) = self.process.take() {
            subprocess::reap(process, GUARD_EXIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::thread::{self, JoinHandle};

    use super::fake::Fake;
    use super::process::Context;
    use super::*;
    use crate::stop::Stop;

    /// Far longer than any of these guards is to run.
    const LONG: Duration = Duration::from_secs(600);

    /// A guard on a thread, and file systems for it.
    struct Stage {
        directory: tempfile::TempDir,
        fake: Arc<Fake>,
        file_systems: Vec<OwnedFd>,
        orphaned: Stop,
        guard: Guard,
        thread: JoinHandle<io::Result<()>>,
    }

    impl Stage {
        fn new(count: usize) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let fake = Arc::new(Fake::default());
            let context = Context {
                switch: directory.path().join("switch"),
                calls: Arc::<Fake>::clone(&fake),
                own_process: false,
            };
            let orphaned = Stop::new().unwrap();
            let tells = orphaned.as_fd().try_clone_to_owned().unwrap();
            let (ours, its) = UnixStream::pair().unwrap();
            Self {
                file_systems: Fake::make(count, directory.path()),
                directory,
                fake,
                orphaned,
                guard: Guard::at(ours).unwrap(),
                thread: thread::spawn(move || process::serve(&its, Some(tells.as_fd()), context)),
            }
        }

        /// Each waits for the one before it.
        fn hold(&mut self, limit: Duration) {
            let chain = (1u32..).take(self.file_systems.len().saturating_sub(1));
            let chain: Vec<_> = chain.map(|then| (then - 1, then)).collect();
            self.hold_in(&chain, limit);
        }

        fn hold_in(&mut self, order: &[(u32, u32)], limit: Duration) {
            let each: Vec<_> = self.file_systems.iter().map(AsFd::as_fd).collect();
            self.guard.hold(&each, order, limit).unwrap();
        }

        /// All reports, up to and with this one.
        fn reports(&mut self, last: GuardReport) -> Vec<GuardReport> {
            let mut reports = Vec::new();
            while reports.last() != Some(&last) {
                reports.push(self.report());
            }
            reports
        }

        fn report(&mut self) -> GuardReport {
            match self.guard.next(Instant::now() + fake::SETTLE_TIME, None) {
                GuardEvent::Report(report) => report,
                other => panic!("expected a report, heard {other:?}"),
            }
        }

        /// Tells it to thaw, and gives what it reports of so many: once, although it
        /// reports what thaws just then by itself too.
        fn thaw(&mut self, count: usize) -> Vec<GuardReport> {
            self.guard.thaw();
            let mut reports = Vec::new();
            while reports.len() < count {
                let report = self.report();
                if matches!(report, GuardReport::Thawed(..) | GuardReport::Skipped(_))
                    && !reports.contains(&report)
                {
                    reports.push(report);
                }
            }
            reports.sort_by_key(|report| format!("{report:?}"));
            reports
        }

        fn frozen(&self) -> Vec<bool> {
            self.fake.frozen(&self.file_systems)
        }

        fn change(&self, index: usize, change: impl FnOnce(&mut fake::Behaviour)) {
            self.fake.change(&self.file_systems[index], change);
        }

        fn wait_frozen(&self, index: usize, frozen: bool) {
            self.fake.wait_frozen(&self.file_systems[index], frozen);
        }

        fn wait_thawing(&self, index: usize) {
            self.fake.wait_thawing(&self.file_systems[index]);
        }

        fn wait_freezing(&self, index: usize) {
            self.fake.wait_freezing(&self.file_systems[index]);
        }

        /// Lets the agent go away, and waits for the end of the guard.
        fn end(self) -> io::Result<()> {
            drop(self.guard);
            self.thread.join().unwrap()
        }

        fn switch(&self) -> PathBuf {
            self.directory.path().join("switch")
        }
    }

    #[test]
    fn it_freezes_and_thaws_repeatedly() {
        let mut stage = Stage::new(3);
        for _ in 0..3 {
            stage.hold(LONG);
            assert_eq!(stage.frozen(), [false; 3]);
            stage.guard.freeze();
            assert_eq!(stage.reports(GuardReport::Frozen), [GuardReport::Frozen]);
            assert_eq!(stage.frozen(), [true; 3]);
            let thawed = [0, 1, 2].map(|index| GuardReport::Thawed(index, Ok(())));
            assert_eq!(stage.thaw(3), thawed);
            assert_eq!(stage.frozen(), [false; 3]);
        }
        stage.end().unwrap();
    }

    #[test]
    fn it_takes_more_descriptors_than_one_message_has_room_for() {
        let mut stage = Stage::new(MAX_DESCRIPTORS * 2 + 1);
        let count = stage.file_systems.len();
        stage.hold(LONG);
        stage.guard.freeze();
        stage.reports(GuardReport::Frozen);
        assert_eq!(stage.frozen(), vec![true; count]);
        // More reports than a socket has room for, and nobody who reads them.
        stage.guard.thaw();
        for index in 0..count {
            stage.wait_frozen(index, false);
        }
        stage.guard.thaw();
        assert_eq!(stage.thaw(count).len(), count);
        stage.end().unwrap();
    }

    #[test]
    fn nobody_waits_for_one_that_hangs_in_its_freeze() {
        let mut stage = Stage::new(4);
        stage.change(2, |it| it.freeze_hangs = true);
        stage.hold(LONG);
        stage.guard.freeze();
        assert_eq!(
            stage.reports(GuardReport::Waiting(2)),
            [GuardReport::Waiting(2)]
        );
        assert_eq!(stage.frozen(), [true, true, false, false]);
        let thawed = [
            GuardReport::Skipped(3),
            GuardReport::Thawed(0, Ok(())),
            GuardReport::Thawed(1, Ok(())),
        ];
        assert_eq!(stage.thaw(3), thawed);
        assert_eq!(stage.frozen(), [false; 4]);
        // It is thawed as soon as it is frozen, and no other one is frozen.
        stage.change(2, |it| it.freeze_hangs = false);
        assert_eq!(stage.report(), GuardReport::Thawed(2, Ok(())));
        assert_eq!(stage.frozen(), [false; 4]);
        stage.end().unwrap();
    }

    #[test]
    fn those_that_do_not_wait_for_each_other_are_frozen_at_the_same_time() {
        let mut stage = Stage::new(4);
        for index in [0, 1] {
            stage.change(index, |it| it.freeze_hangs = true);
        }
        stage.hold_in(&[(1, 3)], LONG);
        stage.guard.freeze();
        stage.wait_freezing(0);
        stage.wait_freezing(1);
        stage.wait_frozen(2, true);
        let mut waiting = [stage.report(), stage.report()];
        waiting.sort_by_key(|report| format!("{report:?}"));
        assert_eq!(waiting, [GuardReport::Waiting(0), GuardReport::Waiting(1)]);
        // That one waits for the second.
        assert_eq!(stage.frozen(), [false, false, true, false]);
        stage.change(1, |it| it.freeze_hangs = false);
        stage.wait_frozen(3, true);
        assert_eq!(stage.report(), GuardReport::Waiting(0));
        stage.change(0, |it| it.freeze_hangs = false);
        assert_eq!(stage.report(), GuardReport::Frozen);
        assert_eq!(stage.frozen(), [true; 4]);
        stage.end().unwrap();
    }

    #[test]
    fn those_that_do_not_wait_for_each_other_are_thawed_at_the_same_time() {
        let mut stage = Stage::new(4);
        stage.hold_in(&[(0, 1)], LONG);
        stage.guard.freeze();
        stage.reports(GuardReport::Frozen);
        for index in [1, 2, 3] {
            stage.change(index, |it| it.thaw_hangs = true);
        }
        stage.guard.thaw();
        for index in [1, 2, 3] {
            stage.wait_thawing(index);
        }
        // However long it takes for the one on which it lies.
        stage.wait_frozen(0, false);
        for index in [1, 2, 3] {
            stage.change(index, |it| it.thaw_hangs = false);
        }
        assert_eq!(stage.thaw(4).len(), 4);
        stage.end().unwrap();
    }

    #[test]
    fn a_freeze_that_fails_waits_for_none_that_hangs() {
        let mut stage = Stage::new(3);
        stage.change(0, |it| it.freeze_hangs = true);
        stage.hold_in(&[(1, 2)], LONG);
        stage.change(1, |it| it.freeze_fails = Some(Errno::IO));
        stage.guard.freeze();
        stage.wait_freezing(0);
        assert_eq!(stage.report(), GuardReport::Refused(1, Errno::IO));
        let skipped = [GuardReport::Skipped(1), GuardReport::Skipped(2)];
        assert_eq!(stage.thaw(2), skipped);
        stage.change(0, |it| it.freeze_hangs = false);
        assert_eq!(stage.report(), GuardReport::Thawed(0, Ok(())));
        assert_eq!(stage.frozen(), [false; 3]);
        stage.end().unwrap();
    }

    #[test]
    fn of_several_that_hang_the_time_limit_names_one() {
        let mut stage = Stage::new(3);
        for index in [0, 2] {
            stage.change(index, |it| it.freeze_hangs = true);
        }
        stage.hold_in(&[], Duration::from_secs(5));
        stage.guard.freeze();
        let limit = loop {
            if let GuardReport::TimeLimit(waits) = stage.report() {
                break waits;
            }
        };
        assert!(matches!(limit, Some(0 | 2)), "{limit:?}");
        stage.wait_frozen(1, false);
        for index in [0, 2] {
            stage.change(index, |it| it.freeze_hangs = false);
            stage.wait_frozen(index, false);
        }
        stage.end().unwrap();
    }

    #[test]
    fn nobody_waits_for_those_that_hang_in_their_thaw() {
        let mut stage = Stage::new(20);
        let hang = 5..20;
        for index in hang.clone() {
            stage.change(index, |it| it.thaw_hangs = true);
        }
        stage.hold(LONG);
        stage.guard.freeze();
        stage.reports(GuardReport::Frozen);
        assert_eq!(stage.thaw(5).len(), 5);
        let frozen: Vec<_> = (0..20).map(|index| hang.contains(&index)).collect();
        assert_eq!(stage.frozen(), frozen);
        for index in hang {
            stage.change(index, |it| it.thaw_hangs = false);
        }
        // Whoever asks again is told of all.
        assert_eq!(stage.thaw(20).len(), 20);
        assert_eq!(stage.frozen(), [false; 20]);
        stage.end().unwrap();
    }

    #[test]
    fn what_cannot_be_thawed_is_tried_again_without_being_asked() {
        let mut stage = Stage::new(2);
        stage.change(0, |it| it.thaw_fails = Some(Errno::PERM));
        stage.hold(LONG);
        stage.guard.freeze();
        stage.reports(GuardReport::Frozen);
        let thawed = [
            GuardReport::Thawed(0, Err(Errno::PERM)),
            GuardReport::Thawed(1, Ok(())),
        ];
        assert_eq!(stage.thaw(2), thawed);
        stage.change(0, |it| it.thaw_fails = None);
        stage.wait_frozen(0, false);
        stage.end().unwrap();
    }

    #[test]
    fn an_agent_that_goes_leaves_nothing_frozen_whatever_hangs() {
        for by_signal in [false, true] {
            let mut stage = Stage::new(3);
            stage.change(0, |it| it.thaw_hangs = true);
            stage.change(2, |it| it.freeze_hangs = true);
            stage.hold(LONG);
            stage.guard.freeze();
            stage.wait_freezing(2);
            assert_eq!(stage.frozen(), [true, true, false]);
            // A thread of the agent that waits for a frozen file system keeps the
            // socket open when the agent is killed.
            match by_signal {
                true => stage.orphaned.signal(),
                false => drop(stage.guard.socket.shutdown(std::net::Shutdown::Both)),
            }
            stage.wait_frozen(1, false);
            assert!(!stage.thread.is_finished());
            stage.change(0, |it| it.thaw_hangs = false);
            stage.wait_frozen(0, false);
            stage.change(2, |it| it.freeze_hangs = false);
            stage.wait_frozen(2, false);
            stage.thread.join().unwrap().unwrap();
        }
    }

    #[test]
    fn when_the_time_is_over_it_thaws_and_guards_on() {
        let mut stage = Stage::new(2);
        stage.hold(Duration::from_millis(1));
        stage.guard.freeze();
        let reports = stage.reports(GuardReport::TimeLimit(None));
        assert!(reports.len() <= 2, "{reports:?}");
        stage.wait_frozen(0, false);
        stage.wait_frozen(1, false);
        // The agent asks all the same. Until it has the answer, the guard may not know yet
        // that they are thawed. If the time was over before both were frozen, it has skipped one.
        let all_frozen = reports.contains(&GuardReport::Frozen);
        let answered = stage.thaw(2).into_iter().map(|report| match report {
            GuardReport::Thawed(index, Ok(())) => index,
            GuardReport::Skipped(index) if !all_frozen => index,
            other => panic!("{other:?}"),
        });
        assert_eq!(answered.collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
        // That is no answer to anything later.
        stage.hold(LONG);
        assert_eq!(stage.guard.state(), GuardState::Running);
        stage.guard.freeze();
        stage.reports(GuardReport::Frozen);
        assert_eq!(stage.frozen(), [true; 2]);
        stage.end().unwrap();
    }

    #[test]
    fn a_freeze_that_hangs_is_given_up_when_the_time_is_over() {
        let mut stage = Stage::new(2);
        stage.change(1, |it| it.freeze_hangs = true);
        stage.hold(Duration::from_millis(500));
        stage.guard.freeze();
        assert_eq!(
            stage.reports(GuardReport::TimeLimit(None)),
            [GuardReport::TimeLimit(None)]
        );
        stage.wait_frozen(0, false);
        stage.change(1, |it| it.freeze_hangs = false);
        stage.end().unwrap();
    }

    #[test]
    fn some_errors_leave_a_file_system_out_and_others_end_the_freeze() {
        for (errno, dead, told, goes_on) in [
            (Errno::BUSY, None, Errno::BUSY, true),
            (Errno::OPNOTSUPP, None, Errno::OPNOTSUPP, true),
            (Errno::ROFS, None, Errno::ROFS, true),
            (Errno::IO, Some(Errno::SHUTDOWN), Errno::SHUTDOWN, true),
            (Errno::IO, Some(Errno::ROFS), Errno::ROFS, true),
            (Errno::IO, None, Errno::IO, false),
        ] {
            let mut stage = Stage::new(3);
            stage.change(1, |it| {
                it.freeze_fails = Some(errno);
                it.dead = dead;
            });
            stage.hold(LONG);
            stage.guard.freeze();
            let reports = stage.reports(GuardReport::Frozen);
            assert_eq!(
                reports,
                [GuardReport::Refused(1, told), GuardReport::Frozen]
            );
            assert_eq!(stage.frozen(), [true, false, goes_on]);
            stage.thaw(3);
            assert_eq!(stage.frozen(), [false; 3]);
            stage.end().unwrap();
        }
    }

    #[test]
    fn what_somebody_else_has_frozen_stays_frozen() {
        let mut stage = Stage::new(2);
        threads::FileSystemCalls::freeze(&*stage.fake, stage.file_systems[0].as_fd()).unwrap();
        stage.hold(LONG);
        stage.guard.freeze();
        stage.reports(GuardReport::Frozen);
        assert_eq!(
            stage.thaw(2),
            [GuardReport::Skipped(0), GuardReport::Thawed(1, Ok(()))]
        );
        assert_eq!(stage.frozen(), [true, false]);
        // But where it is to thaw only, all of it.
        stage.hold(LONG);
        let thawed = [
            GuardReport::Thawed(0, Ok(())),
            GuardReport::Thawed(1, Err(Errno::INVAL)),
        ];
        assert_eq!(stage.thaw(2), thawed);
        assert_eq!(stage.frozen(), [false, false]);
        stage.end().unwrap();
    }

    #[test]
    fn the_kernel_hurries_while_it_freezes_and_not_while_one_hangs() {
        let mut stage = Stage::new(2);
        let switch = stage.switch();
        let rcu_expedited = || fs::read_to_string(&switch).unwrap().starts_with('1');
        fs::write(&switch, "0\n").unwrap();
        stage.change(1, |it| it.freeze_hangs = true);
        stage.hold(LONG);
        stage.guard.freeze();
        stage.wait_freezing(1);
        assert!(rcu_expedited());
        assert_eq!(
            stage.reports(GuardReport::RcuNormal),
            [GuardReport::RcuExpedited, GuardReport::RcuNormal]
        );
        assert!(!rcu_expedited());
        assert!(!stage.guard.left_rcu_expedited());
        stage.change(1, |it| it.freeze_hangs = false);
        stage.reports(GuardReport::Frozen);
        stage.thaw(2);
        // Nor when the agent has gone, or the freeze was given up.
        for goes in [true, false] {
            stage.change(1, |it| it.freeze_hangs = true);
            stage.hold(LONG);
            stage.guard.freeze();
            stage.wait_freezing(1);
            assert_eq!(stage.report(), GuardReport::RcuExpedited);
            assert!(stage.guard.left_rcu_expedited() && rcu_expedited());
            match goes {
                false => drop(stage.guard.socket.shutdown(std::net::Shutdown::Both)),
                true => drop(stage.thaw(1)),
            }
            stage.wait_frozen(0, false);
            stage.change(1, |it| it.freeze_hangs = false);
            if goes {
                // Before that it was not frozen yet, and the guard has to thaw it.
                stage.reports(GuardReport::Thawed(1, Ok(())));
            }
            stage.wait_frozen(1, false);
            assert!(!rcu_expedited());
        }
        stage.end().unwrap();
    }

    #[test]
    fn one_that_lacks_a_descriptor_is_no_guard() {
        let stage = Stage::new(0);
        let file = File::open("/proc/self/stat").unwrap();
        let order = GuardCommand::Hold(2);
        order.send(&stage.guard.socket, &[file.as_fd()]).unwrap();
        let error = stage.thread.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn one_that_is_to_forget_what_is_frozen_thaws_it_and_ends() {
        for order in [GuardCommand::Begin(1000), GuardCommand::Prepare] {
            let mut stage = Stage::new(2);
            stage.hold(LONG);
            stage.guard.freeze();
            stage.reports(GuardReport::Frozen);
            order.send(&stage.guard.socket, &[]).unwrap();
            let error = stage.thread.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(stage.fake.frozen(&stage.file_systems), [false; 2]);
        }
    }

    #[test]
    fn one_that_is_gone_shows() {
        let (ours, its) = UnixStream::pair().unwrap();
        let mut guard = Guard::at(ours).unwrap();
        assert_eq!(guard.state(), GuardState::Running);
        drop(its);
        assert_eq!(guard.next(Instant::now() + LONG, None), GuardEvent::Gone);
        let error = guard.hold(&[], &[], LONG).unwrap_err();
        let words = "the guard process, without which nothing is frozen, does not answer";
        assert_eq!(error.to_string(), words);
    }

    #[test]
    fn whoever_waits_for_it_can_be_stopped_and_has_a_limit() {
        let mut stage = Stage::new(0);
        let now = Instant::now();
        assert_eq!(stage.guard.next(now, None), GuardEvent::Timeout);
        let stop = Stop::new().unwrap();
        stop.signal();
        let heard = stage.guard.next(now + LONG, Some(stop.as_fd()));
        assert_eq!(heard, GuardEvent::Stopped);
        stage.end().unwrap();
    }
}
