//! The actions of rounds, and the checks after each.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::actions::{Action, Step, Who};
use super::guest::Guest;
use crate::host::ServiceHost;
use crate::port::Machine;
use crate::resources::Resources;
use crate::scenario::{SETTLE_TIME, Transport, VssStage};
use crate::vss::{Operation, VssHost};
use crate::wait::until;

/// How long a device may take to be opened before the host does something else.
const OPEN: Duration = Duration::from_millis(500);

/// How long an agent may take to end; its own limit is eight seconds.
const END: Duration = Duration::from_secs(20);

/// A request that is not answered yet.
struct Pending {
    operation: Operation,
    /// A program wrote to file systems that the host believes to be frozen.
    inconsistent: bool,
}

/// A guest, and its host.
pub(super) struct Rounds<'r, 'm> {
    stage: &'r mut VssStage<'m>,
    guest: &'r Guest,
    host: Option<VssHost>,
    pending: VecDeque<Pending>,
    /// What was written at the reply to a successful FREEZE, until the host's next
    /// request.
    frozen: Option<String>,
    /// The program may be stopped, so that it answers nothing.
    stopped: bool,
    /// It was started, and not asked to end.
    runs: bool,
    /// What the program holds while idle, by its process.
    idle: Option<(u32, Resources)>,
    done: Vec<String>,
}

impl<'r, 'm> Rounds<'r, 'm> {
    pub(super) fn new(stage: &'r mut VssStage<'m>, guest: &'r Guest) -> Self {
        Self {
            stage,
            guest,
            host: None,
            pending: VecDeque::new(),
            frozen: None,
            stopped: false,
            runs: false,
            idle: None,
            done: Vec::new(),
        }
    }

    /// Returns a description of the actions.
    pub(super) fn done(&self) -> String {
        self.done.join("; ")
    }

    /// Runs all steps, and expects everything to work afterwards.
    pub(super) fn play(&mut self, steps: &[Step]) -> Result<()> {
        self.done.clear();
        for (pause, action) in steps {
            thread::sleep(*pause);
            self.done
                .push(format!("+{} ms {action}", pause.as_millis()));
            self.act(*action)?;
            self.expect_running()?;
        }
        self.done.push("recover".to_owned());
        self.settle()
    }

    /// Adds the result of the last action.
    fn note(&mut self, what: &str) {
        if let Some(last) = self.done.last_mut() {
            *last += &format!(" ({what})");
        }
    }

    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Ask(operation) => return self.ask(operation),
            Action::Look(time) => return self.look(Instant::now() + time).map(drop),
            Action::Signal(who, signal) => {
                let sent = self.guest.signal(who, signal)?;
                self.note(&sent.to_string());
                if who == Who::Agent && sent > 0 {
                    match signal {
                        "STOP" => self.stopped = true,
                        "CONT" => self.stopped = false,
                        _ => self.runs = false,
                    }
                }
            }
            Action::Kill => self.end(|machine| machine.kill())?,
            Action::KillBoth => {
                self.guest.signal(Who::Agent, "STOP")?;
                self.guest.signal(Who::Guard, "KILL")?;
                self.end(|machine| machine.kill())?;
            }
            Action::Stop => {
                self.guest.signal(Who::Agent, "CONT")?;
                self.end(|machine| machine.stop())?;
            }
            Action::Start => self.start()?,
            Action::Rescind => {
                self.stage.rescind()?;
                self.hang_up();
            }
            Action::Offer => self.offer()?,
            Action::Hang => self.may(Guest::hang),
            Action::GoOn => self.may(Guest::go_on),
            Action::ThawByHand => self.guest.begin(&["thaw"])?,
            Action::ThawAllByHand => self.guest.begin(&["thaw", "--all"])?,
            Action::Rehearse => self.guest.begin(&["vss", "rehearse", "--hold", "1"])?,
        }
        Ok(())
    }

    /// Runs an action that may fail, since its effect may be there already.
    fn may(&mut self, what: fn(&Guest) -> Result<()>) {
        if what(self.guest).is_err() {
            self.note("not now");
        }
    }

    /// Ends the program. If its guard was killed the program thaws by itself, and ends only
    /// once a hanging file system continues.
    fn end(&mut self, how: impl FnOnce(&mut dyn Machine) -> Result<()>) -> Result<()> {
        let machine = self.stage.machine();
        if machine.is_running() {
            if let Err(error) = how(machine) {
                if self.guest.go_on().is_err() {
                    return Err(error);
                }
                self.note("it ended with what hung");
                self.wait_for_end()?;
            }
        }
        self.ended();
        Ok(())
    }

    fn wait_for_end(&mut self) -> Result<()> {
        let what = "the end of a program that was asked to end";
        until(END, what, || {
            Ok((!self.stage.machine().is_running()).then_some(()))
        })
    }

    /// Records that the program has ended.
    fn ended(&mut self) {
        self.stopped = false;
        self.runs = false;
        self.hang_up();
    }

    fn start(&mut self) -> Result<()> {
        if !self.stage.machine().is_running() {
            self.ended();
            self.stage.machine().start()?;
            self.runs = true;
        }
        Ok(())
    }

    fn offer(&mut self) -> Result<()> {
        if !self.stage.has_device() {
            self.stage.offer_only()?;
        }
        Ok(())
    }

    /// Forgets the connection to the program.
    fn hang_up(&mut self) {
        self.host = None;
        self.pending.clear();
        self.frozen = None;
    }

    /// Expects the program to run unless it was asked to end.
    fn expect_running(&mut self) -> Result<()> {
        let runs = self.stage.machine().is_running();
        ensure!(runs || !self.runs, "the program has ended by itself");
        if !runs {
            self.ended();
        }
        Ok(())
    }

    /// Connects to the program if it has its device open, or opens it within `time`.
    fn connect(&mut self, time: Duration) -> bool {
        if self.host.is_none() && self.stage.has_device() && !self.stopped {
            let port = self.stage.accept_within(time);
            self.host = port.and_then(ServiceHost::connect).ok();
        }
        self.host.is_some()
    }

    fn ask(&mut self, operation: Operation) -> Result<()> {
        if !self.connect(OPEN) {
            self.note("no connection");
            return Ok(());
        }
        let one_at_a_time = self.stage.transport() == Transport::HvUtil;
        if one_at_a_time && !self.pending.is_empty() {
            self.look(Instant::now() + OPEN)?;
        }
        if one_at_a_time && !self.pending.is_empty() {
            self.note("it still has a request");
            return Ok(());
        }
        let mut inconsistent = false;
        // A new FREEZE starts over.
        if let Some(before) = self.frozen.take() {
            if operation == Operation::Thaw {
                inconsistent = before != self.guest.written()?;
            }
        }
        let sent = self.host.as_mut().map(|host| host.send(&operation));
        if let Some(Ok(())) = sent {
            self.pending.push_back(Pending {
                operation,
                inconsistent,
            });
        } else {
            self.note("the channel is gone");
            self.hang_up();
        }
        Ok(())
    }

    /// Receives replies until the deadline, and returns whether all have arrived.
    fn look(&mut self, until: Instant) -> Result<bool> {
        while let (Some(host), false) = (&mut self.host, self.pending.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            match host.reply_within(left) {
                Ok(Some(reply)) => self.answered(reply.status)?,
                Ok(None) => return Ok(false),
                Err(error) => {
                    self.note(&format!("{error:#}"));
                    self.hang_up();
                }
            }
        }
        Ok(true)
    }

    /// Handles the reply to the oldest request.
    fn answered(&mut self, status: Status) -> Result<()> {
        let Some(Pending {
            operation,
            inconsistent,
        }) = self.pending.pop_front()
        else {
            return Ok(());
        };
        self.note(&format!("{operation:?}: {status:?}"));
        ensure!(
            !inconsistent || status != Status::OK,
            "a THAW succeeded although a program wrote to file systems since the FREEZE"
        );
        if operation == Operation::Freeze {
            // A later request may have thawed them already.
            let is_last = status == Status::OK && self.pending.is_empty();
            self.frozen = is_last.then(|| self.guest.written()).transpose()?;
        }
        Ok(())
    }

    /// Lets everything continue, and expects it to work.
    pub(super) fn settle(&mut self) -> Result<()> {
        for who in [
            Who::Agent,
            Who::Guard,
            Who::Hook,
            Who::WriteOut,
            Who::Client,
        ] {
            self.guest.signal(who, "CONT")?;
        }
        self.stopped = false;
        let _ = self.guest.go_on();
        if !self.runs {
            self.wait_for_end()?;
        }
        self.expect_running()?;
        self.offer()?;
        self.start()?;
        self.guest.wait_for_clients()?;
        ensure!(
            self.connect(SETTLE_TIME),
            "the program does not open its device"
        );
        ensure!(
            self.look(Instant::now() + SETTLE_TIME)?,
            "{} requests are not answered",
            self.pending.len()
        );
        let mut host = match self.host.take() {
            Some(host) => host,
            // The channel was gone.
            None => self.stage.connect()?,
        };
        self.hang_up();
        host.thaw()?;
        self.guest.expect_thawed("after a THAW")?;
        // A FREEZE before the guard has confirmed all thaws is refused.
        until(SETTLE_TIME, "a FREEZE to succeed", || {
            Ok((host.freeze()? == Status::OK).then_some(()))
        })?;
        self.guest.expect_frozen()?;
        let status = host.thaw()?;
        ensure!(status == Status::OK, "a THAW failed: {status:?}");
        self.guest.expect_thawed("after the last THAW")?;
        self.stage.expect_working(&mut host)?;
        self.guest.expect_clean()?;
        self.host = Some(host);
        self.expect_as_idle()
    }

    /// Expects the program to hold no more than when it was idle before.
    fn expect_as_idle(&mut self) -> Result<()> {
        let machine = self.stage.machine();
        let process = machine.pid().context("the program has ended by itself")?;
        let now = || Resources::of(process);
        let Some((_, before)) = self.idle.filter(|(idle, _)| *idle == process) else {
            self.idle = Some((process, now()?));
            return Ok(());
        };
        let mut held = before;
        let result = until(
            SETTLE_TIME,
            "as many descriptors and threads as before",
            || {
                held = now()?;
                let more = held.descriptors > before.descriptors || held.threads > before.threads;
                Ok((!more).then_some(()))
            },
        );
        result.with_context(|| format!("the program holds {held:?}; it was {before:?}"))
    }
}
