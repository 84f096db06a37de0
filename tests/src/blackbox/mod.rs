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
//! Where a device of ours differs from the kernel's: its node is a regular file;
//! a read that waits keeps other threads from using the same descriptor, and
//! ends at a signal only where [`Machine::stop`] or [`Machine::kill`] sent it;
//! a mapping does not keep a closed device open.

mod cover;
mod devfs;
mod devtree;
mod hvutil;
mod log;
mod namespace;
mod network;
mod node;
mod process;
mod state;
mod sysfs;
mod uio;

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fuser::{BackgroundSession, Config, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, geteuid, sysconf};
use tempfile::TempDir;

use crate::files::{Files, LocalFiles};
use crate::network::Network;
use crate::port::{Device, Machine, Offer, Port};
use devfs::DevFs;
use devtree::{DevTree, Entry};
use log::Log;
use namespace::Namespace;
use network::OwnNetwork;
use node::Node;
use process::Process;

/// The guest's pool files, in its directory.
const POOLS: &str = "pools";

/// What the guest changes of directories of the machine, in its directory.
const LAYERS: &str = "layers";

/// How long the program may take to end in an orderly way.
const STOP: Duration = Duration::from_secs(10);

/// A guest machine around a program.
pub struct BlackBox {
    command: Vec<String>,
    process: Option<Process>,
    offered: Vec<Arc<Offered>>,
    driver_masks: bool,
    own_network: bool,
    guest: Arc<Guest>,
    log: Log,
    directory: TempDir,
}

/// What the guest sees of the machine.
struct Guest {
    tree: Arc<DevTree>,
    session: Mutex<Option<BackgroundSession>>,
    namespace: Namespace,
    next_relid: AtomicU32,
}

/// Why this machine cannot have a [`BlackBox`], in words; `None` where it can.
#[must_use]
pub fn unavailable() -> Option<String> {
    if !geteuid().is_root() {
        return Some("it takes root to give a program a /dev and a /sys of its own".to_owned());
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

impl BlackBox {
    /// A machine without devices, in which `command` is to run: a program and
    /// its arguments, quoted as for a shell.
    ///
    /// # Errors
    ///
    /// Where the command is not well-formed, and where this machine cannot have
    /// such a guest, for which see [`unavailable`].
    pub fn new(command: &str) -> Result<Self> {
        let command =
            shell_words::split(command).with_context(|| format!("the command line {command:?}"))?;
        let directory = tempfile::Builder::new()
            .prefix("hyperv-sim-")
            .tempdir()
            .context("a directory for the guest")?;
        let log = Log::new(directory.path())?;
        let pools = directory.path().join(POOLS);
        std::fs::create_dir(&pools).with_context(|| pools.display().to_string())?;
        let guest = Arc::new(Guest::new(log.socket(), pools)?);
        Ok(Self {
            command,
            process: None,
            offered: Vec::new(),
            driver_masks: false,
            own_network: false,
            guest,
            log,
            directory,
        })
    }

    /// Whether the UIO driver masks a device's interrupt by itself when one
    /// comes, as older kernels' driver does and newer ones' does not; for devices
    /// that are offered from now on.
    pub fn set_driver_masks(&mut self, masks: bool) {
        self.driver_masks = masks;
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
        Ok(())
    }
}

impl Guest {
    fn new(syslog: &Path, pools: PathBuf) -> Result<Self> {
        let tree = Arc::new(DevTree::new());
        devtree::machine_entries(&tree)?;
        tree.add("log", Entry::Link(syslog.to_owned()))?;
        let namespace = Namespace::new()?;
        let devfs = DevFs::new(Arc::clone(&tree));
        let session = namespace.run(move || {
            sysfs::prepare()?;
            state::prepare(&pools)?;
            mount_dev(devfs)
        })??;
        Ok(Self {
            tree,
            session: Mutex::new(Some(session)),
            namespace,
            next_relid: AtomicU32::new(12),
        })
    }
}

/// Mounts `devfs` over `/dev`. The mount belongs to nobody but the namespace:
/// a session that thinks of it as its own would unmount the `/dev` of whatever
/// namespace it is dropped in.
fn mount_dev(devfs: DevFs) -> Result<BackgroundSession> {
    let connection = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        connection.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some(options.as_str());
    mount(Some("hyperv-sim"), "/dev", Some("fuse"), flags, options)
        .context("mounting the guest's /dev")?;
    let config = Config::default();
    Session::from_fd(devfs, connection.into(), SessionACL::All, config)
        .and_then(Session::spawn)
        .context("serving the guest's /dev")
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.namespace.kill_all();
        let unmounted = self.namespace.run(|| {
            // Forced: the connection ends, and with it all that waits on it.
            let _ = umount2("/dev", MntFlags::MNT_FORCE);
            umount2("/dev", MntFlags::MNT_DETACH)
        });
        let session = lock(&self.session).take();
        if let (Ok(_), Some(session)) = (unmounted, session) {
            let _ = session.join();
        }
    }
}

impl Machine for BlackBox {
    fn offer(&mut self, offer: Offer) -> Result<Arc<dyn Device>> {
        let (path, node): (String, Arc<dyn Node>) = match offer {
            Offer::Uio {
                number, ring_len, ..
            } => {
                let node = uio::UioNode::new(ring_len, page_size()?, self.driver_masks);
                (format!("uio{number}"), Arc::new(node))
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
        self.guest
            .namespace
            .run(move || sysfs::add(&offer, relid).and_then(|()| sysfs::announce()))??;
        self.offered.push(Arc::clone(&offered));
        Ok(offered)
    }

    fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("the program runs already");
        }
        let output = self.log.output()?;
        self.process = Some(Process::start(
            &self.guest.namespace,
            &self.command,
            output,
        )?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM, STOP)
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
        self.directory.path()
    }

    fn pools(&self) -> PathBuf {
        self.directory.path().join(POOLS)
    }

    fn network(&mut self) -> Result<Arc<dyn Network>> {
        if !self.own_network {
            let layers = self.directory.path().join(LAYERS);
            std::fs::create_dir(&layers).with_context(|| layers.display().to_string())?;
            self.guest
                .namespace
                .run(move || network::prepare(&layers))??;
            self.own_network = true;
        }
        Ok(Arc::new(OwnNetwork {
            guest: Arc::downgrade(&self.guest),
        }))
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::new(LocalFiles { pid: self.pid() })
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
