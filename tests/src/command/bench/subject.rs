//! One of the programs that are compared.

use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use hyperv_sim::blackbox::BlackBox;
use hyperv_sim::host::{Protocol, ServiceHost};
use hyperv_sim::port::{Device, Machine};
use hyperv_sim::resources::family;
use hyperv_sim::scenario::{OPEN_TIME, Transport};

use super::process::{self, Memory};

/// A program that was not switched to for so long rests: the agent puts its memory
/// in order when nothing has happened for 5 s.
const REST: Duration = Duration::from_secs(6);

/// A program, and its host.
pub(super) struct Subject<P> {
    pub(super) name: String,
    pub(super) machine: BlackBox,
    transport: Transport,
    number: u32,
    open: Option<Open<P>>,
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
        }
    }

    /// The host of the open device; the program is started, and the device
    /// offered, where it has to be.
    pub(super) fn host(&mut self) -> Result<&mut ServiceHost<P>> {
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
            let host = ServiceHost::connect(device.accept(OPEN_TIME)?)?;
            self.open = Some(Open { device, host });
        }
        let open = self.open.as_mut().context("it was just opened")?;
        Ok(&mut open.host)
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
