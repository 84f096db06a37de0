//! Lists the VMBus devices and the services that serve them.

use std::fs;

use hyperv_services::registry;
use hyperv_vmbus::classes;
use hyperv_vmbus::discovery::{self, Device, DiscoveryError, Roots};
use serde::Serialize;

use crate::terminal::aligned;

/// Returns whether the firmware says that this is a virtual machine of Hyper-V.
pub fn is_hyperv_guest(roots: &Roots) -> bool {
    let id = |name| fs::read_to_string(roots.sys.join("class/dmi/id").join(name));
    id("sys_vendor").is_ok_and(|vendor| vendor.trim_end() == "Microsoft Corporation")
        && id("product_name").is_ok_and(|product| product.trim_end() == "Virtual Machine")
}

/// A VMBus device.
#[derive(Debug, Serialize)]
pub struct DeviceInfo {
    /// Instance GUID.
    pub instance: String,
    /// Class GUID.
    pub class: String,
    /// Name of the class; `null` if it is unknown.
    pub description: Option<&'static str>,
    /// Driver that the device is bound to.
    pub driver: Option<String>,
    /// Node by which the agent reaches it.
    pub node: Option<String>,
    /// Bytes of each of its rings, if they are mapped through UIO.
    pub ring_size: Option<usize>,
    /// Service that serves it.
    pub service: Option<&'static str>,
}

/// Lists every VMBus device.
///
/// # Errors
///
/// As [`discovery::devices`].
pub fn list(roots: &Roots) -> Result<Vec<DeviceInfo>, DiscoveryError> {
    let devices = discovery::devices(roots)?;
    Ok(devices
        .into_iter()
        .map(|device| listed(device, roots))
        .collect())
}

fn listed(device: Device, roots: &Roots) -> DeviceInfo {
    let entry = registry::by_class(device.class);
    let node = match (&device.uio, entry) {
        (Some(uio), _) => Some(roots.dev.join(&uio.name)),
        (None, Some(entry)) => Some(roots.dev.join(entry.hvutil.node)).filter(|node| node.exists()),
        (None, None) => None,
    };
    DeviceInfo {
        instance: device.instance.to_string(),
        class: device.class.to_string(),
        description: classes::name(device.class),
        driver: device.driver,
        node: node.map(|node| node.display().to_string()),
        ring_size: device.uio.and_then(|uio| uio.ring_len),
        service: entry.map(|entry| entry.name),
    }
}

/// The list as a table for people.
pub fn table(devices: &[DeviceInfo]) -> String {
    const NONE: &str = "-";
    let header = ["INSTANCE", "DEVICE", "DRIVER", "NODE", "RING", "SERVICE"].map(str::to_owned);
    let rows = devices.iter().map(|device| {
        [
            device.instance.clone(),
            device.description.unwrap_or(&device.class).to_owned(),
            device.driver.clone().unwrap_or_else(|| NONE.to_owned()),
            device.node.clone().unwrap_or_else(|| NONE.to_owned()),
            device
                .ring_size
                .map_or_else(|| NONE.to_owned(), |size| format!("{} KiB", size / 1024)),
            device.service.unwrap_or(NONE).to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    aligned(&rows)
}
