//! A guest machine around an unmodified program: it runs as a process of its
//! own, and finds the devices where a kernel under Hyper-V has them.
//!
//! The program lives in a mount namespace in which `/dev` is a file system of
//! ours (`devfs`), `/sys` has the devices in it (`sysfs`), and what it keeps
//! below `/var/lib` and `/run/hyperv-agent` is its own (`state`); everything else
//! is the machine's. The namespace, and with it every mount, ends when its
//! last process does: nothing is left on the machine, even where the simulator
//! is killed.
//!
//! A program that freezes file systems must not see the machine's: it has a
//! private root (`root`), and no other program is offered a device for backups
//! (`mounts`).
//!
//! Where a device of ours differs from the kernel's: its node is a regular file;
//! a read that waits keeps other threads from using the same descriptor, and
//! ends at a signal only where [`Machine::stop`] or [`Machine::kill`] sent it;
//! a mapping does not keep a closed device open.

mod cover;
mod devfs;
mod devtree;
mod files;
mod guest;
mod hvutil;
mod log;
mod mounts;
mod namespace;
mod network;
mod node;
mod process;
mod programs;
mod recording;
mod root;
mod state;
mod sysfs;
mod uio;

use std::fs::{self, OpenOptions};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, geteuid, sysconf};
use tempfile::TempDir;

use crate::files::{Files, LocalFiles};
use crate::host::Protocol as _;
use crate::network::Network;
use crate::port::{Device, Machine, Offer, Port};
use crate::volumes::Volumes;
use crate::vss::Vss;
use devtree::Entry;
use files::RootedFiles;
use guest::Guest;
use log::Log;
use network::OwnNetwork;
use node::Node;
use process::Process;
use recording::Recording;

/// The guest's pool files, in its directory.
const POOLS: &str = "pools";

/// Where a guest with a private root has its pool files.
const OWN_POOLS: &str = "/var/lib/hyperv";

/// Where scenarios have their files in a private root: what is frozen there is
/// not this.
const OWN_DIRECTORY: &str = "/run/scenarios";

/// Where such a root has the program's log.
const OWN_LOG: &str = "run/log";

/// What the guest changes of directories of the machine, in its directory.
const LAYERS: &str = "layers";

/// A capture that has not ended, in its directory.
const CAPTURE: &str = "capture.pcapng";

/// The agent's configuration where it was given one, in its directory.
const CONFIGURATION: &str = "config.toml";

/// How long the program may take to end in an orderly way.
const STOP: Duration = Duration::from_secs(10);

/// A guest machine around a program.
pub struct BlackBox {
    command: Vec<String>,
    environment: &'static [(&'static str, &'static str)],
    process: Option<Process>,
    recording: Option<Recording>,
    offered: Vec<Arc<Offered>>,
    driver_masks: bool,
    own_network: bool,
    /// There is a configuration for the program.
    configured: bool,
    /// The guest's own root, as this process sees it, where it has one.
    view: Option<PathBuf>,
    /// Where scenarios have their files.
    files: PathBuf,
    pools: PathBuf,
    log: Log,
    guest: Arc<Guest>,
    directory: TempDir,
}

/// Why this machine cannot have a [`BlackBox`], in words; `None` if it can.
#[must_use]
pub fn unavailable() -> Option<String> {
    if !geteuid().is_root() {
        return Some("a program with a private /dev and /sys needs root".to_owned());
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Some(format!("/dev/fuse: {error}"));
    }
    // The rest depends on the kernel, on how it was built and on what the
    // surroundings allow: trying is the surest way to know.
    BlackBox::new("true")
        .err()
        .map(|error| format!("{error:#}"))
}

/// Why this machine cannot have a [`BlackBox`] with a private root, in words;
/// `None` if it can.
#[must_use]
pub fn root_unavailable() -> Option<String> {
    unavailable().or_else(|| {
        BlackBox::with_root("true")
            .err()
            .map(|error| format!("{error:#}"))
    })
}

impl BlackBox {
    /// A machine without devices, in which `command` is to run: a program and
    /// its arguments, quoted as for a shell.
    ///
    /// # Errors
    ///
    /// If the command is not well-formed or names no program, and if this
    /// machine cannot have such a guest, for which see [`unavailable`].
    pub fn new(command: &str) -> Result<Self> {
        let (directory, command) = prepare(command)?;
        let log = Log::new(directory.path())?;
        let pools = directory.path().join(POOLS);
        std::fs::create_dir(&pools).with_context(|| pools.display().to_string())?;
        let guest = Guest::on_the_machine(pools.clone())?;
        guest
            .tree
            .add("log", Entry::Link(log.syslog.socket().to_owned()))?;
        let files = directory.path().to_owned();
        let place = (None, files, pools);
        Ok(Self::prepared(command, guest, log, place, directory))
    }

    /// A machine in which the program has a private root, with no file system
    /// of this machine in it: it may freeze all file systems that it finds. The program is
    /// there as a copy, and the arguments of `command` are paths in that root.
    ///
    /// # Errors
    ///
    /// As for [`BlackBox::new`], and if programs are missing that make and
    /// mount file systems; see [`root_unavailable`].
    pub fn with_root(command: &str) -> Result<Self> {
        if let Some(missing) = root::missing() {
            bail!("cannot make a private root: {missing}");
        }
        let (directory, mut command) = prepare(command)?;
        let program = command.first_mut().context("the command is empty")?;
        let guest = Guest::with_root(directory.path(), Path::new(program))?;
        let name = Path::new(program)
            .file_name()
            .context("a program has a name")?;
        *program = Path::new(programs::PLACE)
            .join(name)
            .to_string_lossy()
            .into_owned();
        let view = lock(&guest.root)
            .as_ref()
            .map(|root| root.view().to_owned());
        let view = view.context("the guest has no root")?;
        let log = view.join(OWN_LOG);
        std::fs::create_dir(&log).context("a directory for the guest's log")?;
        let log = Log::new(&log)?;
        let socket = log.syslog.socket().strip_prefix(&view)?;
        guest
            .tree
            .add("log", Entry::Link(Path::new("/").join(socket)))?;
        let place = (Some(view), OWN_DIRECTORY.into(), OWN_POOLS.into());
        Ok(Self::prepared(command, guest, log, place, directory))
    }

    fn prepared(
        command: Vec<String>,
        guest: Guest,
        log: Log,
        (view, files, pools): (Option<PathBuf>, PathBuf, PathBuf),
        directory: TempDir,
    ) -> Self {
        Self {
            command,
            environment: &[],
            process: None,
            recording: None,
            offered: Vec::new(),
            driver_masks: false,
            own_network: false,
            configured: false,
            view,
            files,
            pools,
            log,
            guest: Arc::new(guest),
            directory,
        }
    }

    /// Copies a further program into the private root, and returns `command` with
    /// the path that it has in there.
    ///
    /// # Errors
    ///
    /// If the guest has no private root, or the command names no program.
    pub fn install(&self, command: &str) -> Result<String> {
        let view = self.view.as_ref();
        let view = view.context("the guest has no private root")?;
        let mut words = words(command)?;
        let program = words.first_mut().context("the command is empty")?;
        *program = programs::install(Path::new(program), view)?;
        Ok(shell_words::join(&words))
    }

    /// A socket in the private root that the program may send datagrams to.
    ///
    /// # Errors
    ///
    /// If the guest has no private root, or the socket cannot be bound.
    pub fn socket(&self, path: &Path) -> Result<UnixDatagram> {
        let view = self.view.as_ref();
        let view = view.context("the guest has no private root")?;
        let here = view.join(path.strip_prefix("/").context("the path is relative")?);
        UnixDatagram::bind(&here).with_context(|| path.display().to_string())
    }

    /// Starts a command in the private root, beside the program; its input and
    /// output are given to the caller.
    ///
    /// # Errors
    ///
    /// If the guest has no private root, or the command cannot be started.
    pub fn spawn(&self, command: &[&str]) -> Result<Child> {
        ensure!(self.view.is_some(), "the guest has no private root");
        root::start(&self.guest.namespace, command)
    }

    /// Mounts a FUSE file system in the private root at `point`, a directory that is made;
    /// `connection` is an open `/dev/fuse`.
    ///
    /// # Errors
    ///
    /// If the guest has no private root, or the kernel refuses.
    pub fn mount_fuse(&self, point: &str, connection: BorrowedFd<'_>) -> Result<()> {
        ensure!(self.view.is_some(), "the guest has no private root");
        let point = PathBuf::from(point);
        let connection = connection.as_raw_fd();
        self.guest.namespace.run(move || {
            fs::create_dir_all(&point)?;
            guest::mount_fuse(&point, connection)
        })?
    }

    /// Whether the UIO driver masks a device's interrupt by itself when one
    /// comes, as older kernels' driver does and newer ones' does not; for devices
    /// that are offered from now on.
    pub fn set_driver_masks(&mut self, masks: bool) {
        self.driver_masks = masks;
    }

    /// Variables in the program's environment, from its next start on.
    pub fn set_environment(&mut self, variables: &'static [(&'static str, &'static str)]) {
        self.environment = variables;
    }

    /// How the program has ended, if it was started and has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.as_ref()?.status()
    }

    fn end(&mut self, signal: Signal, timeout: Duration) -> Result<()> {
        let process = self.process.as_ref().context("the program does not run")?;
        process.signal(signal)?;
        process.wait(timeout, signal, || {
            for offered in &self.offered {
                offered.node.interrupt_reads();
            }
        })?;
        self.recording.take().map_or(Ok(()), Recording::end)
    }
}

/// The words of a command, the program's path first.
fn words(command: &str) -> Result<Vec<String>> {
    let mut words =
        shell_words::split(command).with_context(|| format!("the command line {command:?}"))?;
    let program = words.first_mut().context("the command is empty")?;
    *program = programs::find(program)?.to_string_lossy().into_owned();
    Ok(words)
}

/// A directory for a guest, and the words of a command.
fn prepare(command: &str) -> Result<(TempDir, Vec<String>)> {
    let words = words(command)?;
    let directory = tempfile::Builder::new()
        .prefix("hyperv-sim-")
        .tempdir()
        .context("a directory for the guest")?;
    Ok((directory, words))
}

/// Whether a program that has this device freezes file systems.
fn freezes(offer: &Offer) -> bool {
    match offer {
        Offer::Uio { class, .. } => *class == Vss::SERVICE.class,
        Offer::HvUtil { class, node, .. } => {
            *class == Vss::SERVICE.class || *node == Vss::SERVICE.node
        }
    }
}

impl Machine for BlackBox {
    fn offer(&mut self, offer: Offer) -> Result<Arc<dyn Device>> {
        if freezes(&offer) {
            mounts::expect_none_of_the_machine(&self.guest.namespace)?;
        }
        let mut uio = None;
        let (path, node): (String, Arc<dyn Node>) = match offer {
            Offer::Uio {
                number, ring_len, ..
            } => {
                let node = uio::UioNode::new(ring_len, page_size()?, self.driver_masks);
                let node = Arc::new(node);
                uio = Some(Arc::clone(&node));
                (format!("uio{number}"), node)
            }
            Offer::HvUtil { node, .. } => (node.to_owned(), hvutil::HvUtilNode::new()),
        };
        // The kernel makes the node before the directories that point to it.
        self.guest
            .tree
            .add(&path, Entry::Device(Arc::clone(&node)))?;
        let offered = Arc::new(Offered {
            offer,
            path,
            node,
            guest: Arc::downgrade(&self.guest),
            rescinded: AtomicBool::new(false),
        });
        let relid = self.guest.next_relid.fetch_add(1, Ordering::Relaxed);
        let add = move || {
            let shown = sysfs::add(&offer, relid)?;
            if let (Some(node), Some(state)) = (uio, shown) {
                node.show_state_in(state);
            }
            sysfs::announce()
        };
        self.guest.namespace.run(add)??;
        self.offered.push(Arc::clone(&offered));
        Ok(offered)
    }

    fn configure(&mut self, lines: &str) -> Result<()> {
        ensure!(
            self.view.is_none(),
            "a guest with a private root has its own configuration"
        );
        let path = self.directory.path().join(CONFIGURATION);
        std::fs::write(&path, lines).with_context(|| path.display().to_string())?;
        self.configured = true;
        match &self.process {
            Some(process) => process.signal(Signal::SIGHUP),
            None => Ok(()),
        }
    }

    fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("the program runs already");
        }
        if self.offered.iter().any(|offered| freezes(&offered.offer)) {
            mounts::expect_none_of_the_machine(&self.guest.namespace)?;
        }
        let output = self.log.output()?;
        let mut command = self.command.clone();
        if self.configured {
            let path = self.directory.path().join(CONFIGURATION);
            command.extend(["--config".to_owned(), path.to_string_lossy().into_owned()]);
        }
        let output = [output.try_clone().context("the program's output")?, output];
        let process = Process::start(&self.guest.namespace, &command, self.environment, output)?;
        self.process = Some(process);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM, STOP)
    }

    fn capture(&mut self, path: &Path) -> Result<()> {
        let program = self.command.first().context("no program")?;
        let output = self.directory.path().join(CAPTURE);
        let log = self.log.output()?;
        let namespace = &self.guest.namespace;
        let recording = Recording::begin(namespace, program, path, output, log)?;
        self.recording = Some(recording);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL, STOP)
    }

    fn pid(&self) -> Option<u32> {
        let process = self.process.as_ref()?;
        process.status().is_none().then(|| process.pid())
    }

    fn is_running(&mut self) -> bool {
        self.pid().is_some()
    }

    fn directory(&self) -> &Path {
        &self.files
    }

    fn pools(&self) -> PathBuf {
        self.pools.clone()
    }

    fn network(&mut self) -> Result<Arc<dyn Network>> {
        if self.view.is_some() {
            bail!("a guest with a private root has no tools for its network");
        }
        if !self.own_network {
            ensure!(!self.is_running(), "the program has the machine's network");
            let layers = self.directory.path().join(LAYERS);
            std::fs::create_dir(&layers).with_context(|| layers.display().to_string())?;
            self.guest
                .namespace
                .run(move || network::prepare(&layers))??;
            self.own_network = true;
        }
        Ok(Arc::new(OwnNetwork {
            program: self.command.first().context("no program")?.clone(),
            guest: Arc::downgrade(&self.guest),
        }))
    }

    fn volumes(&mut self) -> Result<Arc<dyn Volumes>> {
        if self.view.is_none() {
            bail!("the guest has the file systems of this machine");
        }
        Ok(Arc::new(OwnVolumes {
            program: self.command.first().context("no program")?.clone(),
            guest: Arc::downgrade(&self.guest),
        }))
    }

    fn stall_syslog(&mut self, stalled: bool) -> Result<()> {
        self.log.syslog.stall(stalled)
    }

    fn files(&self) -> Arc<dyn Files> {
        match &self.view {
            Some(view) => Arc::new(RootedFiles {
                view: view.clone(),
                guest: Arc::downgrade(&self.guest),
            }),
            None => Arc::new(LocalFiles { pid: self.pid() }),
        }
    }

    fn log(&self) -> String {
        self.log.read()
    }
}

impl Drop for BlackBox {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.kill();
        }
    }
}

/// The file systems of a guest with a private root.
struct OwnVolumes {
    program: String,
    guest: Weak<Guest>,
}

impl Volumes for OwnVolumes {
    fn run(&self, command: &[&str]) -> Result<String> {
        let guest = self.guest.upgrade().context("the guest has ended")?;
        root::run(&guest.namespace, command)
    }

    fn program(&self) -> &str {
        &self.program
    }
}

/// A device in the guest.
struct Offered {
    offer: Offer,
    /// Relative to `/dev`.
    path: String,
    node: Arc<dyn Node>,
    /// The guest ends with its [`BlackBox`], whoever still holds a device.
    guest: Weak<Guest>,
    rescinded: AtomicBool,
}

impl Device for Offered {
    fn accept(&self, timeout: Duration) -> Result<Port> {
        self.node.accept(timeout)
    }

    fn rescind_unannounced(&self) -> Result<()> {
        self.node.rescind();
        Ok(())
    }

    fn rescind(&self) -> Result<()> {
        // Once: another device may have the place by now.
        if self.rescinded.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let guest = self.guest.upgrade().context("the guest has ended")?;
        let offer = self.offer;
        self.node.rescind();
        guest.tree.remove(&self.path);
        guest
            .namespace
            .run(move || sysfs::remove(&offer).and_then(|()| sysfs::announce()))?
    }
}

/// Bytes of a system page, which is what a ring's header takes.
fn page_size() -> Result<usize> {
    sysconf(SysconfVar::PAGE_SIZE)
        .context("the size of a page")?
        .and_then(|size| usize::try_from(size).ok())
        .context("the system does not state the size of a page")
}

/// Locks `mutex`. What is behind these locks is whole after each statement, so
/// that a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `done` or `timeout`.
fn wait_until<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
    mut done: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    changed
        .wait_timeout_while(guard, timeout, |value| !done(value))
        .unwrap_or_else(PoisonError::into_inner)
        .0
}
