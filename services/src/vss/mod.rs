//! Freezing file systems for backups. Protocol section 8.
//!
//! The way of a FREEZE: [`wire`] decodes it; [`hooks`] lets the applications
//! come to rest; [`plan`] says which of the machine's `mounts` are frozen and in
//! which order, by what lies on what ([`stack`]); [`open`] gets a descriptor of
//! each; the [`state_file`] notes them; the [`guard`], a process of its own, gets a
//! copy of each descriptor; and then [`freeze`] has it do nothing but one call for
//! each, in `haste`. A THAW goes back the same way. Whatever else ends a freeze
//! is in `Vss::spoil` and in the end of a [`Vss`]: then the THAW that the host
//! still sends is answered with a failure, as its backup is not consistent. What is
//! known of a backup is in its `report`; a `rehearsal` is one that an administrator
//! asks for.

use std::cell::RefCell;
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
use self::freeze::{Action, FreezeError, Freezer, StartGuard, Thawed};
use self::guard::{Guard, GuardState};
use self::hooks::{EndReason, HookStep, PendingHooks};
use self::plan::UnmatchedPattern;
use self::prepare::PrepareError;
use self::report::Report;
use self::state_file::{FreezeRecord, FrozenFileSystem};
use self::watch::Rehearsal;
use self::wire::Request;
use self::write_out::WriteOut;
use crate::backup::{HookRun, Kind, LastBackup, Outcome};
use crate::command::{Client, Command};
use crate::error_chain::display_chain;
use crate::progress::{Operation, OperationGuard, Progress};
use crate::service::{Entry, Service};
use crate::stop::Stop;
use crate::timeouts::{
    FREEZE_START, HOOKS_BEFORE_FREEZE, THAW, THAW_AND_HOOKS, THAW_AND_HOOKS_AT_EXIT, THAW_BRIEF,
};

pub mod block_devices;
mod blocking;
pub mod config;
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
    make: |config, log| Box::new(Vss::new(&config.vss, log, Processes::OWN)),
};

/// What the service has other processes do, since the kernel may not come back from
/// it: a process with a thread that waits there does not end.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    /// Starts the one that freezes and thaws.
    pub start_guard: StartGuard,
    /// Writes a file system out.
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
    /// The hooks that wait for the thaw.
    hooks: Option<PendingHooks>,
    /// What an agent before this one may have left frozen, and this one could not
    /// try to thaw.
    left: FreezeRecord,
    /// Patterns that mean nothing, and were told of.
    told: HashSet<UnmatchedPattern>,
    /// What the next THAW is answered.
    spoiled: Option<Inconsistent>,
    /// Whether it was said that the guard's memory is not locked.
    told_of_memory: bool,
    report: Report,
    rehearsal: Option<Rehearsal>,
    progress: Arc<Progress>,
    operation: Option<OperationGuard>,
    stop: Option<Arc<Stop>>,
    log: Logger,
}

impl Vss {
    /// The service, with a guard at hand. What an earlier agent has left frozen
    /// is thawed.
    pub fn new(config: &Config, log: &Logger, processes: Processes) -> Self {
        let stop = Stop::new()
            .inspect_err(|error| warn!(log, "no hook can be cut short at the end: {}", error));
        let mut vss = Self {
            config: config.clone(),
            freezer: Freezer::new(processes.start_guard),
            write_out: processes.write_out,
            hooks: None,
            left: FreezeRecord::default(),
            told: HashSet::new(),
            spoiled: None,
            told_of_memory: false,
            report: Report::default(),
            rehearsal: None,
            progress: Arc::default(),
            operation: None,
            stop: stop.ok().map(Arc::new),
            log: log.clone(),
        };
        if let Err(error) = freeze::allow_descriptors() {
            warn!(log, "the number of open files stays limited: {}", error);
        }
        if let Err(error) = vss.freezer.prepare() {
            warn!(vss.log, "{}", display_chain(&error));
        }
        vss.recover();
        vss
    }

    /// Ends what the note tells of an agent before this one.
    fn recover(&mut self) {
        let mut note = match self.runtime(state_file::read) {
            Ok(Some(note)) => note,
            Ok(None) => return,
            Err(error) => {
                let directory = self.config.environment.runtime_dir.display();
                warn!(
                    self.log,
                    "cannot read in {} what may be frozen: {}", directory, error
                );
                return;
            }
        };
        let by = Instant::now() + THAW_AND_HOOKS;
        self.spoiled = Some(Inconsistent::Restarted);
        let was_frozen = note.frozen.len();
        if note != FreezeRecord::default() {
            self.report.begin(match note.rehearsal {
                true => Kind::Rehearsal,
                false => Kind::Backup,
            });
            self.report.found(was_frozen);
        }
        let hooks = std::mem::take(&mut note.hooks);
        match recover::reset_rcu_expedited(&self.config.environment.root, &note) {
            Ok(None) => note.rcu_expedited = false,
            Ok(Some(switch)) => {
                note.rcu_expedited = false;
                warn!(
                    self.log,
                    "{} was still 1 after a freeze, and is 0 again",
                    switch.display()
                );
            }
            // It stays noted.
            Err((switch, error)) => warn!(
                self.log,
                "{} is still 1 after a freeze and cannot be made 0: {}",
                switch.display(),
                error
            ),
        }
        self.left = note;
        if let Err(error) = self.thaw_left() {
            error!(self.log, "{}", display_chain(&error));
        }
        let ran = PendingHooks::from_paths(&self.config.hooks, hooks);
        ran.kill_stale(&self.log);
        self.hooks = Some(ran);
        self.end_hooks(EndReason::AgentRestarted, by);
        let why = Inconsistent::Restarted.to_string();
        let outcome = match was_frozen {
            0 => Outcome::Failed(why),
            _ => Outcome::Inconsistent(why),
        };
        self.report.end(outcome, &self.log);
        self.note(&self.left);
    }

    /// Thaws what an agent before this one has left frozen; what cannot be thawed
    /// is left to be tried again.
    fn thaw_left(&mut self) -> Result<(), Error> {
        if !self.left.frozen.is_empty() {
            let found = recover::recorded(&self.config, &self.left)?;
            let waits = &mut waits(&self.log, self.operation.as_ref());
            let (root, note) = (&self.config.environment.root, &self.left);
            let tried = recover::thaw(&mut self.freezer, &found, root, note, waits);
            self.left.frozen.clear();
            for tried in tried.into_iter().rev() {
                match tried.outcome {
                    Ok(true) => warn!(
                        self.log,
                        "the file system at {:?} was still frozen, and is thawed",
                        tried.mount_point
                    ),
                    Ok(false) => {}
                    Err(error) => {
                        error!(
                            self.log,
                            "cannot thaw the file system at {:?}: {}", tried.mount_point, error
                        );
                        self.left.frozen.push(FrozenFileSystem {
                            device: tried.device,
                            mount_point: tried.mount_point,
                        });
                    }
                }
            }
        }
        match self.left.frozen.first() {
            None => Ok(()),
            Some(noted) => Err(Error::StillFrozen(noted.mount_point.clone())),
        }
    }

    fn carry_out(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::HotBackup | Request::DmInfo | Request::Step => Ok(()),
            Request::Freeze => self.freeze(),
            Request::Thaw => self.thaw(),
        }
    }

    fn freeze(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let by = began + THAW_AND_HOOKS;
        self.end_earlier(by);
        self.end_rehearsal_for_host(by);
        if self.freezer.is_frozen() {
            // The same freeze serves: what is on the disks is still consistent.
            debug!(self.log, "frozen already");
            return Ok(());
        }
        self.report.begin(Kind::Backup);
        let stop = self.stop.clone();
        let stop = stop.as_ref().map(|stop| stop.as_fd());
        let frozen = self.freeze_all(Kind::Backup, began, stop);
        if let Err(error) = &frozen {
            self.report
                .end(Outcome::Failed(display_chain(error)), &self.log);
        }
        frozen
    }

    /// Lets applications come to rest, and freezes file systems, as was asked for when it
    /// `began`; `stop` is readable where that is to be cut short.
    fn freeze_all(
        &mut self,
        kind: Kind,
        began: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        self.freezer
            .end_earlier(&mut waits(&self.log, self.operation.as_ref()))?;
        self.thaw_left()?;
        if kind == Kind::Backup {
            self.spoiled = None;
        }
        self.operation = Some(self.progress.begin(Operation::Freezing));
        self.rest_and_freeze(kind, began, stop)
            .inspect_err(|_| self.operation = None)?;
        let (file_systems, mount_points) = self.report.what_is_frozen();
        if let Some(operation) = &self.operation {
            operation.change_to(Operation::Frozen {
                file_systems,
                mount_points,
                rehearsal: kind != Kind::Backup,
            });
        }
        Ok(())
    }

    fn rest_and_freeze(
        &mut self,
        kind: Kind,
        began: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let runs = RefCell::default();
        let ran = self.run_hooks(began + HOOKS_BEFORE_FREEZE, stop, &runs);
        self.report.hooks(runs.take());
        let ran = ran?;
        let latest = (Instant::now() + self.config.prepare_limit).min(began + FREEZE_START);
        let frozen = match kind {
            Kind::HooksOnly => Ok(()),
            Kind::Backup | Kind::Rehearsal => self.freeze_file_systems(&ran, latest, stop),
        };
        self.hooks = Some(ran);
        if let Err(error) = &frozen {
            let time = match error {
                // Thawing has taken what it may.
                Error::Freeze(FreezeError::Stopped) if self.freezer.stuck().next().is_some() => {
                    THAW_AND_HOOKS_AT_EXIT - THAW_BRIEF
                }
                Error::Freeze(FreezeError::Stopped) | Error::Prepare(PrepareError::Stopped) => {
                    THAW_AND_HOOKS_AT_EXIT
                }
                _ => THAW_AND_HOOKS,
            };
            self.complain();
            self.end_hooks(EndReason::FreezeFailed, Instant::now() + time);
            self.note_stuck();
        }
        frozen
    }

    /// Lets applications come to rest; what came of each hook is added to `runs`.
    fn run_hooks(
        &self,
        deadline: Instant,
        stop: Option<BorrowedFd<'_>>,
        runs: &RefCell<Vec<HookRun>>,
    ) -> Result<PendingHooks, Error> {
        let note = |step: HookStep<'_>| match step {
            HookStep::Starts(hooks) => self.note(&FreezeRecord {
                hooks: hooks.to_vec(),
                rehearsal: self.report.is_rehearsal(),
                ..FreezeRecord::default()
            }),
            HookStep::Ended(run) => runs.borrow_mut().push(run),
        };
        let ran = hooks::run_pre_freeze(&self.config.hooks, deadline, stop, note, &self.log)
            .inspect_err(|_| self.forget_unless_spoiled())?;
        Ok(ran)
    }

    fn freeze_file_systems(
        &mut self,
        ran: &PendingHooks,
        latest: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let mut prepared = prepare::plan_and_open(&self.config)?;
        for unmatched in prepared.plan.unmatched.drain(..) {
            if !self.told.contains(&unmatched) {
                warn!(self.log, "{}", unmatched);
                self.told.insert(unmatched);
            }
        }
        let plan = &prepared.plan;
        for left_out in &plan.left_out {
            let (point, reason) = (left_out.file_system.mount_point(), &left_out.reason);
            match reason.is_fault() {
                true => warn!(self.log, "{:?} is left out: {}", point, reason),
                false => debug!(self.log, "{:?} is left out: {}", point, reason),
            }
        }
        let notes = self.config.environment.runtime_dir.as_path();
        if let Ok(device) = self.runtime(DeviceNumber::of) {
            if plan.freeze.iter().any(|it| it.device == device) {
                warn!(
                    self.log,
                    "{} is on a file system that is about to be frozen: an agent that is killed \
                     meanwhile cannot be started again; set runtime-directory to one in memory",
                    notes.display()
                );
            }
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
        self.note(&FreezeRecord {
            frozen: prepared.opened.iter().map(FrozenFileSystem::from).collect(),
            guard: self.freezer.guard(),
            hooks: ran.paths().to_vec(),
            rehearsal: self.report.is_rehearsal(),
            rcu_expedited: recover::can_expedite_rcu(&self.config.environment.root),
        });
        prepared.write_out(self.write_out, latest, stop)?;
        let mount_points = report::mount_points(&prepared.opened);
        let summary = self.freezer.freeze(
            prepared.opened,
            self.config.time_limit,
            latest,
            stop,
            &mut waits(&self.log, self.operation.as_ref()),
        )?;
        self.report.frozen(mount_points, &summary);
        if let Some(errno) = summary.not_locked {
            if !std::mem::replace(&mut self.told_of_memory, true) {
                warn!(
                    self.log,
                    "the guard's memory is not locked ({}), so that it may have to wait for a disk \
                 while file systems are frozen: that takes CAP_IPC_LOCK, or LimitMEMLOCK=infinity",
                    errno
                );
            }
        }
        for path in &summary.frozen_before {
            info!(
                self.log,
                "the file system at {:?} was frozen already by somebody else", path
            );
        }
        for left_out in &summary.left_out {
            warn!(self.log, "{}", left_out);
        }
        info!(
            self.log,
            "file systems frozen: {}, in {:.1} ms",
            summary.frozen,
            summary.took.as_secs_f64() * 1000.0
        );
        Ok(())
    }

    fn thaw(&mut self) -> Result<(), Error> {
        let by = Instant::now() + THAW_AND_HOOKS;
        // It may have been thawed for another reason at this moment.
        self.end_earlier(by);
        self.end_rehearsal_for_host(by);
        let thawed = self.thaw_all(by);
        let outcome = match &thawed {
            Ok(()) => Outcome::Consistent,
            Err(error) => Outcome::Inconsistent(display_chain(error)),
        };
        self.report.end(outcome, &self.log);
        thawed
    }

    /// Thaws what is frozen, as the host asked for.
    fn thaw_all(&mut self, by: Instant) -> Result<(), Error> {
        // What was thawed before has had its time.
        let limit = match self.freezer.is_frozen() {
            true => THAW,
            false => THAW_BRIEF,
        };
        let thawed = self.end_freeze(EndReason::Thawed, by, limit);
        if let Some((path, why)) = self.freezer.stuck().next() {
            if self.left.frozen.is_empty() {
                // The hooks have run.
                self.note_stuck();
            }
            return Err(Error::NotThawed { path, why });
        }
        self.thaw_left()?;
        self.forget();
        let early = Some(thawed.early).filter(|paths| !paths.is_empty());
        match self.spoiled.take().or(early.map(Inconsistent::Early)) {
            Some(spoiled) => Err(spoiled.into()),
            None => Ok(()),
        }
    }

    /// Ends a freeze that is over before the host asks for it, if one is; is back `by`
    /// then.
    fn end_earlier(&mut self, by: Instant) {
        self.rehearsal_woken(by);
        if !self.freezer.is_frozen() {
            self.thawed_late();
            return;
        }
        match self.freezer.news() {
            GuardState::None => {}
            GuardState::TimeLimit => {
                let why = Inconsistent::TimeLimit(self.config.time_limit);
                self.spoil(why, EndReason::TimeLimit, by);
            }
            GuardState::Gone => {
                self.spoil(Inconsistent::GuardGone, EndReason::Interrupted, by);
                if let Err(error) = self.freezer.prepare() {
                    warn!(self.log, "{}", display_chain(&error));
                }
            }
        }
    }

    /// Takes note of what got stuck and is thawed now.
    fn thawed_late(&mut self) {
        let thawed = self.freezer.thawed_late();
        for noted in &thawed {
            info!(
                self.log,
                "the file system at {:?} is thawed by now", noted.mount_point
            );
        }
        if !thawed.is_empty() {
            self.left.frozen.retain(|left| !thawed.contains(left));
            if self.left.frozen.is_empty() {
                self.note_stuck();
            }
        }
    }

    /// Ends a freeze before the host asks for it.
    fn spoil(&mut self, why: Inconsistent, end: EndReason, by: Instant) {
        if self.rehearsal.is_some() {
            let why = match why {
                Inconsistent::TimeLimit(limit) => format!(
                    "file systems were frozen for as long as they may, {} s, so all was thawed",
                    limit.as_secs()
                ),
                why => why.to_string(),
            };
            self.end_rehearsal(Some(why), end, by);
            return;
        }
        warn!(self.log, "{}", why);
        let outcome = Outcome::Inconsistent(why.to_string());
        self.spoiled = Some(why);
        self.end_freeze(end, by, THAW_BRIEF);
        self.report.end(outcome, &self.log);
        self.note_stuck();
    }

    /// Thaws what is frozen, for which it waits as long as `limit`, and lets the
    /// applications go on; is back `by` then.
    fn end_freeze(&mut self, end: EndReason, by: Instant, limit: Duration) -> Thawed {
        let thawed = self
            .freezer
            .thaw(limit, &mut waits(&self.log, self.operation.as_ref()));
        self.report.thawed(&thawed);
        if thawed.thawed > 0 {
            info!(
                self.log,
                "file systems thawed: {}, after {:.1} s",
                thawed.thawed,
                thawed.after.as_secs_f64()
            );
        }
        self.complain();
        self.end_hooks(end, by);
        self.operation = None;
        thawed
    }

    /// Says what could not be thawed.
    fn complain(&self) {
        for (path, why) in self.freezer.stuck() {
            error!(
                self.log,
                "cannot thaw the file system at {:?}: {}", path, why
            );
        }
    }

    fn end_hooks(&mut self, end: EndReason, by: Instant) {
        if let Some(ran) = self.hooks.take() {
            let time = by.saturating_duration_since(Instant::now());
            let runs = ran.run_post_thaw(end, time, &self.log);
            self.report.hooks(runs);
        }
    }

    /// Notes what could not be thawed, for an agent that is started after this one.
    fn note_stuck(&self) {
        let stuck: Vec<_> = self.freezer.not_thawed().collect();
        match stuck.is_empty() {
            true => self.forget_unless_spoiled(),
            false => self.note(&FreezeRecord {
                frozen: stuck,
                guard: self.freezer.guard(),
                ..FreezeRecord::default()
            }),
        }
    }

    /// Notes what is frozen. Without the note a restarted agent knows less; the
    /// guard thaws all the same.
    fn note(&self, note: &FreezeRecord) {
        let note = note.clone();
        if let Err(error) = self.runtime(move |directory| state_file::write(directory, &note)) {
            let directory = self.config.environment.runtime_dir.display();
            warn!(
                self.log,
                "cannot note in {} what is frozen: {}", directory, error
            );
        }
    }

    /// Nothing is frozen any more; what the host's next THAW is answered stays noted.
    fn forget_unless_spoiled(&self) {
        match self.spoiled {
            None => self.forget(),
            Some(_) => self.note(&FreezeRecord::default()),
        }
    }

    fn forget(&self) {
        if let Err(error) = self.runtime(state_file::remove) {
            let directory = self.config.environment.runtime_dir.display();
            warn!(
                self.log,
                "cannot remove the note of what is frozen from {}: {}", directory, error
            );
        }
    }

    /// Does something with the runtime directory, which may be anywhere.
    fn runtime<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let directory = self.config.environment.runtime_dir.clone();
        let look = move || action(&directory);
        let outcome = Lookups::new().look(&self.config.environment.runtime_dir, look);
        outcome.unwrap_or_else(|no_answer| Err(io::Error::new(io::ErrorKind::TimedOut, no_answer)))
    }
}

/// Says in the log and in the status which file system is waited for.
fn waits<'a>(
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
    /// Its messages have no strings: they look the same in either encoding.
    fn handle(&mut self, _: Encoding, body: &mut [u8]) -> Status {
        let request = match wire::decode(body) {
            Ok(request) => request,
            Err(malformed) => {
                warn!(self.log, "request refused: {}", malformed);
                return malformed.status();
            }
        };
        match self.carry_out(request) {
            Ok(()) => {
                wire::encode(request, body);
                Status::OK
            }
            Err(error) => {
                // The end of the backup has told of it.
                debug!(self.log, "request refused: {}", display_chain(&error));
                error.status()
            }
        }
    }

    fn busy(&self) -> bool {
        self.freezer.is_frozen() || self.rehearsal.is_some()
    }

    fn stop(&self) -> Option<Arc<Stop>> {
        self.stop.clone()
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.progress))
    }

    fn keep_in(&mut self, last: &Arc<LastBackup>) {
        self.report.keep_in(last);
    }

    fn watched(&self) -> Option<BorrowedFd<'_>> {
        match &self.rehearsal {
            Some(rehearsal) => Some(rehearsal.watched()),
            None => self.freezer.watched().map(AsFd::as_fd),
        }
    }

    fn command(&mut self, command: Command, client: Box<dyn Client>, host: Option<BorrowedFd<'_>>) {
        match command {
            Command::Rehearse(what) => self.rehearse(&what, client, host),
        }
    }

    fn woken(&mut self) {
        self.end_earlier(Instant::now() + THAW_AND_HOOKS);
    }
}

impl Drop for Vss {
    fn drop(&mut self) {
        if self.freezer.is_frozen() || self.rehearsal.is_some() {
            let by = Instant::now() + THAW_AND_HOOKS_AT_EXIT;
            self.spoil(Inconsistent::Restarted, EndReason::Interrupted, by);
        }
    }
}
