//! A layer of stacked block devices.

use std::path::PathBuf;

use super::location::Location;

/// A block device that a file system is on, directly or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The kernel's name below `/dev`, such as `/dev/dm-0`; the path that the file system was
    /// mounted with, if there is no such device.
    pub node: PathBuf,
    /// Its kind.
    pub kind: Kind,
    /// The least number of layers above it: 0 if the file system itself is on it.
    pub depth: usize,
    /// The nodes of the layers directly below it.
    pub below: Vec<PathBuf>,
}

/// The kind of a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A disk, with its location.
    Disk(Option<Location>),
    /// A partition of the device below it.
    Partition,
    /// Device mapper.
    Mapper {
        /// Its purpose: `lvm`, `crypt`, `multipath`, `partition` (by kpartx),
        /// or the first part of its UUID; `dm` where it has none.
        purpose: String,
        /// Its name below `/dev/mapper`.
        name: String,
    },
    /// An md array, by its level, such as `raid1`.
    Raid(String),
    /// A loop device, with its backing file, unless that is a device.
    Loop(Option<PathBuf>),
    /// A device of another driver, such as `bcache` or `zram`.
    Virtual(String),
    /// A program on this machine or on another one serves it, by a driver or protocol such as
    /// `nbd` or `iscsi`. It may be made of anything.
    Served(&'static str),
    /// An unknown device. It may be made of anything.
    Unknown,
}

impl Kind {
    /// Returns the kind as a word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Disk(_) => "disk",
            Self::Partition => "partition",
            Self::Mapper { purpose, .. } => purpose,
            Self::Raid(level) => level,
            Self::Loop(_) => "loop",
            Self::Virtual(driver) => driver,
            Self::Served(by) => by,
            Self::Unknown => "unknown",
        }
    }
}
