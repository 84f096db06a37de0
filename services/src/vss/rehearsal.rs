//! A rehearsal: a backup that an administrator asks for instead of the host, with the
//! same hooks, guard, time limit, log and report.
//!
//! It gives way to everything else. While hooks run with `freeze`, a message of the host,
//! the end of the agent and a client that hangs up interrupt it. While file systems are
//! frozen the worker waits as in a backup, with a timer and the client beside the guard:
//! a FREEZE or THAW of the host ends the rehearsal first and is executed then.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::error::{Error, Inconsistent};
use super::hooks::EndReason;
use super::report::Report;
use super::watch::{CLIENT, HOST, Rehearsal, STOP, TIMER, Watch};
use super::{Freeze, State, Vss};
use crate::backup::{Kind, Outcome};
use crate::command::{Client, Rehearse};
use crate::error_chain::display_chain;
use crate::service::Service;
use crate::timeouts::{THAW_AND_HOOKS, THAW_BRIEF};

impl Vss {
    /// Begins a rehearsal; `host` is readable when the host sends something.
    pub(super) fn rehearse(
        &mut self,
        what: &Rehearse,
        mut client: Box<dyn Client>,
        host: Option<BorrowedFd<'_>>,
    ) {
        self.woken();
        if self.busy() {
            let why = "a backup of the host is in progress, or another rehearsal: try again when \
                       it has ended";
            client.end(Err(why.to_owned()));
            return;
        }
        let kind = match what.hooks_only {
            true => Kind::HooksOnly,
            false => Kind::Rehearsal,
        };
        let interrupt = match Watch::until_interrupted(self.stop.as_deref(), &*client, host) {
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
        let mut report = Report::new(kind);
        let quiesced = self.quiesce(&mut report, Instant::now(), Some(interrupt.0.as_fd()));
        let (hooks, operation) = match quiesced {
            Ok(quiesced) => quiesced,
            Err(error) => {
                let why = match interrupt.first() {
                    Some(STOP) => "the agent ends, or the host offered its device".to_owned(),
                    Some(HOST) => "the host sent a request meanwhile".to_owned(),
                    Some(CLIENT) => "the client of the rehearsal hung up".to_owned(),
                    _ => display_chain(&error),
                };
                let backup = self.reports.end(report, Outcome::Failed(why), &self.log);
                client.end(Ok(backup));
                return;
            }
        };
        let seconds = what.hold.as_secs();
        client.progress(&match kind {
            Kind::HooksOnly => format!("nothing is frozen, held for {seconds} s"),
            _ => format!(
                "file systems frozen: {}, held for {seconds} s",
                report.file_systems()
            ),
        });
        let freeze = Freeze {
            report,
            hooks,
            operation,
        };
        let guard = self.freezer.watched().map(AsFd::as_fd);
        match Watch::while_held(guard, &*client, what.hold) {
            Ok((watch, timer)) => {
                let rehearsal = Rehearsal {
                    client,
                    watch,
                    _timer: timer,
                };
                self.state = State::Rehearsing(freeze, rehearsal);
            }
            Err(errno) => {
                let why = format!("cannot watch for its end: {errno}");
                let deadline = Instant::now() + THAW_AND_HOOKS;
                self.finish_rehearsal(freeze, client, Some(why), EndReason::Interrupted, deadline);
            }
        }
    }

    /// Ends the rehearsal if its time is over or its client hung up.
    pub(super) fn handle_rehearsal_events(&mut self, deadline: Instant) {
        let event = match &self.state {
            State::Rehearsing(_, rehearsal) => rehearsal.watch.first(),
            State::Idle | State::Frozen(_) => None,
        };
        match event {
            Some(CLIENT) => {
                let why = "the client of the rehearsal hung up, so everything was thawed";
                self.end_rehearsal(Some(why.to_owned()), EndReason::Interrupted, deadline);
            }
            Some(TIMER) => self.end_rehearsal(None, EndReason::Thawed, deadline),
            _ => {}
        }
    }

    /// Ends the rehearsal before a FREEZE or THAW of the host is executed.
    pub(super) fn end_rehearsal_for_host(&mut self, deadline: Instant) {
        let why = "the host asked for a backup, so everything was thawed before that began";
        self.end_rehearsal(Some(why.to_owned()), EndReason::Interrupted, deadline);
    }

    /// Ends the rehearsal, if there is one; `why` says what ends it too early.
    pub(super) fn end_rehearsal(&mut self, why: Option<String>, end: EndReason, deadline: Instant) {
        match std::mem::take(&mut self.state) {
            State::Rehearsing(freeze, rehearsal) => {
                self.finish_rehearsal(freeze, rehearsal.client, why, end, deadline);
            }
            other => self.state = other,
        }
    }

    fn finish_rehearsal(
        &mut self,
        freeze: Freeze,
        client: Box<dyn Client>,
        why: Option<String>,
        end: EndReason,
        deadline: Instant,
    ) {
        let (thawed, report) = self.end_freeze(freeze, end, deadline, THAW_BRIEF);
        let stuck = self.freezer.stuck().next();
        let stuck = stuck.map(|(path, why)| Error::NotThawed { path, why });
        let early = Some(thawed.early).filter(|paths| !paths.is_empty());
        let why = why
            .or_else(|| stuck.as_ref().map(|error| display_chain(error)))
            .or_else(|| early.map(|paths| Inconsistent::Early(paths).to_string()));
        self.record_stuck();
        let outcome = why.map_or(Outcome::Consistent, Outcome::Inconsistent);
        client.end(Ok(self.reports.end(report, outcome, &self.log)));
    }
}
