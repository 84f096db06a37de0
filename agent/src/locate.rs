//! Locates the devices of a service, and the transport of each.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hyperv_services::service::Entry;
use hyperv_vmbus::discovery::{Device, Roots};

/// The node by which a device can be opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceNode {
    /// A VMBus device bound to `uio_hv_generic`.
    Uio {
        /// The node, such as `/dev/uio0`.
        node: PathBuf,
        /// Bytes of each of its rings, header page included.
        ring_len: usize,
    },
    /// A character device of `hv_utils`.
    HvUtil {
        /// The node, such as `/dev/vmbus/hv_kvp`.
        node: PathBuf,
    },
}

impl DeviceNode {
    /// Returns the path of the node.
    pub fn node(&self) -> &std::path::Path {
        match self {
            Self::Uio { node, .. } | Self::HvUtil { node } => node,
        }
    }
}

/// A device and its service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceKey {
    pub(crate) service: &'static str,
    pub(crate) device: DeviceNode,
}

/// The devices of a service.
#[derive(Debug, Default)]
pub struct ServiceDevices {
    /// The devices that can be opened.
    pub located: BTreeSet<DeviceNode>,
    /// Devices that no driver makes accessible to user space.
    pub unreachable: Vec<Device>,
    /// Whether the kernel is still setting up a device: scan again soon.
    pub settling: bool,
}

/// Returns whether a service's character device exists. Call this before listing the
/// devices: then the list has its VMBus device, and says whether the driver is ready.
pub fn has_node(entry: &Entry, roots: &Roots) -> bool {
    roots.dev.join(entry.hvutil.node).exists()
}

/// Selects the devices of one service among `devices`. `has_node` is what [`has_node`]
/// returned before these were listed.
///
/// A device that is bound to `uio_hv_generic` is reached by UIO. Otherwise the service's
/// character device is used, if it exists. Some kernels have that node without a VMBus
/// device in sysfs. It appears a little before the driver is ready: see [`Device::open`].
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
