//! Freezing file systems for backups. Protocol section 8.
//!
//! A FREEZE takes these steps:
//!
//! 1. [`wire`] decodes the message.
//! 2. [`hooks`] quiesce the applications.
//! 3. [`plan`] reads [`mountinfo`] and decides which file systems are frozen, and the
//!    freeze order, by the [`block_devices`] that they are on.
//! 4. [`prepare`] opens each ([`open`]) and writes its dirty pages out.
//! 5. The [`state_file`] records them.
//! 6. [`freeze`] hands the descriptors to the [`guard`], a watchdog process, which makes
//!    one `FIFREEZE` call for each, with `rcu_expedited` set.
//!
//! A THAW reverses that. Anything else that ends a freeze goes through `Vss::abort`: the
//! host's THAW then fails, since its backup is not consistent. A `report` collects what
//! is known of a backup; a `rehearsal` is one that an administrator asks for.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyperv_vmbus::hvutil::HvUtil;
use hyperv_vmbus::ic::{MessageType, Status, Version};
use hyperv_vmbus::message::ReplyLayout;
use hyperv_vmbus::{Encoding, classes};
use slog::{Logger, debug, error, info, warn};

use self::blocking::Lookups;
pub use self::config::{Config, Patterns};
use self::device_number::DeviceNumber;
use self::error::{Error, Inconsistent};
use self::freeze::{Action, FreezeError, FreezeSummary, Freezer, StartGuard, ThawSummary};
use self::guard::{Guard, GuardState};
use self::hooks::{EndReason, HookStep, PendingHooks};
use self::plan::{Plan, UnmatchedPattern};
use self::prepare::{PrepareError, WRITE_OUT_LONG};
use self::report::{Report, Reports};
use self::state_file::{FreezeRecord, FrozenFileSystem};
use self::watch::Rehearsal;
use self::wire::Request;
use self::write_out::WriteOut;
use crate::backup::{Kind, Outcome};
use crate::command::{Client, Command};
use crate::counters::ServiceRecord;
use crate::error_chain::display_chain;
use crate::progress::{Operation, OperationGuard, Progress};
use crate::service::{Entry, Service};
use crate::stop::Stop;
use crate::sys;
use crate::timeouts::{
    FREEZE_START, HOOKS_BEFORE_FREEZE, THAW, THAW_AND_HOOKS, THAW_AND_HOOKS_AT_EXIT, THAW_BRIEF,
};

pub mod block_devices;
mod blocking;
pub mod config;
mod describe;
pub mod device_number;
mod error;
pub mod file_system;
pub mod freeze;
pub mod guard;
pub mod hooks;
mod mount_namespaces;
pub mod mountinfo;
pub mod open;
pub mod plan;
pub mod prepare;
mod rcu_expedited;
pub mod recover;
mod rehearsal;
mod report;
pub mod state_file;
mod sysfs;
mod uncover;
mod watch;
pub mod wire;
pub mod write_out;

/// Bytes of every message on the character device.
const MESSAGE_LEN: usize = 12;

const OP_REGISTER: u8 = 129;

/// How long devices stay closed at most while systemd mounts local file systems: one that
/// is mounted after a freeze has been planned would be missing. A check of a large file
/// system takes some minutes, and the question for a disk's password any time.
const MOUNTS_WAIT: Duration = Duration::from_secs(15 * 60);

/// The service's entry in the registry.
pub static ENTRY: Entry = Entry {
    name: "vss",
    summary: "freezing file systems for backups",
    class: classes::VSS,
    message_type: MessageType::VSS,
    frameworks: &[Version::new(3, 0)],
    versions: &[Version::new(5, 0)],
    hvutil: HvUtil {
        node: "vmbus/hv_vss",
        registration: &[OP_REGISTER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        message_len: MESSAGE_LEN,
        reply: ReplyLayout::StatusInBody,
    },
    default: true,
    mounts_wait,
    prepare: None,
    describe: describe::describe,
    data: |_| None,
    make: |config, log| Box::new(Vss::new(&config.vss, log, Processes::OWN)),
};

/// What an earlier agent left frozen may be what systemd waits for.
fn mounts_wait(config: &crate::config::Config) -> Duration {
    match state_file::exists(&config.vss.environment.runtime_dir) {
        true => Duration::ZERO,
        false => MOUNTS_WAIT,
    }
}

/// Calls into the kernel that may never return, each made by a process of its own: a
/// process with a thread that hangs in the kernel cannot end.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    /// Starts the guard, which freezes and thaws.
    pub start_guard: StartGuard,
    /// Writes the dirty pages of a file system to its disk.
    pub write_out: WriteOut,
}

impl Processes {
    /// Processes of the agent's own executable.
    const OWN: Self = Self {
        start_guard: Guard::start,
        write_out: write_out::in_own_process,
    };
}

/// The service behind one device.
pub struct Vss {
    config: Config,
    freezer: Freezer,
    write_out: WriteOut,
    state: State,
    /// Why the backup that the host is about to finish is not consistent: its next THAW
    /// fails with this.
    inconsistent: Option<Inconsistent>,
    /// What an earlier agent left frozen, and this one could not thaw yet.
    leftover: FreezeRecord,
    /// Patterns without a match that were logged.
    warned_patterns: HashSet<UnmatchedPattern>,
    /// Whether it was logged that the guard's memory is not locked.
    warned_unlocked: bool,
    /// Whether it was logged that there are too many mount namespaces.
    warned_namespaces: bool,
    reports: Reports,
    progress: Arc<Progress>,
    stop: Option<Arc<Stop>>,
    log: Logger,
}

/// The state of a backup. A freeze in progress is none of them: the request that begins it
/// also ends it, with one of these.
#[derive(Default)]
enum State {
    /// Nothing is frozen.
    #[default]
    Idle,
    /// File systems are frozen for the host.
    Frozen(Freeze),
    /// An administrator rehearses a backup: file systems are frozen, or, with the hooks
    /// only, applications are quiesced.
    Rehearsing(Freeze, Rehearsal),
}

/// A freeze that succeeded and has to be ended.
struct Freeze {
    report: Report,
    hooks: PendingHooks,
    operation: OperationGuard,
}

impl Vss {
    /// Thaws what an earlier agent left frozen.
    pub fn new(config: &Config, log: &Logger, processes: Processes) -> Self {
        let stop = Stop::new()
            .inspect_err(|error| warn!(log, "cannot interrupt hooks at the end: {}", error));
        let mut vss = Self {
            config: config.clone(),
            freezer: Freezer::new(processes.start_guard),
            write_out: processes.write_out,
            state: State::Idle,
            inconsistent: None,
            leftover: FreezeRecord::default(),
            warned_patterns: HashSet::new(),
            warned_unlocked: false,
            warned_namespaces: false,
            reports: Reports::default(),
            progress: Arc::default(),
            stop: stop.ok().map(Arc::new),
            log: log.clone(),
        };
        if let Err(error) = freeze::raise_file_limit() {
            warn!(log, "cannot raise the limit of open files: {}", error);
        }
        vss.recover();
        vss
    }

    /// Ends the freeze of an earlier agent, if that left a record of one.
    fn recover(&mut self) {
        let mut record = match self.in_runtime_directory(state_file::read) {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => return self.warn_of_record("read", &error),
        };
        let deadline = Instant::now() + THAW_AND_HOOKS;
        self.inconsistent = Some(Inconsistent::Restarted);
        let was_frozen = record.frozen.len();
        let report = (record != FreezeRecord::default()).then(|| {
            let kind = match record.rehearsal {
                true => Kind::Rehearsal,
                false => Kind::Backup,
            };
            Report::recovered(kind, was_frozen)
        });
        let reset = recover::reset_rcu_expedited(&self.config.environment.root, &record);
        // One that cannot be reset stays in the record.
        record.rcu_expedited = reset.is_err();
        match reset {
            Ok(None) => {}
            Ok(Some(switch)) => {
                let (log, switch) = (&self.log, switch.display());
                warn!(log, "{} was still 1 after a freeze: reset to 0", switch);
            }
            Err((switch, error)) => {
                let switch = switch.display();
                warn!(
                    self.log,
                    "cannot reset {} to 0 after a freeze: {}", switch, error
                );
            }
        }
        let hooks = std::mem::take(&mut record.hooks);
        let hooks = PendingHooks::from_paths(&self.config.hooks, hooks);
        self.leftover = record;
        if let Err(error) = self.thaw_leftover() {
            error!(self.log, "{}", display_chain(&error));
        }
        hooks.kill_stale(&self.log);
        let time = deadline.saturating_duration_since(Instant::now());
        let runs = hooks.run_post_thaw(EndReason::AgentRestarted, time, &self.log);
        if let Some(mut report) = report {
            report.add_hooks(runs);
            let why = Inconsistent::Restarted.to_string();
            let outcome = match was_frozen {
                0 => Outcome::Failed(why),
                _ => Outcome::Inconsistent(why),
            };
            self.reports.end(report, outcome, &self.log);
        }
        self.write_record(&self.leftover);
    }

    /// Thaws what an earlier agent left frozen. What cannot be thawed stays in
    /// `leftover` for the next try.
    fn thaw_leftover(&mut self) -> Result<(), Error> {
        if !self.leftover.frozen.is_empty() {
            let found = recover::recorded(&self.config, &self.leftover)?;
            let on_wait = &mut log_wait(&self.log, None);
            let (root, record) = (&self.config.environment.root, &self.leftover);
            let attempts = recover::thaw(&mut self.freezer, &found, root, record, on_wait);
            self.leftover.frozen.clear();
            for attempt in attempts.into_iter().rev() {
                let mount_point = &attempt.mount_point;
                match attempt.outcome {
                    Ok(true) => warn!(
                        self.log,
                        "the file system at {:?} was still frozen: thawed", mount_point
                    ),
                    Ok(false) => {}
                    Err(error) => {
                        error!(
                            self.log,
                            "cannot thaw the file system at {:?}: {}", mount_point, error
                        );
                        self.leftover.frozen.push(FrozenFileSystem {
                            device: attempt.device,
                            mount_point: attempt.mount_point,
                        });
                    }
                }
            }
        }
        match self.leftover.frozen.first() {
            None => Ok(()),
            Some(frozen) => Err(Error::StillFrozen(frozen.mount_point.clone())),
        }
    }

    fn freeze(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let deadline = began + THAW_AND_HOOKS;
        self.handle_events(deadline);
        self.end_rehearsal_for_host(deadline);
        if matches!(self.state, State::Frozen(_)) {
            // The disks have been consistent since then.
            debug!(self.log, "frozen already");
            return Ok(());
        }
        let stop = self.stop.clone();
        let stop = stop.as_ref().map(|stop| stop.as_fd());
        let mut report = Report::new(Kind::Backup);
        match self.quiesce(&mut report, began, stop) {
            Ok((hooks, operation)) => {
                self.state = State::Frozen(Freeze {
                    report,
                    hooks,
                    operation,
                });
                Ok(())
            }
            Err(error) => {
                let outcome = Outcome::Failed(display_chain(&error));
                self.reports.end(report, outcome, &self.log);
                Err(error)
            }
        }
    }

    /// Quiesces applications by their hooks and freezes file systems. `began` is the time
    /// of the request; `stop` interrupts it when readable.
    fn quiesce(
        &mut self,
        report: &mut Report,
        began: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(PendingHooks, OperationGuard), Error> {
        self.freezer.thaw_stuck(&mut log_wait(&self.log, None))?;
        self.thaw_leftover()?;
        if report.kind() == Kind::Backup {
            self.inconsistent = None;
        }
        let operation = self.progress.begin(Operation::Freezing);
        let hooks = self.run_pre_freeze(report, began + HOOKS_BEFORE_FREEZE, stop)?;
        let latest = (Instant::now() + self.config.prepare_limit).min(began + FREEZE_START);
        let mut frozen = Ok(());
        if report.kind() != Kind::HooksOnly {
            frozen = self.freeze_file_systems(report, &hooks, &operation, latest, stop);
        }
        if let Err(error) = frozen {
            let time = match &error {
                // The thaw has used up its time.
                Error::Freeze(FreezeError::Stopped) if self.freezer.stuck().next().is_some() => {
                    THAW_AND_HOOKS_AT_EXIT - THAW_BRIEF
                }
                Error::Freeze(FreezeError::Stopped) | Error::Prepare(PrepareError::Stopped) => {
                    THAW_AND_HOOKS_AT_EXIT
                }
                _ => THAW_AND_HOOKS,
            };
            self.freezer.end_unused_guard();
            self.log_stuck();
            report.add_hooks(hooks.run_post_thaw(EndReason::FreezeFailed, time, &self.log));
            self.record_stuck();
            return Err(error);
        }
        let mount_points = report.mount_points().iter();
        operation.change_to(Operation::Frozen {
            file_systems: report.file_systems(),
            mount_points: mount_points.map(|it| it.display().to_string()).collect(),
            rehearsal: report.is_rehearsal(),
        });
        Ok((hooks, operation))
    }

    fn run_pre_freeze(
        &self,
        report: &mut Report,
        deadline: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<PendingHooks, Error> {
        let rehearsal = report.is_rehearsal();
        let on_step = |step: HookStep<'_>| match step {
            HookStep::Starts(hooks) => self.write_record(&FreezeRecord {
                hooks: hooks.to_vec(),
                rehearsal,
                ..FreezeRecord::default()
            }),
            HookStep::Ended(run) => report.add_hooks([run]),
        };
        hooks::run_pre_freeze(&self.config.hooks, deadline, stop, on_step, &self.log)
            .inspect_err(|_| self.clear_record())
            .map_err(Error::from)
    }

    fn freeze_file_systems(
        &mut self,
        report: &mut Report,
        hooks: &PendingHooks,
        operation: &OperationGuard,
        latest: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        // It gets ready meanwhile, and the record names it.
        self.freezer.prepare().map_err(FreezeError::from)?;
        let mut prepared = sys::aside(|| prepare::plan_and_open(&self.config))?;
        for pattern in prepared.plan.unmatched.drain(..) {
            if self.warned_patterns.insert(pattern.clone()) {
                warn!(self.log, "{}", pattern);
            }
        }
        let plan = &prepared.plan;
        if plan.namespaces_cut && !self.warned_namespaces {
            self.warned_namespaces = true;
            warn!(self.log, "{}", Plan::NAMESPACES_CUT);
        }
        for left_out in &plan.left_out {
            let (point, reason) = (left_out.file_system.mount_point(), &left_out.reason);
            match reason.is_fault() {
                true => warn!(self.log, "{:?} is left out: {}", point, reason),
                false => debug!(self.log, "{:?} is left out: {}", point, reason),
            }
        }
        let device = self.in_runtime_directory(DeviceNumber::of).ok();
        if plan.freeze.iter().any(|it| Some(it.device) == device) {
            warn!(
                self.log,
                "{} is on a file system that is about to be frozen: if the agent is killed \
                 meanwhile, it cannot be started again; set runtime-directory to one in memory",
                self.config.environment.runtime_dir.display()
            );
        }
        for gone in &prepared.gone {
            debug!(self.log, "{}", gone);
        }
        prepared.check()?;
        if prepared.opened.is_empty() {
            if self.config.include != Patterns::default() {
                return Err(Error::NothingIncluded);
            }
            warn!(self.log, "there is no file system to freeze");
        }
        self.write_record(&FreezeRecord {
            frozen: prepared.opened.iter().map(FrozenFileSystem::from).collect(),
            guard: self.freezer.guard_pid(),
            hooks: hooks.paths().to_vec(),
            rehearsal: report.is_rehearsal(),
            rcu_expedited: recover::can_expedite_rcu(&self.config.environment.root),
        });
        prepared.write_out(self.write_out, WRITE_OUT_LONG, latest, stop)?;
        let mount_points = prepared.opened.iter().map(|it| it.mount_point.clone());
        let mount_points = mount_points.collect();
        let summary = self.freezer.freeze(
            prepared.opened,
            self.config.time_limit,
            latest,
            stop,
            &mut log_wait(&self.log, Some(operation)),
        )?;
        report.set_frozen(mount_points, &summary);
        self.log_frozen(&summary);
        Ok(())
    }

    fn log_frozen(&mut self, summary: &FreezeSummary) {
        let unlocked = summary.not_locked.filter(|_| !self.warned_unlocked);
        if let Some(errno) = unlocked {
            self.warned_unlocked = true;
            warn!(
                self.log,
                "cannot lock the guard's memory ({}), so it may wait for a disk while file systems \
                 are frozen; grant CAP_IPC_LOCK or set LimitMEMLOCK=infinity",
                errno
            );
        }
        for path in &summary.frozen_before {
            info!(
                self.log,
                "the file system at {:?} was already frozen by another program", path
            );
        }
        for skipped in &summary.skipped {
            warn!(self.log, "{}", skipped);
        }
        info!(
            self.log,
            "file systems frozen: {}, in {:.1} ms",
            summary.frozen,
            summary.took.as_secs_f64() * 1000.0
        );
    }

    fn thaw(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + THAW_AND_HOOKS;
        // The time limit may have come just before this request.
        self.handle_events(deadline);
        self.end_rehearsal_for_host(deadline);
        let State::Frozen(freeze) = std::mem::take(&mut self.state) else {
            // The guard has tried long enough to thaw what is stuck.
            let thawed = self.thaw_file_systems(THAW_BRIEF, None);
            return self.thaw_result(thawed);
        };
        let (thawed, report) = self.end_freeze(freeze, EndReason::Thawed, deadline, THAW);
        let result = self.thaw_result(thawed);
        let outcome = match &result {
            Ok(()) => Outcome::Consistent,
            Err(error) => Outcome::Inconsistent(display_chain(error)),
        };
        self.reports.end(report, outcome, &self.log);
        result
    }

    /// Returns the answer to the host's THAW.
    fn thaw_result(&mut self, thawed: ThawSummary) -> Result<(), Error> {
        if let Some((path, why)) = self.freezer.stuck().next() {
            if self.leftover.frozen.is_empty() {
                // The hooks have run.
                self.record_stuck();
            }
            return Err(Error::NotThawed { path, why });
        }
        self.thaw_leftover()?;
        self.remove_record();
        let early = Some(thawed.early).filter(|paths| !paths.is_empty());
        match self.inconsistent.take().or(early.map(Inconsistent::Early)) {
            Some(inconsistent) => Err(inconsistent.into()),
            None => Ok(()),
        }
    }

    /// Handles what the guard and the client of a rehearsal report: either may end a
    /// freeze before the host asks for its thaw. Returns by `deadline`.
    fn handle_events(&mut self, deadline: Instant) {
        self.handle_rehearsal_events(deadline);
        if !self.freezer.is_frozen() {
            self.handle_late_thaws();
            return;
        }
        match self.freezer.guard_state() {
            GuardState::Running => {}
            GuardState::TimeLimit => {
                let why = Inconsistent::TimeLimit(self.config.time_limit);
                self.abort(why, EndReason::TimeLimit, deadline);
            }
            GuardState::Gone => {
                self.abort(Inconsistent::GuardGone, EndReason::Interrupted, deadline);
            }
        }
    }

    /// Removes from the record what was stuck and is thawed now.
    fn handle_late_thaws(&mut self) {
        let thawed = self.freezer.late_thaws();
        for frozen in &thawed {
            info!(
                self.log,
                "the file system at {:?} is thawed now", frozen.mount_point
            );
        }
        if !thawed.is_empty() {
            self.leftover.frozen.retain(|left| !thawed.contains(left));
            if self.leftover.frozen.is_empty() {
                self.record_stuck();
            }
        }
    }

    /// Ends a freeze before the host asks for its thaw.
    fn abort(&mut self, why: Inconsistent, end: EndReason, deadline: Instant) {
        if matches!(self.state, State::Rehearsing(..)) {
            let why = match why {
                Inconsistent::TimeLimit(limit) => format!(
                    "the time limit of {} s was reached, so everything was thawed",
                    limit.as_secs()
                ),
                why => why.to_string(),
            };
            self.end_rehearsal(Some(why), end, deadline);
        } else if let State::Frozen(freeze) = std::mem::take(&mut self.state) {
            warn!(self.log, "{}", why);
            let outcome = Outcome::Inconsistent(why.to_string());
            self.inconsistent = Some(why);
            let (_, report) = self.end_freeze(freeze, end, deadline, THAW_BRIEF);
            self.reports.end(report, outcome, &self.log);
            self.record_stuck();
        }
    }

    /// Thaws, waiting for `limit` at most, and runs the hooks with `thaw`. Returns by
    /// `deadline`.
    fn end_freeze(
        &mut self,
        freeze: Freeze,
        end: EndReason,
        deadline: Instant,
        limit: Duration,
    ) -> (ThawSummary, Report) {
        let mut report = freeze.report;
        let thawed = self.thaw_file_systems(limit, Some(&freeze.operation));
        report.set_thawed(&thawed, end);
        let time = deadline.saturating_duration_since(Instant::now());
        report.add_hooks(freeze.hooks.run_post_thaw(end, time, &self.log));
        (thawed, report)
    }

    fn thaw_file_systems(
        &mut self,
        limit: Duration,
        operation: Option<&OperationGuard>,
    ) -> ThawSummary {
        let thawed = self
            .freezer
            .thaw(limit, &mut log_wait(&self.log, operation));
        if thawed.thawed > 0 {
            info!(
                self.log,
                "file systems thawed: {}, after {:.1} s",
                thawed.thawed,
                thawed.after.as_secs_f64()
            );
        }
        self.log_stuck();
        thawed
    }

    fn log_stuck(&self) {
        for (path, why) in self.freezer.stuck() {
            error!(
                self.log,
                "cannot thaw the file system at {:?}: {}", path, why
            );
        }
    }

    /// Records what could not be thawed, for an agent that is started after this one.
    fn record_stuck(&self) {
        let stuck: Vec<_> = self.freezer.not_thawed().collect();
        match stuck.is_empty() {
            true => self.clear_record(),
            false => self.write_record(&FreezeRecord {
                frozen: stuck,
                guard: self.freezer.guard_pid(),
                ..FreezeRecord::default()
            }),
        }
    }

    /// Writes the record for an agent that is started after this one. Should that fail,
    /// the guard still thaws.
    fn write_record(&self, record: &FreezeRecord) {
        let record = record.clone();
        let write = move |directory: &Path| state_file::write(directory, &record);
        if let Err(error) = self.in_runtime_directory(write) {
            self.warn_of_record("write", &error);
        }
    }

    /// Removes the record, or empties it while the host's next THAW has to fail.
    fn clear_record(&self) {
        match self.inconsistent {
            None => self.remove_record(),
            Some(_) => self.write_record(&FreezeRecord::default()),
        }
    }

    fn remove_record(&self) {
        if let Err(error) = self.in_runtime_directory(state_file::remove) {
            self.warn_of_record("remove", &error);
        }
    }

    fn warn_of_record(&self, doing: &str, error: &io::Error) {
        let directory = self.config.environment.runtime_dir.display();
        warn!(
            self.log,
            "cannot {} the record of frozen file systems in {}: {}", doing, directory, error
        );
    }

    /// Calls `action` with the runtime directory, which may be on a disk that hangs, and
    /// waits for a limited time.
    fn in_runtime_directory<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let directory = self.config.environment.runtime_dir.clone();
        let action = move || action(&directory);
        let outcome = Lookups::new().run(&self.config.environment.runtime_dir, action);
        outcome.unwrap_or_else(|error| Err(io::Error::new(io::ErrorKind::TimedOut, error)))
    }
}

/// Returns a callback that shows in the log and in the status which file system a freeze
/// or thaw waits for.
fn log_wait<'a>(
    log: &'a Logger,
    operation: Option<&'a OperationGuard>,
) -> impl FnMut(Action, &Path) + 'a {
    move |action, path| {
        warn!(
            log,
            "waiting for the file system at {:?} to {}", path, action
        );
        if let Some(operation) = operation {
            operation.set_waits_for(path);
        }
    }
}

impl Service for Vss {
    /// The messages of VSS have no strings, so both encodings are the same.
    fn handle(&mut self, _: Encoding, body: &mut [u8]) -> Status {
        let request = match wire::decode(body) {
            Ok(request) => request,
            Err(malformed) => {
                warn!(self.log, "request refused: {}", malformed);
                return malformed.status();
            }
        };
        let executed = match request {
            Request::HotBackup | Request::DmInfo | Request::Step => Ok(()),
            Request::Freeze => self.freeze(),
            Request::Thaw => self.thaw(),
        };
        match executed {
            Ok(()) => {
                wire::encode(request, body);
                Status::OK
            }
            Err(error) => {
                // The report of the backup has logged it.
                debug!(self.log, "request refused: {}", display_chain(&error));
                Status::FAIL
            }
        }
    }

    fn busy(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    fn stop(&self) -> Option<Arc<Stop>> {
        self.stop.clone()
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.progress))
    }

    fn record_in(&mut self, record: &Arc<ServiceRecord>) {
        self.reports.keep_in(record);
    }

    fn watched(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Rehearsing(_, rehearsal) => Some(rehearsal.watched()),
            State::Idle | State::Frozen(_) => self.freezer.watched().map(AsFd::as_fd),
        }
    }

    fn command(&mut self, command: Command, client: Box<dyn Client>, host: Option<BorrowedFd<'_>>) {
        match command {
            Command::Rehearse(what) => self.rehearse(&what, client, host),
        }
    }

    fn woken(&mut self) {
        self.handle_events(Instant::now() + THAW_AND_HOOKS);
    }
}

impl Drop for Vss {
    fn drop(&mut self) {
        let deadline = Instant::now() + THAW_AND_HOOKS_AT_EXIT;
        self.abort(Inconsistent::Restarted, EndReason::Interrupted, deadline);
    }
}
