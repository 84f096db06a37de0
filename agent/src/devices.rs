//! Lists the VMBus devices and the services that serve them.

use std::fs;
use std::path::{Path, PathBuf};

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

/// A VMBus device with what sysfs says of its channels.
#[derive(Debug, Serialize)]
pub struct DetailedDevice {
    /// The device.
    #[serde(flatten)]
    pub device: DeviceInfo,
    /// The number by which the host knows its first channel.
    pub vmbus_id: Option<u32>,
    /// Its directory in sysfs.
    pub sysfs_path: PathBuf,
    /// Its NUMA node; `null` if it has none.
    pub numa_node: Option<u32>,
    /// Its channels, by number.
    pub channels: Vec<ChannelInfo>,
}

/// A channel of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ChannelInfo {
    /// The number by which the host knows it.
    pub relid: u32,
    /// The processor that the host interrupts.
    pub target_cpu: u32,
}

/// Lists every VMBus device with its channels. What the kernel does not say is left out.
///
/// # Errors
///
/// As [`discovery::devices`].
pub fn list_detailed(roots: &Roots) -> Result<Vec<DetailedDevice>, DiscoveryError> {
    let devices = list(roots)?.into_iter();
    Ok(devices.map(|device| detailed(device, roots)).collect())
}

fn detailed(device: DeviceInfo, roots: &Roots) -> DetailedDevice {
    let path = roots.sys.join("bus/vmbus/devices").join(&device.instance);
    DetailedDevice {
        vmbus_id: number(&path.join("id")),
        // It is -1 for none.
        numa_node: number(&path.join("numa_node")),
        channels: channels(&path),
        sysfs_path: path,
        device,
    }
}

/// Returns the channels of a device. Kernels before 4.17 have no directory of them.
fn channels(device: &Path) -> Vec<ChannelInfo> {
    let directory = fs::read_dir(device.join("channels"));
    let entries = directory.into_iter().flatten().flatten();
    let mut channels: Vec<_> = entries
        .filter_map(|entry| {
            Some(ChannelInfo {
                relid: entry.file_name().to_str()?.parse().ok()?,
                target_cpu: number(&entry.path().join("cpu"))?,
            })
        })
        .collect();
    if channels.is_empty() {
        let mapping = fs::read_to_string(device.join("channel_vp_mapping"));
        let mapping = mapping.unwrap_or_default();
        channels.extend(mapping.lines().filter_map(|line| {
            let (relid, cpu) = line.split_once(':')?;
            Some(ChannelInfo {
                relid: relid.trim().parse().ok()?,
                target_cpu: cpu.trim().parse().ok()?,
            })
        }));
    }
    channels.sort_by_key(|channel| channel.relid);
    channels
}

fn number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim_end().parse().ok()
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
pub fn table<'a>(devices: impl Iterator<Item = &'a DeviceInfo>) -> String {
    const NONE: &str = "-";
    let header = ["INSTANCE", "DEVICE", "DRIVER", "NODE", "RING", "SERVICE"].map(str::to_owned);
    let rows = devices.map(|device| {
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

/// The list with all details, one device after the other.
pub fn details(devices: &[DetailedDevice]) -> String {
    let mut text = String::new();
    for detailed in devices {
        let device = &detailed.device;
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let id = detailed.vmbus_id.map(|id| id.to_string());
        let name = device.description.unwrap_or("unknown class");
        let channels: Vec<_> = detailed
            .channels
            .iter()
            .map(|channel| format!("{} (CPU {})", channel.relid, channel.target_cpu))
            .collect();
        let gap = if text.is_empty() { "" } else { "\n" };
        text += &format!("{gap}VMBus {}: {name}\n", id.as_deref().unwrap_or("?"));
        for (what, value) in [
            ("instance", device.instance.clone()),
            ("class", device.class.clone()),
            ("sysfs", detailed.sysfs_path.display().to_string()),
            ("driver", or_none(device.driver.clone())),
            ("node", or_none(device.node.clone())),
            (
                "ring",
                or_none(device.ring_size.map(|size| format!("{} KiB", size / 1024))),
            ),
            ("service", or_none(device.service.map(str::to_owned))),
            (
                "NUMA node",
                or_none(detailed.numa_node.map(|node| node.to_string())),
            ),
            (
                "channels",
                or_none(Some(channels.join(", ")).filter(|text| !text.is_empty())),
            ),
        ] {
            text += &format!("  {what:9}  {value}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_have_the_channels_and_the_numa_node() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots {
            sys: root.path().into(),
            dev: "/nonexistent".into(),
        };
        let device = |number: u32, files: &[(&str, &str)]| {
            let directory = root.path().join(format!(
                "bus/vmbus/devices/00000000-0000-0000-0000-00000000000{number}"
            ));
            for (name, text) in files {
                let path = directory.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            directory
        };
        let class = hyperv_services::vss::ENTRY.class;
        let new = device(
            1,
            &[
                ("class_id", &format!("{{{class}}}\n")),
                ("id", "4\n"),
                ("numa_node", "0\n"),
                ("channels/30/cpu", "5\n"),
                ("channels/4/cpu", "1\n"),
            ],
        );
        device(
            2,
            &[
                ("class_id", "{00000000-0000-0000-0000-0000000000ff}\n"),
                ("numa_node", "-1\n"),
                ("channel_vp_mapping", "7:3\n9:0\n"),
            ],
        );
        let found = list_detailed(&roots).unwrap();
        let text = details(&found);
        let expected = format!(
            "VMBus 4: volume snapshots (VSS)\n  \
             instance   00000000-0000-0000-0000-000000000001\n  \
             class      {class}\n  \
             sysfs      {}\n  \
             driver     none\n  \
             node       none\n  \
             ring       none\n  \
             service    vss\n  \
             NUMA node  0\n  \
             channels   4 (CPU 1), 30 (CPU 5)\n\nVMBus ?: unknown class\n",
            new.display()
        );
        assert!(text.starts_with(&expected), "{text}");
        let end = "NUMA node  none\n  channels   7 (CPU 3), 9 (CPU 0)\n";
        assert!(text.ends_with(end), "{text}");
        let json = serde_json::to_value(&found).unwrap();
        let channels = serde_json::json!([
            {"relid": 4, "target_cpu": 1}, {"relid": 30, "target_cpu": 5},
        ]);
        assert_eq!(
            (&json[0]["channels"], &json[0]["vmbus_id"]),
            (&channels, &4.into())
        );
        assert_eq!(json[1]["numa_node"], serde_json::Value::Null);
    }
}
