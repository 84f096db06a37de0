//! Which file systems are frozen, and in which order.

use std::path::PathBuf;

/// What a FREEZE would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What is frozen, in this order, and thawed in the reverse one.
    pub freeze: Vec<FileSystem>,
    /// What is mounted and stays as it is.
    pub left_out: Vec<LeftOut>,
}

/// A file system, however often it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The kernel's number for it: what `mountinfo` has.
    pub device: DeviceNumber,
    /// Its type, such as `xfs`.
    pub kind: String,
    /// What it was mounted from.
    pub source: String,
    /// Where it is mounted; by the first that can be opened it is frozen.
    pub mounts: Vec<Mount>,
}

/// One place at which a file system is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number for the mount: what the descriptor of a file there
    /// has in its `fdinfo`.
    pub id: u64,
    /// The directory or file at which it is mounted.
    pub point: PathBuf,
}

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// A file system that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which one.
    pub file_system: FileSystem,
    /// Why, in words.
    pub why: String,
}
