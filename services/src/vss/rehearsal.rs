//! A backup that an administrator asks for instead of the host: hooks, guard, time
//! limit, log and record are those of any backup.
//!
//! It gives way to everything else. While hooks are run with `freeze`, a message of
//! the host, the end of the agent and a client that goes away stop it, as the end of
//! the agent stops any freeze. While file systems are held frozen the worker waits as
//! it does in a backup, with a timer and the client beside the guard: a request of the
//! host to freeze or thaw ends the rehearsal first, and is then carried out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::error::{Error, Spoiled};
use super::freeze::SOON;
use super::hooks::{self, End};
use super::{Vss, in_words};
use crate::backup::{Kind, Outcome};
use crate::command::{Client, Rehearse};
use crate::service::Service;

/// What is watched, as the kernel tells it.
const STOP: u64 = 0;
const CLIENT: u64 = 1;
const HOST: u64 = 2;
const GUARD: u64 = 3;
const TIMER: u64 = 4;

/// A rehearsal whose applications are at rest.
pub(super) struct Rehearsal {
    client: Box<dyn Client>,
    watch: Watch,
    /// Runs until it is to be thawed; kept open for that.
    _timer: OwnedFd,
}

impl Rehearsal {
    /// Readable when [`Vss::rehearsal_woken`] has something to do, or the guard
    /// something to say.
    pub(super) fn watched(&self) -> BorrowedFd<'_> {
        self.watch.0.as_fd()
    }
}

impl Vss {
    /// Begins a rehearsal; `host` is readable when the host says something.
    pub(super) fn rehearse(
        &mut self,
        what: &Rehearse,
        mut client: Box<dyn Client>,
        host: Option<BorrowedFd<'_>>,
    ) {
        self.woken();
        if self.freezer.is_frozen() || self.rehearsal.is_some() {
            let why = "a backup of the host is under way, or another rehearsal: try again when \
                       it is over";
            client.end(Err(why.to_owned()));
            return;
        }
        let kind = match what.hooks_only {
            true => Kind::HooksOnly,
            false => Kind::Rehearsal,
        };
        let interrupt = match Watch::until_interrupted(self, &*client, host) {
            Ok(interrupt) => interrupt,
            Err(errno) => {
                client.end(Err(format!("cannot watch for the host: {errno}")));
                return;
            }
        };
        client.progress(match kind {
            Kind::HooksOnly => "running the hooks with `freeze`",
            _ => "running the hooks with `freeze`, and freezing file systems",
        });
        self.report.begin(kind);
        let began = Instant::now();
        let frozen = self.freeze_all(kind, began, Some(interrupt.0.as_fd()));
        if let Err(error) = frozen {
            let why = match interrupt.first() {
                Some(STOP) => "the agent is to end, or the host has offered its device".to_owned(),
                Some(HOST) => "the host has asked for something meanwhile".to_owned(),
                Some(CLIENT) => "who asked for the rehearsal has gone".to_owned(),
                _ => in_words(&error),
            };
            let backup = self.report.end(Outcome::Failed(why), &self.log);
            client.end(backup.ok_or_else(|| in_words(&error)));
            return;
        }
        let (file_systems, _) = self.report.what_is_frozen();
        client.progress(&match kind {
            Kind::HooksOnly => format!("nothing is frozen, held for {} s", what.hold.as_secs()),
            _ => format!(
                "file systems frozen: {file_systems}, held for {} s",
                what.hold.as_secs()
            ),
        });
        match Watch::while_held(self, &*client, what.hold) {
            Ok((watch, timer)) => {
                self.rehearsal = Some(Rehearsal {
                    client,
                    watch,
                    _timer: timer,
                });
            }
            Err(errno) => {
                let why = format!("cannot watch for its end: {errno}");
                let by = Instant::now() + hooks::AFTER;
                self.end_rehearsed(client, Some(why), End::Interrupted, by);
            }
        }
    }

    /// Ends the rehearsal that is under way where its time is over or its client has
    /// gone.
    pub(super) fn rehearsal_woken(&mut self, by: Instant) {
        let first = self.rehearsal.as_ref().and_then(|it| it.watch.first());
        match first {
            Some(CLIENT) => {
                let why = "who asked for the rehearsal has gone, so all was thawed";
                self.end_rehearsal(Some(why.to_owned()), End::Interrupted, by);
            }
            Some(TIMER) => self.end_rehearsal(None, End::Thawed, by),
            _ => {}
        }
    }

    /// Ends the rehearsal that is under way, as the host asks for a freeze or thaw.
    pub(super) fn end_rehearsal_for_host(&mut self, by: Instant) {
        let why = "the host asked for a backup, so all was thawed before that began";
        self.end_rehearsal(Some(why.to_owned()), End::Interrupted, by);
    }

    /// Ends the rehearsal that is under way, if one is; `why` says what has ended it
    /// too early.
    pub(super) fn end_rehearsal(&mut self, why: Option<String>, end: End, by: Instant) {
        if let Some(rehearsal) = self.rehearsal.take() {
            self.end_rehearsed(rehearsal.client, why, end, by);
        }
    }

    fn end_rehearsed(
        &mut self,
        client: Box<dyn Client>,
        why: Option<String>,
        end: End,
        by: Instant,
    ) {
        let thawed = self.end_freeze(end, by, SOON);
        let stuck = self.freezer.stuck().next();
        let stuck = stuck.map(|(path, why)| Error::NotThawed { path, why });
        let early = Some(thawed.early).filter(|paths| !paths.is_empty());
        let why = why
            .or_else(|| stuck.as_ref().map(|error| in_words(error)))
            .or_else(|| early.map(|paths| Spoiled::Early(paths).to_string()));
        self.note_stuck();
        let outcome = why.map_or(Outcome::Consistent, Outcome::Inconsistent);
        let backup = self.report.end(outcome, &self.log);
        client.end(backup.ok_or_else(|| "the rehearsal is over".to_owned()));
    }
}

/// Several descriptors that are watched as one.
struct Watch(OwnedFd);

impl Watch {
    /// What ends hooks that are run with `freeze`.
    fn until_interrupted(
        vss: &Vss,
        client: &dyn Client,
        host: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Errno> {
        let watch = Self::new(client)?;
        if let Some(stop) = &vss.stop {
            watch.add(stop.as_fd(), STOP, EventFlags::IN)?;
        }
        if let Some(host) = host {
            // Edge-triggered, as the worker has it: the interrupt count stays as it is.
            watch.add(host, HOST, EventFlags::IN | EventFlags::ET)?;
        }
        Ok(watch)
    }

    /// What ends the time for which file systems are held, and the timer.
    fn while_held(
        vss: &Vss,
        client: &dyn Client,
        hold: Duration,
    ) -> Result<(Self, OwnedFd), Errno> {
        let watch = Self::new(client)?;
        if let Some(guard) = vss.freezer.watched() {
            watch.add(guard.as_fd(), GUARD, EventFlags::IN)?;
        }
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // A timer of no time never expires.
        let hold = hold.max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(hold).map_err(|_| Errno::INVAL)?,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
        watch.add(timer.as_fd(), TIMER, EventFlags::IN)?;
        Ok((watch, timer))
    }

    fn new(client: &dyn Client) -> Result<Self, Errno> {
        let watch = Self(epoll::create(CreateFlags::CLOEXEC)?);
        // What a client sends is of no interest, only that it hangs up.
        watch.add(client.as_fd(), CLIENT, EventFlags::RDHUP)?;
        Ok(watch)
    }

    fn add(&self, fd: BorrowedFd<'_>, what: u64, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(what), flags)
    }

    /// What has happened; of several, that which was added first.
    fn first(&self) -> Option<u64> {
        let mut events = Vec::with_capacity(8);
        let none = Timespec::default();
        let spare = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(&self.0, spare, Some(&none)).ok()?;
        events.iter().map(|event| event.data.u64()).min()
    }
}
