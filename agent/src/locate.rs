//! Where a service's devices are: which of the two transports each is reached
//! by, or why by none.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hyperv_services::registry::Entry;
use hyperv_vmbus::discovery::{Device, Roots};

/// A device as it can be opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Located {
    /// A VMBus device bound to `uio_hv_generic`.
    Uio {
        /// Its node, such as `/dev/uio0`.
        node: PathBuf,
        /// Bytes of each of its rings, header page included.
        ring_len: usize,
    },
    /// A character device of `hv_utils`.
    HvUtil {
        /// Its node, such as `/dev/vmbus/hv_kvp`.
        node: PathBuf,
    },
}

impl Located {
    /// The device's node.
    pub fn node(&self) -> &std::path::Path {
        match self {
            Self::Uio { node, .. } | Self::HvUtil { node } => node,
        }
    }
}

/// What there is of a service.
#[derive(Debug, Default)]
pub struct Found {
    /// The devices that can be opened.
    pub located: BTreeSet<Located>,
    /// Devices that no driver offers to user space: they are there, and nobody
    /// can serve them.
    pub unreachable: Vec<Device>,
    /// A device is being set up by the kernel: look again shortly.
    pub settling: bool,
}

/// Looks for the devices of one service among `devices`.
///
/// A device that `uio_hv_generic` has is reached by it; otherwise the service's
/// character device is taken, where there is one. Some kernels have that node
/// without showing the VMBus device, so it counts by itself.
pub fn locate(entry: &Entry, devices: &[Device], roots: &Roots) -> Found {
    let node = roots.dev.join(entry.hvutil.node);
    let has_node = node.exists();
    let mut found = Found::default();
    for device in devices.iter().filter(|device| device.class == entry.class) {
        match &device.uio {
            Some(uio) => match uio.ring_len {
                Some(ring_len) => {
                    let node = roots.dev.join(&uio.name);
                    found.located.insert(Located::Uio { node, ring_len });
                }
                None => found.settling = true,
            },
            None if !has_node => found.unreachable.push(device.clone()),
            None => {}
        }
    }
    if found.located.is_empty() && has_node {
        found.located.insert(Located::HvUtil { node });
    }
    found
}
