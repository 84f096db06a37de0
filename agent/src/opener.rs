//! Opens the machine's devices.

use std::path::Path;

use hyperv_services::service::Entry;
use hyperv_vmbus::discovery::{self, Roots};
use hyperv_vmbus::hvutil::HvUtilChannel;
use hyperv_vmbus::uio::{UioChannel, UioFile};
use hyperv_vmbus::{Channel, ChannelError};
use nix::errno::Errno;
use rustix::fs::{FlockOperation, flock};
use slog::{Logger, warn};

use crate::holder;
use crate::locate::DeviceNode;
use crate::worker::state::WorkerState;

/// What the opening of a device waits for during a search.
const SEARCH: &str = "the search for another program that has it open";

/// Where the progress of opening a device is published: the log and the worker's state.
pub struct OpenContext<'a> {
    pub(crate) log: &'a Logger,
    pub(crate) state: &'a WorkerState,
}

/// Opens devices. The simulated host has its own implementation.
pub trait Opener: Send + Sync {
    /// Opens `device` for the service `entry`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Held`] if another program has the device, [`OpenError::Channel`] if the
    /// channel cannot be opened.
    fn open(
        &self,
        device: &DeviceNode,
        entry: &Entry,
        opening: &OpenContext<'_>,
    ) -> Result<Box<dyn Channel>, OpenError>;
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program has the device open.
    #[error("{holder} has the device open: stop that program, and keep it from starting again")]
    Held {
        /// Name and PID of the program.
        holder: String,
    },
    /// The channel cannot be opened.
    #[error("{source}{hint}")]
    Channel {
        /// The error.
        source: ChannelError,
        /// What to do about it: the rest of the sentence.
        hint: &'static str,
    },
}

impl From<ChannelError> for OpenError {
    fn from(source: ChannelError) -> Self {
        let errno = match &source {
            ChannelError::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        };
        let hint = match errno {
            Some(Errno::EBUSY) => {
                ": another program serves the device; stop it (hv_fcopy_daemon, hv_kvp_daemon \
                 or hv_vss_daemon), and keep it from starting again"
            }
            Some(Errno::EACCES | Errno::EPERM) => {
                ": run hyperv-agent as root, and let it reach the device where a sandbox, \
                 a container or a security module confines it"
            }
            _ => "",
        };
        Self::Channel { source, hint }
    }
}

/// Opens the devices of the kernel.
#[derive(Debug)]
pub struct KernelOpener {
    /// Where sysfs and the device nodes are.
    pub roots: Roots,
}

impl Opener for KernelOpener {
    fn open(
        &self,
        device: &DeviceNode,
        entry: &Entry,
        opening: &OpenContext<'_>,
    ) -> Result<Box<dyn Channel>, OpenError> {
        match device {
            DeviceNode::Uio { node, ring_len } => {
                let searched = self.check_not_open_elsewhere(node, opening)?;
                opening
                    .state
                    .set_waits_for("the kernel and the host to open its channel");
                let channel = UioChannel::open(node, *ring_len)?;
                let channel = check_still_alone(channel, node, searched, opening)?;
                Ok(Box::new(channel))
            }
            DeviceNode::HvUtil { node } => {
                opening.state.set_waits_for("the kernel");
                Ok(Box::new(HvUtilChannel::open(node, &entry.hvutil)?))
            }
        }
    }
}

impl KernelOpener {
    /// Refuses a UIO device that another program has open. The kernel lets any number of
    /// programs open it, but two readers of one ring lose messages. Returns whether a search
    /// makes sense: the last one did not time out.
    fn check_not_open_elsewhere(
        &self,
        node: &Path,
        opening: &OpenContext<'_>,
    ) -> Result<bool, OpenError> {
        let is_open = || discovery::is_open(&self.roots, node.file_name()?);
        if is_open() == Some(false) {
            return Ok(true);
        }
        opening.state.set_waits_for(SEARCH);
        match holder::find(node) {
            Ok(Some(holder)) => Err(OpenError::Held { holder }),
            // The program may have closed it just now.
            Ok(None) => {
                if is_open() == Some(true) {
                    warn!(
                        opening.log,
                        "{} is open already, but the program that has it open was not found: if \
                         there is one, perhaps in a container, stop it, as two programs lose each \
                         other's messages",
                        node.display()
                    );
                }
                Ok(true)
            }
            Err(error) => {
                warn!(opening.log, "opening {} although {}", node.display(), error);
                Ok(false)
            }
        }
    }
}

/// Refuses a UIO device that another program has opened at the same moment: both found it
/// closed. Nothing has been read from or written to its rings yet. `search` is false where a
/// search has timed out already.
fn check_still_alone(
    channel: UioChannel<UioFile>,
    node: &Path,
    search: bool,
    opening: &OpenContext<'_>,
) -> Result<UioChannel<UioFile>, OpenError> {
    // Of two agents one gets the lock, even if neither sees the other's process.
    let lock = flock(channel.as_fd(), FlockOperation::NonBlockingLockExclusive);
    let channel = (lock != Err(rustix::io::Errno::WOULDBLOCK)).then_some(channel);
    opening.state.set_waits_for(SEARCH);
    let found = if search { holder::find(node) } else { Ok(None) };
    match (found, channel) {
        (Ok(Some(holder)), _) => Err(OpenError::Held { holder }),
        (_, Some(channel)) => Ok(channel),
        (_, None) => Err(OpenError::Held {
            holder: "another hyperv-agent, perhaps in a container,".to_owned(),
        }),
    }
}
