//! A mounted file system.

use std::path::{Path, PathBuf};

use super::block_devices::layer::Layer;
use super::device_number::DeviceNumber;

/// A file system, with all of its mounts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileSystem {
    /// Its device number, as in `mountinfo`.
    pub device: DeviceNumber,
    /// Its type, such as `xfs`.
    pub kind: String,
    /// The source that it was mounted from.
    pub source: String,
    /// Other devices that it was mounted with: for its log or journal, and its realtime
    /// device.
    pub external: Vec<PathBuf>,
    /// Its mounts, best first: hidden ones come last, mounts of the whole file system before
    /// those of a directory or a file in it, and short paths before long ones.
    pub mounts: Vec<Mount>,
    /// The block devices that it is on, by the kernel's names below `/dev`.
    pub nodes: Vec<PathBuf>,
    /// Those devices and all below them, down to the disks.
    pub layers: Vec<Layer>,
    /// What those devices are made of where they are no disks. Known of file systems that
    /// can be frozen.
    pub lies_on: Vec<LiesOn>,
    /// The file systems that must be frozen before this one, since they are or may be on it;
    /// set by the plan.
    pub after: Vec<DeviceNumber>,
}

/// A mount of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// The mount ID, as in `mountinfo` and `fdinfo`.
    pub id: u64,
    /// The mount point, a directory or a file.
    pub point: PathBuf,
    /// Whether it shows the whole file system or a subvolume of it, and not only a directory
    /// or a file in it.
    pub whole: bool,
    /// The mount point of another file system that hides it: mounted over it, or over a
    /// directory on the way to it.
    pub hidden_under: Option<PathBuf>,
    /// A process in the mount namespace of this mount, unless that is the agent's. The path
    /// leads through the root of that process in `/proc`.
    pub process: Option<u32>,
}

/// What a device of a file system is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiesOn {
    /// A file, or a device that may be made of anything.
    pub what: PathBuf,
    /// The file system with that file, if known.
    pub file_system: Option<DeviceNumber>,
    /// Whether that one is in memory and never frozen.
    pub in_memory: bool,
}

impl FileSystem {
    /// Returns the mount point that stands for it in messages.
    pub fn mount_point(&self) -> &Path {
        let first = self.mounts.first();
        first.map_or(Path::new(""), |mount| &mount.point)
    }
}
