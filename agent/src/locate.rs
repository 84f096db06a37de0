//! Where a service's devices are: which of the two transports each is reached
//! by, or why by none.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hyperv_services::service::Entry;
use hyperv_vmbus::discovery::{Device, Roots};

/// A device as it can be opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceNode {
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

impl DeviceNode {
    /// The device's node.
    pub fn node(&self) -> &std::path::Path {
        match self {
            Self::Uio { node, .. } | Self::HvUtil { node } => node,
        }
    }
}

/// One device of one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceKey {
    pub(crate) service: &'static str,
    pub(crate) device: DeviceNode,
}

/// What there is of a service.
#[derive(Debug, Default)]
pub struct ServiceDevices {
    /// The devices that can be opened.
    pub located: BTreeSet<DeviceNode>,
    /// Devices that no driver offers to user space: they are there, and nobody
    /// can serve them.
    pub unreachable: Vec<Device>,
    /// A device is being set up by the kernel: look again shortly.
    pub settling: bool,
}

/// Whether a service's character device is there. It is to be looked for before
/// the devices are listed: then the list has its VMBus device, and says whether
/// the driver is done with it.
pub fn has_node(entry: &Entry, roots: &Roots) -> bool {
    roots.dev.join(entry.hvutil.node).exists()
}

/// Looks for the devices of one service among `devices`; `has_node` is what
/// [`has_node`] said before these were listed.
///
/// A device that `uio_hv_generic` has is reached by it; otherwise the service's
/// character device is taken, where there is one. Some kernels have that node
/// without showing the VMBus device, so it counts by itself. It is there a
/// little before the driver is: see [`Device::open`].
pub fn locate(entry: &Entry, devices: &[Device], roots: &Roots, has_node: bool) -> ServiceDevices {
    let node = roots.dev.join(entry.hvutil.node);
    let mut found = ServiceDevices::default();
    for device in devices.iter().filter(|device| device.class == entry.class) {
        match &device.uio {
            Some(uio) => match uio.ring_len {
                Some(ring_len) => {
                    let node = roots.dev.join(&uio.name);
                    found.located.insert(DeviceNode::Uio { node, ring_len });
                }
                None => found.settling = true,
            },
            None if !has_node => found.unreachable.push(device.clone()),
            None => found.settling |= device.open == Some(false),
        }
    }
    if found.located.is_empty() && has_node && !found.settling {
        found.located.insert(DeviceNode::HvUtil { node });
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hyperv_services::registry::SERVICES;

    use super::*;

    #[test]
    fn a_character_device_waits_until_its_driver_has_the_channel_open() {
        let home = tempfile::tempdir().unwrap();
        let roots = Roots {
            sys: home.path().join("sys"),
            dev: home.path().to_owned(),
        };
        let entry = &SERVICES[0];
        let node = home.path().join(entry.hvutil.node);
        fs::create_dir_all(node.parent().unwrap()).unwrap();
        fs::write(&node, "").unwrap();
        let device = |open| Device {
            instance: entry.class,
            class: entry.class,
            driver: Some("hv_utils".into()),
            uio: None,
            open,
        };
        for (open, there) in [(None, true), (Some(false), false), (Some(true), true)] {
            let found = locate(entry, &[device(open)], &roots, has_node(entry, &roots));
            assert_eq!(found.located.len(), usize::from(there), "{open:?}");
            assert_eq!(found.settling, !there, "{open:?}");
        }
    }
}
