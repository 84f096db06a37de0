//! The guest as scenarios have it: devices through VMBus, the program and its
//! files through the helper.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyperv_sim::fcopy::Fcopy;
use hyperv_sim::files::Files;
use hyperv_sim::host::Protocol as _;
use hyperv_sim::network::Network;
use hyperv_sim::port::{Device, Machine, Offer, Port};
use hyperv_sim::resources::Resources;
use hyperv_sim::scenario::{OPEN_TIME, SETTLE_TIME};
use hyperv_sim::volumes::Volumes;
use hyperv_sim::wait::until;
use hyperv_vmbus::ring::RingMemory;
use nix::sys::signal::Signal;

use crate::guest::{Guest, GuestNetwork, GuestVolumes, RemoteFiles, Request};
use crate::vmbus::gpadl::PAGE;
use crate::vmbus::{VmBus, VmDevice};

/// How long the program may take to end.
const STOP_TIME: Duration = Duration::from_secs(30);

/// How long the guest's driver may take for a new device.
const BIND_TIME: Duration = Duration::from_secs(30);

/// Where scenarios have their files, in the guest: a tmpfs.
const DIRECTORY: &str = "/tmp/scenarios";

/// Where programs have their pool files.
const POOLS: &str = "/var/lib/hyperv";

/// A capture, in the guest.
const CAPTURE: &str = "/run/capture.pcapng";

/// What the command said that has made it, once it has ended.
const CAPTURED: &str = "/run/captured";

/// Begins a capture: the program, and the paths of both files.
const BEGIN_CAPTURE: &str = r#"
    rm -f "$1" "$2"
    { "$0" capture "$1" >"$2.new" 2>&1; mv "$2.new" "$2"; } </dev/null >/dev/null 2>&1 &
"#;

/// Lines of the protocol's journal that follow the program's log.
const JOURNAL_LINES: usize = 6;

/// A guest that is up, for one scenario after the other.
pub struct VmMachine {
    bus: VmBus,
    guest: Arc<Guest>,
    command: Vec<String>,
    directory: PathBuf,
    offered: Vec<Arc<VmDevice>>,
    /// What is there once the guest's driver has the last of them.
    appears: PathBuf,
    /// Where a capture goes that has not ended.
    capture: Option<PathBuf>,
    /// Devices were served since this machine was made.
    started: bool,
    /// The program wants its device to be there when it starts.
    pub device_first: bool,
}

impl VmMachine {
    /// The guest with a program that is started by `command`.
    ///
    /// # Errors
    ///
    /// If the guest does not answer.
    pub fn new(bus: VmBus, guest: Arc<Guest>, command: Vec<String>) -> Result<Self> {
        let machine = Self {
            bus,
            guest,
            command,
            directory: PathBuf::from(DIRECTORY),
            offered: Vec::new(),
            appears: PathBuf::new(),
            capture: None,
            started: false,
            device_first: false,
        };
        let files = machine.files();
        if files.facts(&machine.directory)?.is_some() {
            files.remove_directory(&machine.directory)?;
        }
        files.create_directories(&machine.directory)?;
        files.create_directories(Path::new("/var/lib/hyperv-agent"))?;
        Ok(machine)
    }

    /// Bytes of each ring that the guest's kernel makes for file copies.
    ///
    /// # Errors
    ///
    /// If the program does not open the device.
    pub fn ring_len(&mut self) -> Result<usize> {
        let device = self.offer(Fcopy::SERVICE.uio(0, 0))?;
        self.start()?;
        let opened = device.accept(OPEN_TIME);
        let opened = opened.with_context(|| format!("the program says:\n{}", self.log()));
        let closed = self.stop().and(device.rescind());
        let (Port::Uio(port) | Port::Kernel(port)) = opened? else {
            bail!("a device of the guest has no rings");
        };
        closed?;
        Ok(PAGE + port.rings.incoming.data_len() as usize)
    }

    /// Brings the capture out of the guest, if there is one, once the program has ended.
    fn take_capture(&mut self) -> Result<()> {
        let Some(path) = self.capture.take() else {
            return Ok(());
        };
        until(STOP_TIME, "the capture to end", || {
            Ok(self.guest.has(Path::new(CAPTURED))?.then_some(()))
        })?;
        let capture = self.files().read(Path::new(CAPTURE))?;
        std::fs::write(&path, capture).with_context(|| path.display().to_string())
    }
}

impl Machine for VmMachine {
    fn offer(&mut self, offer: Offer) -> Result<Arc<dyn Device>> {
        let (class, instance, kernel) = match offer {
            Offer::Uio {
                class, instance, ..
            } => {
                let uio = format!("/sys/bus/vmbus/devices/{instance}/uio");
                self.appears = PathBuf::from(uio);
                (class, instance, false)
            }
            Offer::HvUtil {
                class,
                instance,
                node,
            } => {
                self.appears = Path::new("/dev").join(node);
                (class, instance, true)
            }
        };
        let device = self.bus.offer(class, instance, kernel)?;
        self.offered.retain(|device| !device.is_released());
        self.offered.push(Arc::clone(&device));
        Ok(device)
    }

    fn start(&mut self) -> Result<()> {
        if self.device_first && self.offered.iter().any(|device| !device.is_released()) {
            until(BIND_TIME, "the guest's driver to take the device", || {
                Ok(self.guest.has(&self.appears)?.then_some(()))
            })?;
        }
        self.guest.start(&self.command)?;
        self.started = true;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.guest.end(Signal::SIGTERM, STOP_TIME)?;
        self.take_capture()
    }

    fn capture(&mut self, path: &Path) -> Result<()> {
        let program = self.command.first().context("no program")?;
        let words = ["sh", "-c", BEGIN_CAPTURE, program, CAPTURE, CAPTURED];
        self.guest.run(&words)?;
        until(SETTLE_TIME, "the capture to begin", || {
            if self.guest.has(Path::new(CAPTURED))? {
                let said = self.files().read(Path::new(CAPTURED))?;
                let said = String::from_utf8_lossy(&said);
                // The agent that has been started does not serve requests yet.
                let early = said.contains("no agent is running");
                ensure!(early, "it has ended: {}", said.trim());
                self.guest.run(&words)?;
            }
            Ok(self.guest.has(Path::new(CAPTURE))?.then_some(()))
        })?;
        self.capture = Some(path.to_owned());
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.guest.end(Signal::SIGKILL, STOP_TIME)?;
        self.take_capture()
    }

    fn pid(&self) -> Option<u32> {
        self.guest.pid().ok().flatten()
    }

    fn is_running(&mut self) -> bool {
        self.pid().is_some()
    }

    fn resources(&self) -> Result<Option<Resources>> {
        self.guest.resources()
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn pools(&self) -> PathBuf {
        PathBuf::from(POOLS)
    }

    fn network(&mut self) -> Result<Arc<dyn Network>> {
        Ok(Arc::new(GuestNetwork {
            guest: Arc::clone(&self.guest),
            program: self.command.first().context("no program")?.clone(),
        }))
    }

    fn volumes(&mut self) -> Result<Arc<dyn Volumes>> {
        Ok(Arc::new(GuestVolumes {
            guest: Arc::clone(&self.guest),
            program: self.command.first().context("no program")?.clone(),
        }))
    }

    fn stall_syslog(&mut self, stalled: bool) -> Result<()> {
        self.guest.order(&Request::StallSyslog(stalled))
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::new(RemoteFiles(Arc::clone(&self.guest)))
    }

    fn log(&self) -> String {
        let log = self.guest.log();
        let mut log = log.unwrap_or_else(|error| format!("no log: {error:#}\n"));
        let journal = self.bus.journal();
        let lines: Vec<&str> = journal.lines().collect();
        for line in lines.iter().rev().take(JOURNAL_LINES).rev() {
            log += &format!("vmbus: {line}\n");
        }
        log
    }
}

impl Drop for VmMachine {
    fn drop(&mut self) {
        // The guest lives on: what a failed scenario left is not the next one's.
        if self.started && self.is_running() {
            let _ = self.kill();
        }
        for device in &self.offered {
            device.rescind_at_once();
        }
    }
}

/// Lets the guest's UIO driver take file copy devices, as kernels from 2026 on
/// do and as the agent does by itself.
///
/// # Errors
///
/// If the driver is not there.
pub fn bind_to_uio(guest: &Guest) -> Result<()> {
    let path = PathBuf::from("/sys/bus/vmbus/drivers/uio_hv_generic/new_id");
    ensure!(guest.has(&path)?, "the guest has no uio_hv_generic");
    let data = Fcopy::SERVICE.class.to_string().into_bytes();
    guest
        .order(&Request::Write { path, data })
        .context("adding the file copy device to uio_hv_generic")
}
