//! One of the programs that are compared.

use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyperv_sim::blackbox::BlackBox;
use hyperv_sim::host::{Protocol, ServiceHost};
use hyperv_sim::port::{Device, Machine, Port};
use hyperv_sim::resources::family;
use hyperv_sim::scenario::{OPEN_TIME, Transport};

use super::process::{self, Memory};

/// A program that was not switched to for so long rests: the agent puts its memory
/// in order when nothing has happened for 5 s.
const REST: Duration = Duration::from_secs(6);

/// How often a program is looked at that has not opened its device yet.
const LOOK: Duration = Duration::from_millis(100);

/// A program, and its host.
pub(super) struct Subject<P> {
    pub(super) name: String,
    pub(super) machine: BlackBox,
    transport: Transport,
    number: u32,
    open: Option<Open<P>>,
    /// Why nothing can be measured of it.
    unable: Option<String>,
}

/// What the program of a command is called.
pub(super) fn name(command: &str) -> String {
    let program = command.split_whitespace().next().unwrap_or_default();
    let name = Path::new(program.trim_matches(['\'', '"'])).file_name();
    name.map_or(command.into(), |name| name.to_string_lossy().into_owned())
}

struct Open<P> {
    device: Arc<dyn Device>,
    host: ServiceHost<P>,
}

impl<P: Protocol> Subject<P> {
    /// A program that does not run yet.
    pub(super) fn new(command: &str, transport: Transport) -> Result<Self> {
        Ok(Self::on(BlackBox::new(command)?, name(command), transport))
    }

    /// A program that does not run yet, in a guest that is there.
    pub(super) fn on(machine: BlackBox, name: String, transport: Transport) -> Self {
        Self {
            name,
            machine,
            transport,
            number: 0,
            open: None,
            unable: None,
        }
    }

    /// Opens its device. Nothing is measured of a program that does not; the table says
    /// why.
    pub(super) fn open(&mut self) {
        if let Err(error) = self.host() {
            self.unable = Some(format!("{}: {error:#}", self.name));
        }
    }

    /// The host of the open device; the program is started, and the device
    /// offered, where it has to be.
    pub(super) fn host(&mut self) -> Result<&mut ServiceHost<P>> {
        if let Some(reason) = &self.unable {
            bail!("{reason}");
        }
        if self.open.is_none() || !self.machine.is_running() {
            if let Some(open) = self.open.take() {
                open.device.rescind()?;
            }
            let device = self.machine.offer(match self.transport {
                Transport::Uio(ring_len) => P::SERVICE.uio(self.number, ring_len),
                Transport::HvUtil => P::SERVICE.hvutil(),
            })?;
            self.number += 1;
            if !self.machine.is_running() {
                self.machine.start()?;
            }
            let host = ServiceHost::connect(self.accept(&*device)?)?;
            self.open = Some(Open { device, host });
        }
        let open = self.open.as_mut().context("it was just opened")?;
        Ok(&mut open.host)
    }

    /// Waits for the program to open the device, for as long as it runs.
    fn accept(&mut self, device: &dyn Device) -> Result<Port> {
        let deadline = Instant::now() + OPEN_TIME;
        loop {
            match device.accept(LOOK) {
                Err(_) if !self.machine.is_running() => {
                    let log = self.machine.log();
                    let last = log.lines().last().unwrap_or("nothing");
                    bail!(
                        "it ended and did not open its device ({}); it said: {last}",
                        self.transport
                    );
                }
                Err(_) if Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }

    pub(super) fn pid(&mut self) -> Result<u32> {
        self.host()?;
        self.machine.pid().context("it has no process id")
    }

    /// Does something with the host. A program that fails is ended, and is started again
    /// later; the inner error says why.
    pub(super) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut ServiceHost<P>) -> Result<T>,
    ) -> Result<Result<T, String>> {
        if let Some(reason) = &self.unable {
            return Ok(Err(reason.clone()));
        }
        let outcome = work(self.host()?);
        if outcome.is_err() {
            if let Some(open) = self.open.take() {
                open.device.rescind()?;
                if self.machine.is_running() {
                    self.machine.kill()?;
                }
            }
        }
        Ok(outcome.map_err(|error| format!("{}: {error:#}", self.name)))
    }

    /// Lets it come to rest after the last message. A program that never does
    /// is measured as it is.
    pub(super) fn wait_until_idle(&mut self) {
        for _ in 0..4 {
            let before = self.switches();
            if before.is_err() {
                return;
            }
            thread::sleep(REST);
            if before == self.switches() {
                return;
            }
        }
    }

    /// How often it, and what it has started, was switched to so far.
    pub(super) fn switches(&mut self) -> Result<u64, String> {
        self.all(process::switches)
    }

    /// What it, and what it has started, has in memory.
    pub(super) fn memory(&mut self) -> Result<Memory, String> {
        self.all(Memory::of)
    }

    fn all<T: Default + AddAssign>(&mut self, of: fn(u32) -> Result<T>) -> Result<T, String> {
        let mut all = T::default();
        let mut add = || -> Result<()> {
            for pid in family(self.pid()?)? {
                all += of(pid)?;
            }
            Ok(())
        };
        add().map_err(|error| format!("{error:#}"))?;
        Ok(all)
    }
}
