//! Devices of a machine within this process: offered, opened, taken away.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hyperv_services::registry;
use hyperv_vmbus::{Channel, ChannelError};
use nix::errno::Errno;

use super::hvutil::{self, KernelEnd};
use super::uio;
use crate::port::{Device, Offer, Pipe, Port};
use crate::sysfs::Tree;

/// Tells the agent that devices came or went, as the kernel's uevents do.
pub(super) type Announcer = Box<dyn Fn() + Send>;

/// What is offered to the guest.
pub(super) struct Registry {
    tree: Tree,
    files: PathBuf,
    devices: Mutex<BTreeMap<PathBuf, Arc<Offered>>>,
    announcer: Mutex<Option<Announcer>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(errno: Errno) -> ChannelError {
    ChannelError::Io {
        call: "open",
        source: io::Error::from(errno),
    }
}

impl Registry {
    pub(super) fn new(tree: Tree, files: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            tree,
            files,
            devices: Mutex::default(),
            announcer: Mutex::default(),
        })
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn files(&self) -> &Path {
        &self.files
    }

    pub(super) fn announce_to(&self, announcer: Option<Announcer>) {
        *lock(&self.announcer) = announcer;
    }

    fn announce(&self) {
        if let Some(announce) = lock(&self.announcer).as_ref() {
            announce();
        }
    }

    pub(super) fn offer(self: &Arc<Self>, offer: Offer) -> Result<Arc<dyn Device>> {
        let device = Arc::new(Offered {
            offer,
            world: Arc::downgrade(self),
            state: Mutex::default(),
            opened: Condvar::new(),
            announced: AtomicBool::new(false),
        });
        lock(&self.devices).insert(self.tree.node(&offer), Arc::clone(&device));
        self.tree.add(&offer)?;
        self.announce();
        Ok(device)
    }

    /// Opens a device by its node, as the kernel does for the guest.
    pub(super) fn open(&self, node: &Path) -> Result<Box<dyn Channel>, ChannelError> {
        let device = lock(&self.devices)
            .get(node)
            .cloned()
            .ok_or_else(|| refused(Errno::ENOENT))?;
        device.open()
    }
}

/// A device that is offered.
struct Offered {
    offer: Offer,
    world: Weak<Registry>,
    state: Mutex<State>,
    opened: Condvar,
    /// That it is gone.
    announced: AtomicBool,
}

#[derive(Default)]
struct State {
    gone: bool,
    /// Opened by the guest, and not yet taken over by the host.
    waiting: VecDeque<Port>,
    open: Option<End>,
}

enum End {
    Uio(Arc<uio::Shared>),
    HvUtil(Arc<KernelEnd>),
}

impl Offered {
    fn open(&self) -> Result<Box<dyn Channel>, ChannelError> {
        let mut state = lock(&self.state);
        if state.gone {
            return Err(refused(Errno::ENODEV));
        }
        let (guest, port, end) = match self.offer {
            Offer::Uio { ring_len, .. } => {
                let opened = uio::open(ring_len)?;
                (
                    opened.guest,
                    Port::Uio(opened.host),
                    End::Uio(opened.shared),
                )
            }
            Offer::HvUtil { class, .. } => {
                if let Some(End::HvUtil(end)) = &state.open {
                    if !end.is_closed() {
                        return Err(refused(Errno::EBUSY));
                    }
                }
                let entry = registry::by_class(class).ok_or_else(|| refused(Errno::ENODEV))?;
                let (guest, kernel) = hvutil::open(&entry.hvutil)?;
                let kernel = Arc::new(kernel);
                let pipe: Arc<dyn Pipe> = Arc::clone(&kernel) as _;
                (guest, Port::HvUtil(pipe), End::HvUtil(kernel))
            }
        };
        state.waiting.push_back(port);
        state.open = Some(end);
        self.opened.notify_all();
        Ok(guest)
    }
}

impl Device for Offered {
    fn accept(&self, timeout: Duration) -> Result<Port> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.state);
        loop {
            if let Some(port) = state.waiting.pop_front() {
                return Ok(port);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("expected the guest to open the device within {timeout:?}; it did not");
            }
            state = self
                .opened
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn rescind_unannounced(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.gone = true;
        state.waiting.clear();
        match state.open.take() {
            Some(End::Uio(shared)) => shared.rescind(),
            Some(End::HvUtil(kernel)) => kernel.rescind(),
            None => {}
        }
        Ok(())
    }

    fn rescind(&self) -> Result<()> {
        self.rescind_unannounced()?;
        // Once: another device may have the place by now.
        if self.announced.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(world) = self.world.upgrade() {
            lock(&world.devices).remove(&world.tree.node(&self.offer));
            world.tree.remove(&self.offer)?;
            world.announce();
        }
        Ok(())
    }
}
