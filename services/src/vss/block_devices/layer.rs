//! What a stack of block devices consists of.

use std::path::PathBuf;

use super::location::Location;

/// A block device that a file system needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What the kernel calls it below `/dev`, such as `/dev/dm-0`; the path that
    /// the file system was mounted with, where there is no such device.
    pub node: PathBuf,
    /// What makes it.
    pub kind: Kind,
    /// How many layers are above it at least: 0 for what the file system itself
    /// is on.
    pub depth: usize,
    /// The layers right below it, by their nodes.
    pub below: Vec<PathBuf>,
}

/// What makes a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A disk, and where it is.
    Disk(Option<Location>),
    /// A partition of the device below it.
    Partition,
    /// Device mapper.
    Mapper {
        /// What it is for: `lvm`, `crypt`, `multipath`, `partition` (by kpartx),
        /// or the first part of its UUID; `dm` where it has none.
        purpose: String,
        /// Its name below `/dev/mapper`.
        name: String,
    },
    /// An array of md: its level, such as `raid1`.
    Raid(String),
    /// A loop device: its file. It has none where it is made of a device.
    Loop(Option<PathBuf>),
    /// Another driver that makes devices, such as `bcache` or `zram`.
    Virtual(String),
    /// A program serves it, on this machine or on another: by which driver or
    /// protocol, such as `nbd` or `iscsi`. It may be made of anything.
    Served(&'static str),
    /// Nothing is known of it: it may be made of anything.
    Unknown,
}

impl Kind {
    /// The kind in a word.
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
