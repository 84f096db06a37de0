//! The location of a disk: its controller, and its place on that.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use hyperv_vmbus::Guid;

use crate::vss::sysfs::attribute;

/// Classes of VMBus devices with disks, as the kernel's `hyperv.h` has them.
const SCSI: Guid = Guid::from_u128(0xba6163d9_04a1_4d29_b605_72e2ffb1dc7f);
const IDE: Guid = Guid::from_u128(0x32412632_86cb_44a2_9b5c_50d1417354f5);
const FIBRE_CHANNEL: Guid = Guid::from_u128(0x2f9bcc4a_0069_4af3_b76b_6fd0be528cda);

/// The model of Azure's remote disks: namespace 1 is the disk with the operating
/// system, and the others are data disks, from LUN 0 at namespace 2 on.
const AZURE_REMOTE: &str = "MSFT NVMe Accelerator v1.0";

/// The location of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// On a SCSI controller of Hyper-V.
    Scsi {
        /// The instance GUID of the controller's VMBus device.
        controller: Guid,
        /// The LUN, which the host calls the controller's location.
        lun: u64,
    },
    /// On an IDE controller of Hyper-V.
    Ide {
        /// The number of the controller.
        controller: u32,
        /// The place at the controller.
        location: u16,
    },
    /// On a Fibre Channel adapter of Hyper-V.
    FibreChannel {
        /// The instance GUID of the adapter's VMBus device.
        adapter: Guid,
        /// The LUN.
        lun: u64,
    },
    /// On a SCSI host that is none of Hyper-V's.
    OtherScsi {
        /// Host, channel, target and LUN, such as `0:0:0:1`.
        address: String,
    },
    /// On an NVMe controller.
    Nvme {
        /// The namespace.
        namespace: u64,
        /// What Azure calls the disk.
        azure: Option<Azure>,
    },
    /// Persistent memory.
    Pmem,
}

/// What Azure calls a remote disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Azure {
    /// The disk with the operating system.
    Os,
    /// The data disk with this LUN.
    Data(u64),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scsi { controller, lun } => write!(f, "SCSI controller {controller}, LUN {lun}"),
            Self::Ide {
                controller,
                location,
            } => write!(f, "IDE controller {controller}, location {location}"),
            Self::FibreChannel { adapter, lun } => {
                write!(f, "Fibre Channel adapter {adapter}, LUN {lun}")
            }
            Self::OtherScsi { address } => write!(f, "SCSI {address}"),
            Self::Nvme { namespace, azure } => {
                write!(f, "NVMe namespace {namespace}")?;
                match azure {
                    Some(Azure::Os) => f.write_str(" (Azure: OS disk)"),
                    Some(Azure::Data(lun)) => write!(f, " (Azure: data disk, LUN {lun})"),
                    None => Ok(()),
                }
            }
            Self::Pmem => f.write_str("persistent memory"),
        }
    }
}

/// Returns the location of the disk with this directory in sysfs, if known.
pub(super) fn of(directory: &Path) -> Option<Location> {
    let name = directory.file_name()?.to_string_lossy();
    if name.starts_with("pmem") {
        return Some(Location::Pmem);
    }
    if name.starts_with("nvme") {
        let namespace = attribute(directory, "nsid")?.parse().ok()?;
        let model = attribute(directory, "device/model");
        let azure = (model.as_deref() == Some(AZURE_REMOTE)).then(|| {
            let lun = u64::checked_sub(namespace, 2);
            lun.map_or(Azure::Os, Azure::Data)
        });
        return Some(Location::Nvme { namespace, azure });
    }
    let address = scsi_address(directory)?;
    let lun = address.rsplit(':').next()?.parse().ok()?;
    let instance = vmbus_device(directory);
    Some(match instance {
        Some((SCSI, controller)) => Location::Scsi { controller, lun },
        Some((FIBRE_CHANNEL, adapter)) => Location::FibreChannel { adapter, lun },
        // Each disk there is a VMBus device of its own, with its place in the GUID.
        Some((IDE, instance)) => {
            let [a, b, c, d, e, f, ..] = instance.to_u128().to_be_bytes();
            Location::Ide {
                controller: u32::from_be_bytes([a, b, c, d]),
                location: u16::from_be_bytes([e, f]),
            }
        }
        _ => Location::OtherScsi { address },
    })
}

/// Returns host, channel, target and LUN, from the name of a directory above the disk's.
fn scsi_address(directory: &Path) -> Option<String> {
    let is_address = |name: &str| {
        let numbers: Vec<_> = name.split(':').collect();
        let is_number = |text: &&str| text.parse::<u64>().is_ok();
        numbers.len() == 4 && numbers.iter().all(is_number)
    };
    let mut names = directory.ancestors().filter_map(Path::file_name);
    let name = names.find(|name| name.to_str().is_some_and(is_address))?;
    name.to_str().map(str::to_owned)
}

/// Returns class and instance of the VMBus device of a disk.
fn vmbus_device(directory: &Path) -> Option<(Guid, Guid)> {
    directory.ancestors().find_map(|ancestor| {
        let guid = |name| attribute(ancestor, name)?.parse().ok();
        Some((guid("class_id")?, guid("device_id")?))
    })
}

/// Returns the driver or protocol by which a program serves the disk, if one does.
pub(super) fn served_by(directory: &Path) -> Option<&'static str> {
    let name = directory.file_name()?.to_string_lossy();
    for (start, driver) in [("nbd", "nbd"), ("ublkb", "ublk"), ("rbd", "rbd")] {
        if name.starts_with(start) {
            return Some(driver);
        }
    }
    paths(directory).iter().find_map(|path| {
        path.iter().find_map(|name| {
            let name = name.to_string_lossy();
            let session = name.strip_prefix("session").unwrap_or_default();
            if session.parse::<u32>().is_ok() {
                Some("iscsi")
            } else if name.starts_with("tcm_loop_adapter") {
                Some("tcm_loop")
            } else if name == "nvme-fabrics" {
                Some("nvme-fabrics")
            } else {
                None
            }
        })
    })
}

/// Returns the directories of a disk in sysfs: its own, and those of its controllers, of
/// which NVMe may have several.
fn paths(directory: &Path) -> Vec<PathBuf> {
    let mut paths = vec![directory.to_owned()];
    let controllers = fs::read_dir(directory.join("device")).into_iter().flatten();
    let controllers = controllers.flatten().filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("nvme")
    });
    paths.extend(controllers.filter_map(|entry| fs::canonicalize(entry.path()).ok()));
    paths
}
