//! A file system, as the machine has it.

use std::path::{Path, PathBuf};

use super::block_devices::layer::Layer;
use super::device_number::DeviceNumber;

/// A file system, however often it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileSystem {
    /// The kernel's number for it: what `mountinfo` has.
    pub device: DeviceNumber,
    /// Its type, such as `xfs`.
    pub kind: String,
    /// What it was mounted from.
    pub source: String,
    /// Devices beside the source that it was mounted with: what has its log or
    /// journal, and its realtime device.
    pub external: Vec<PathBuf>,
    /// Where it is mounted; by the first that can be opened it is frozen. What is
    /// hidden comes last; what shows all of it comes before a directory or a file
    /// in it, and a short path before a long one.
    pub mounts: Vec<Mount>,
    /// The block devices that it is on, as the kernel calls them below `/dev`.
    pub nodes: Vec<PathBuf>,
    /// Those devices and all below them, down to the disks. Told of what has a
    /// device.
    pub layers: Vec<Layer>,
    /// What those devices are made of, if they are no disks. Told of what can be
    /// frozen.
    pub lies_on: Vec<LiesOn>,
}

/// One place at which a file system is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// The kernel's number for the mount: what the descriptor of a file there
    /// has in its `fdinfo`.
    pub id: u64,
    /// The directory or file at which it is mounted.
    pub point: PathBuf,
    /// Whether all of the file system, or a subvolume of it, is mounted there:
    /// not only a directory or a file in it.
    pub whole: bool,
    /// Where another file system is mounted that is seen in its place: over it, or
    /// over a directory on the way to it.
    pub hidden_under: Option<PathBuf>,
    /// Where it is mounted in another mount namespace only, a process that is in
    /// that one. The path leads through its root in `/proc`.
    pub process: Option<u32>,
}

/// What a file system's device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiesOn {
    /// The file, or the device that may be made of anything.
    pub what: PathBuf,
    /// The file system with that file; `None` where it cannot be told.
    pub file_system: Option<DeviceNumber>,
    /// Whether that is in memory, where nothing is ever frozen.
    pub in_memory: bool,
}

impl FileSystem {
    /// The directory by which one would call it.
    pub fn mount_point(&self) -> &Path {
        let first = self.mounts.first();
        first.map_or(Path::new(""), |mount| &mount.point)
    }
}
