//! A backup that an administrator asks for instead of the host: hooks, guard, time
//! limit, log and record are those of any backup.
//!
//! It gives way to everything else. While hooks are run with `freeze`, a message of
//! the host, the end of the agent and a client that goes away stop it, as the end of
//! the agent stops any freeze. While file systems are held frozen the worker waits as
//! it does in a backup, with a timer and the client beside the guard: a request of the
//! host to freeze or thaw ends the rehearsal first, and is then carried out.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::Vss;
use super::error::{Error, Inconsistent};
use super::hooks::EndReason;
use super::watch::{CLIENT, HOST, Rehearsal, STOP, TIMER, Watch};
use crate::backup::{Kind, Outcome};
use crate::command::{Client, Rehearse};
use crate::error_chain::display_chain;
use crate::service::Service;
use crate::timeouts::{THAW_AND_HOOKS, THAW_BRIEF};

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
        self.report.begin(kind);
        let began = Instant::now();
        let frozen = self.freeze_all(kind, began, Some(interrupt.0.as_fd()));
        if let Err(error) = frozen {
            let why = match interrupt.first() {
                Some(STOP) => "the agent is to end, or the host has offered its device".to_owned(),
                Some(HOST) => "the host has asked for something meanwhile".to_owned(),
                Some(CLIENT) => "who asked for the rehearsal has gone".to_owned(),
                _ => display_chain(&error),
            };
            let backup = self.report.end(Outcome::Failed(why), &self.log);
            client.end(backup.ok_or_else(|| display_chain(&error)));
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
        let guard = self.freezer.watched().map(AsFd::as_fd);
        match Watch::while_held(guard, &*client, what.hold) {
            Ok((watch, timer)) => {
                self.rehearsal = Some(Rehearsal {
                    client,
                    watch,
                    _timer: timer,
                });
            }
            Err(errno) => {
                let why = format!("cannot watch for its end: {errno}");
                let by = Instant::now() + THAW_AND_HOOKS;
                self.end_rehearsed(client, Some(why), EndReason::Interrupted, by);
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
                self.end_rehearsal(Some(why.to_owned()), EndReason::Interrupted, by);
            }
            Some(TIMER) => self.end_rehearsal(None, EndReason::Thawed, by),
            _ => {}
        }
    }

    /// Ends the rehearsal that is under way, as the host asks for a freeze or thaw.
    pub(super) fn end_rehearsal_for_host(&mut self, by: Instant) {
        let why = "the host asked for a backup, so all was thawed before that began";
        self.end_rehearsal(Some(why.to_owned()), EndReason::Interrupted, by);
    }

    /// Ends the rehearsal that is under way, if one is; `why` says what has ended it
    /// too early.
    pub(super) fn end_rehearsal(&mut self, why: Option<String>, end: EndReason, by: Instant) {
        if let Some(rehearsal) = self.rehearsal.take() {
            self.end_rehearsed(rehearsal.client, why, end, by);
        }
    }

    fn end_rehearsed(
        &mut self,
        client: Box<dyn Client>,
        why: Option<String>,
        end: EndReason,
        by: Instant,
    ) {
        let thawed = self.end_freeze(end, by, THAW_BRIEF);
        let stuck = self.freezer.stuck().next();
        let stuck = stuck.map(|(path, why)| Error::NotThawed { path, why });
        let early = Some(thawed.early).filter(|paths| !paths.is_empty());
        let why = why
            .or_else(|| stuck.as_ref().map(|error| display_chain(error)))
            .or_else(|| early.map(|paths| Inconsistent::Early(paths).to_string()));
        self.note_stuck();
        let outcome = why.map_or(Outcome::Consistent, Outcome::Inconsistent);
        let backup = self.report.end(outcome, &self.log);
        client.end(backup.ok_or_else(|| "the rehearsal is over".to_owned()));
    }
}
