//! One of the programs that are compared.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyperv_sim::blackbox::BlackBox;
use hyperv_sim::fcopy::{CHUNK, Fcopy, FcopyHost, OVERWRITE, Operation, Start};
use hyperv_sim::host::Protocol as _;
use hyperv_sim::port::{Device, Machine};
use hyperv_sim::scenario::OPEN_TIME;
use hyperv_vmbus::ic::Status;

use super::process::{self, Memory};
use super::trace;

/// Longer than any program looks for the next message before it sleeps.
const PAUSE: Duration = Duration::from_millis(5);

/// A program that was not switched to for so long rests.
const REST: Duration = Duration::from_millis(200);

/// How messages are sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// The next at once, with so many in flight.
    Running(usize),
    /// The next when the program has had the time to fall asleep.
    AfterSleep,
}

/// What a round gave, for each message.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) microseconds: f64,
    pub(super) interrupts: f64,
    pub(super) signals: f64,
}

/// A program, and its host.
pub(super) struct Subject {
    pub(super) name: String,
    machine: BlackBox,
    ring_len: usize,
    number: u32,
    open: Option<Open>,
}

struct Open {
    device: Arc<dyn Device>,
    host: FcopyHost,
}

impl Subject {
    pub(super) fn start(command: &str, ring_len: usize) -> Result<Self> {
        let program = command.split_whitespace().next().unwrap_or_default();
        let name = Path::new(program.trim_matches(['\'', '"']))
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let mut subject = Self {
            name: name.unwrap_or_else(|| command.to_owned()),
            machine: BlackBox::new(command)?,
            ring_len,
            number: 0,
            open: None,
        };
        subject.host()?;
        Ok(subject)
    }

    /// The host of the open channel; the program is started, and the device
    /// offered, where it has to be.
    fn host(&mut self) -> Result<&mut FcopyHost> {
        if self.open.is_none() || !self.machine.is_running() {
            if let Some(open) = self.open.take() {
                open.device.rescind()?;
            }
            let offer = Fcopy::SERVICE.uio(self.number, self.ring_len);
            let device = self.machine.offer(offer)?;
            self.number += 1;
            if !self.machine.is_running() {
                self.machine.start()?;
            }
            let host = FcopyHost::connect(device.accept(OPEN_TIME)?)?;
            self.open = Some(Open { device, host });
        }
        let open = self.open.as_mut().context("it was just opened")?;
        Ok(&mut open.host)
    }

    fn pid(&mut self) -> Result<u32> {
        self.host()?;
        self.machine.pid().context("it has no process id")
    }

    /// Sends so many WRITEs; an error in words where the program does not last.
    pub(super) fn transfer(
        &mut self,
        pace: Pace,
        messages: usize,
    ) -> Result<Result<Measured, String>> {
        let start = self.begin(messages)?;
        let measured = self.host()?;
        let measured = start.and_then(|()| writes(measured, pace, messages));
        self.end(measured)
    }

    /// System calls a message, counted apart from the time.
    pub(super) fn system_calls(
        &mut self,
        pace: Pace,
        messages: usize,
    ) -> Result<Result<f64, String>> {
        let begun = self.begin(messages)?;
        let trace = match trace::attach(self.pid()?)? {
            Ok(trace) => trace,
            Err(reason) => return Ok(Err(reason)),
        };
        let sent = begun.and_then(|()| writes(self.host()?, pace, messages));
        let bell = Arc::clone(self.host()?.channel()?.bell());
        let calls = trace.finish(|| bell.interrupt());
        self.end(sent.and_then(|_| Ok(calls? as f64 / messages as f64)))
    }

    /// Begins a file that has room for so many messages.
    fn begin(&mut self, messages: usize) -> Result<Result<()>> {
        let directory = self
            .machine
            .directory()
            .to_str()
            .context("not UTF-8")?
            .to_owned();
        let size = (messages * CHUNK) as u64;
        let start = Operation::Start(Start::new(&directory, "bench", OVERWRITE, size));
        let status = self.host()?.request(&start);
        Ok(status.and_then(|status| {
            ensure!(status == Status::OK, "the START was declined: {status:?}");
            Ok(())
        }))
    }

    /// Completes the file, or lets go of a channel that broke.
    fn end<T>(&mut self, outcome: Result<T>) -> Result<Result<T, String>> {
        let outcome = match outcome {
            Ok(value) => self.host()?.request(&Operation::Complete).map(|_| value),
            Err(error) => Err(error),
        };
        if outcome.is_err()
            && let Some(open) = self.open.take()
        {
            open.device.rescind()?;
            if self.machine.is_running() {
                self.machine.kill()?;
            }
        }
        Ok(outcome.map_err(|error| format!("{}: {error:#}", self.name)))
    }

    /// Lets it come to rest after the last message. A program that never does
    /// is measured as it is.
    pub(super) fn settle(&mut self) {
        for _ in 0..10 {
            let before = self.switches();
            thread::sleep(REST);
            if before == self.switches() {
                return;
            }
        }
    }

    /// How often it was switched to so far.
    pub(super) fn switches(&mut self) -> Result<u64, String> {
        let pid = self.pid().map_err(|error| format!("{error:#}"))?;
        process::switches(pid).map_err(|error| format!("{error:#}"))
    }

    pub(super) fn memory(&mut self) -> Result<Memory, String> {
        let pid = self.pid().map_err(|error| format!("{error:#}"))?;
        Memory::of(pid).map_err(|error| format!("{error:#}"))
    }
}

/// Sends WRITEs one behind the other and takes every reply.
fn writes(host: &mut FcopyHost, pace: Pace, messages: usize) -> Result<Measured> {
    let data = vec![0x5a; CHUNK];
    let (in_flight, pause) = match pace {
        Pace::Running(in_flight) => (in_flight, None),
        Pace::AfterSleep => (1, Some(PAUSE)),
    };
    let bell = Arc::clone(host.channel()?.bell());
    let (signals, interrupts) = (bell.signals(), bell.interrupts());
    let mut busy = Duration::ZERO;
    let (mut sent, mut answered) = (0, 0);
    while answered < messages {
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        let begun = Instant::now();
        while sent < messages && sent - answered < in_flight {
            host.send(&Operation::write((sent * CHUNK) as u64, &data))?;
            sent += 1;
        }
        let status = host.reply()?.status;
        ensure!(status == Status::OK, "a WRITE was declined: {status:?}");
        answered += 1;
        busy += begun.elapsed();
    }
    let each = |count: u64| count as f64 / messages as f64;
    Ok(Measured {
        microseconds: busy.as_secs_f64() * 1e6 / messages as f64,
        interrupts: each(bell.interrupts() - interrupts),
        signals: each(bell.signals() - signals),
    })
}
