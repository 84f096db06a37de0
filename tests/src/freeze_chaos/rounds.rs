//! What is done in rounds, and what is expected after each.

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

/// How long a device may take to be opened before the host goes on to something else.
const OPEN: Duration = Duration::from_millis(500);

/// How long an agent that is told to end may take: it has eight seconds.
const END: Duration = Duration::from_secs(20);

/// A request that is not answered yet.
struct Asked {
    operation: Operation,
    /// There was written to what the host takes for frozen.
    spoiled: bool,
}

/// A guest, and a host that speaks with it.
pub(super) struct Rounds<'r, 'm> {
    stage: &'r mut VssStage<'m>,
    guest: &'r Guest,
    host: Option<VssHost>,
    asked: VecDeque<Asked>,
    /// What was written when the host was told that all is frozen, until it asks for
    /// something else.
    frozen: Option<String>,
    /// The program may be stopped, so that it answers nothing.
    stopped: bool,
    /// It was started, and not told to end.
    runs: bool,
    /// What the program holds when it has nothing to do, by its process.
    idle: Option<(u32, Resources)>,
    done: Vec<String>,
}

impl<'r, 'm> Rounds<'r, 'm> {
    pub(super) fn new(stage: &'r mut VssStage<'m>, guest: &'r Guest) -> Self {
        Self {
            stage,
            guest,
            host: None,
            asked: VecDeque::new(),
            frozen: None,
            stopped: false,
            runs: false,
            idle: None,
            done: Vec::new(),
        }
    }

    /// What was done, in words.
    pub(super) fn done(&self) -> String {
        self.done.join("; ")
    }

    /// Does all of this, and expects that all goes on afterwards.
    pub(super) fn play(&mut self, steps: &[Step]) -> Result<()> {
        self.done.clear();
        for (pause, action) in steps {
            thread::sleep(*pause);
            self.done
                .push(format!("+{} ms {action}", pause.as_millis()));
            self.act(*action)?;
            self.expect_running()?;
        }
        self.done.push("settle".to_owned());
        self.settle()
    }

    /// Adds what came of the last action.
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

    /// Does what can fail: it may be done already.
    fn may(&mut self, what: fn(&Guest) -> Result<()>) {
        if what(self.guest).is_err() {
            self.note("not now");
        }
    }

    /// Ends the program. Where its guard was killed it thaws by itself, and so ends no
    /// sooner than what hangs goes on.
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
        let what = "the end of a program that was told to end";
        until(END, what, || {
            Ok((!self.stage.machine().is_running()).then_some(()))
        })
    }

    /// The program has ended.
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

    /// The host has nobody to speak with any more.
    fn hang_up(&mut self) {
        self.host = None;
        self.asked.clear();
        self.frozen = None;
    }

    /// A program that nobody ends runs.
    fn expect_running(&mut self) -> Result<()> {
        let runs = self.stage.machine().is_running();
        ensure!(runs || !self.runs, "the program has ended by itself");
        if !runs {
            self.ended();
        }
        Ok(())
    }

    /// Speaks with the program where that has opened its device, or does so soon.
    fn connect(&mut self, time: Duration) -> bool {
        if self.host.is_none() && self.stage.has_device() && !self.stopped {
            let port = self.stage.accept_within(time);
            self.host = port.and_then(ServiceHost::connect).ok();
        }
        self.host.is_some()
    }

    fn ask(&mut self, operation: Operation) -> Result<()> {
        if !self.connect(OPEN) {
            self.note("nobody is there");
            return Ok(());
        }
        let one_at_a_time = self.stage.transport() == Transport::HvUtil;
        if one_at_a_time && !self.asked.is_empty() {
            self.look(Instant::now() + OPEN)?;
        }
        if one_at_a_time && !self.asked.is_empty() {
            self.note("it still has a request");
            return Ok(());
        }
        let mut spoiled = false;
        // A FREEZE that is asked for begins anew.
        if let Some(before) = self.frozen.take() {
            if operation == Operation::Thaw {
                spoiled = before != self.guest.written()?;
            }
        }
        let sent = self.host.as_mut().map(|host| host.send(&operation));
        if let Some(Ok(())) = sent {
            self.asked.push_back(Asked { operation, spoiled });
        } else {
            self.note("the channel is gone");
            self.hang_up();
        }
        Ok(())
    }

    /// Takes replies, until all are there or it is this late; tells whether all are.
    fn look(&mut self, until: Instant) -> Result<bool> {
        while let (Some(host), false) = (&mut self.host, self.asked.is_empty()) {
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

    /// The host is answered what it asked first.
    fn answered(&mut self, status: Status) -> Result<()> {
        let Some(Asked { operation, spoiled }) = self.asked.pop_front() else {
            return Ok(());
        };
        self.note(&format!("{operation:?}: {status:?}"));
        ensure!(
            !spoiled || status != Status::OK,
            "a THAW succeeded although there was written to file systems since the FREEZE"
        );
        if operation == Operation::Freeze {
            // What was asked after it may have thawed by now.
            let is_last = status == Status::OK && self.asked.is_empty();
            self.frozen = is_last.then(|| self.guest.written()).transpose()?;
        }
        Ok(())
    }

    /// Lets everything go on, and expects it to.
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
            self.asked.len()
        );
        let mut host = match self.host.take() {
            Some(host) => host,
            // The channel was gone.
            None => self.stage.connect()?,
        };
        self.hang_up();
        host.thaw()?;
        self.guest.expect_thawed("after a THAW")?;
        // One that comes before the guard has said of all that they are thawed is
        // refused.
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

    /// Expects the program to hold no more than when it had nothing to do before.
    fn expect_as_idle(&mut self) -> Result<()> {
        let machine = self.stage.machine();
        let process = machine.pid().context("the program has ended by itself")?;
        let now = || Resources::of(process);
        let Some((_, before)) = self.idle.filter(|(idle, _)| *idle == process) else {
            self.idle = Some((process, now()?));
            return Ok(());
        };
        let mut held = before;
        let settled = until(
            SETTLE_TIME,
            "as many descriptors and threads as before",
            || {
                held = now()?;
                let more = held.descriptors > before.descriptors || held.threads > before.threads;
                Ok((!more).then_some(()))
            },
        );
        settled.with_context(|| format!("the program holds {held:?}; it was {before:?}"))
    }
}
