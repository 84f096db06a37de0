//! What a guest sees of the machine: its mounts, and the devices in them.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use fuser::{BackgroundSession, Config, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::devfs::DevFs;
use super::devtree::{self, DevTree};
use super::namespace::Namespace;
use super::root::Root;
use super::{lock, state, sysfs};

/// The first device's number on the bus.
const FIRST_RELID: u32 = 12;

/// What the guest sees of the machine.
pub(super) struct Guest {
    pub(super) tree: Arc<DevTree>,
    session: Mutex<Option<BackgroundSession>>,
    /// Where the guest has one of its own.
    pub(super) root: Mutex<Option<Root>>,
    pub(super) namespace: Namespace,
    pub(super) next_relid: AtomicU32,
}

impl Guest {
    /// A guest that has the machine's files but for its devices and for what
    /// programs keep; `pools` is the directory of its pool files.
    pub(super) fn on_the_machine(pools: PathBuf) -> Result<Self> {
        let tree = Arc::new(DevTree::new());
        devtree::machine_entries(&tree)?;
        let namespace = Namespace::new()?;
        let devfs = DevFs::new(Arc::clone(&tree));
        let session = namespace.run(move || {
            sysfs::prepare()?;
            state::prepare(&pools)?;
            mount_dev(devfs)
        })??;
        Ok(Self::new(tree, namespace, session, None))
    }

    /// A guest with a private root, made in `directory`, that has `program`
    /// in it.
    pub(super) fn with_root(directory: &Path, program: &Path) -> Result<Self> {
        let tree = Arc::new(DevTree::new());
        devtree::machine_entries(&tree)?;
        devtree::loop_entries(&tree)?;
        let namespace = Namespace::new()?;
        let devfs = DevFs::new(Arc::clone(&tree));
        let (root, session) = Root::new(&namespace, directory, program, move || {
            sysfs::prepare()?;
            mount_dev(devfs)
        })?;
        Ok(Self::new(tree, namespace, session, Some(root)))
    }

    fn new(
        tree: Arc<DevTree>,
        namespace: Namespace,
        session: BackgroundSession,
        root: Option<Root>,
    ) -> Self {
        Self {
            tree,
            session: Mutex::new(Some(session)),
            root: Mutex::new(root),
            namespace,
            next_relid: AtomicU32::new(FIRST_RELID),
        }
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
    mount_fuse(Path::new("/dev"), connection.as_raw_fd())?;
    let config = Config::default();
    Session::from_fd(devfs, connection.into(), SessionACL::All, config)
        .and_then(Session::spawn)
        .context("serving the guest's /dev")
}

/// Mounts the file system that this descriptor of `/dev/fuse` serves.
pub(super) fn mount_fuse(point: &Path, connection: RawFd) -> Result<()> {
    let options = format!(
        "fd={connection},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some(options.as_str());
    mount(Some("hyperv-sim"), point, Some("fuse"), flags, options)
        .with_context(|| format!("mounting the guest's {}", point.display()))
}

impl Drop for Guest {
    fn drop(&mut self) {
        let root = lock(&self.root).take();
        if root.is_none() {
            let _ = self.namespace.kill_all();
        }
        let unmounted = self.namespace.run(|| {
            // Forced: the connection ends, and with it all that waits on it.
            let _ = umount2("/dev", MntFlags::MNT_FORCE);
            umount2("/dev", MntFlags::MNT_DETACH)
        });
        if let Some(mut root) = root {
            let _ = root.end();
        }
        let session = lock(&self.session).take();
        if let (Ok(_), Some(session)) = (unmounted, session) {
            let _ = session.join();
        }
    }
}
