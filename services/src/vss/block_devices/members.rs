//! Finds the block devices that a file system itself is on.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::super::blocking;
use super::super::device_number::DeviceNumber;
use super::super::file_system::FileSystem;
use crate::vss::sysfs::{attribute, node, under};

/// A device that a file system is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    Number(DeviceNumber),
    /// The path that it was mounted with, if that is no device.
    Path(PathBuf),
}

/// Returns the block devices that a file system is on: the one with its device number, or
/// else those that it names; and those of its log or journal.
pub(super) fn members(root: &Path, file_system: &FileSystem) -> Vec<Member> {
    let named = |path: &Path| match number(root, path) {
        Some(number) => Member::Number(number),
        None => Member::Path(path.to_owned()),
    };
    let source = file_system.source.as_str();
    let mut members = if file_system.device.major != 0 {
        vec![Member::Number(file_system.device)]
    } else if let Some(one) = number(root, Path::new(source)) {
        let all = (file_system.kind == "btrfs").then(|| of_btrfs(root, one));
        let all = all.flatten().unwrap_or_else(|| vec![one]);
        all.into_iter().map(Member::Number).collect()
    } else if file_system.kind == "bcachefs" {
        // The source lists all devices.
        let paths = source.split(':').map(Path::new);
        paths.map(named).collect()
    } else {
        vec![named(Path::new(source))]
    };
    members.extend(file_system.external.iter().map(|path| named(path)));
    members.extend(journal_of_ext4(root, file_system).map(Member::Number));
    members
}

/// Returns the devices of the btrfs file system that is on this one.
fn of_btrfs(root: &Path, one: DeviceNumber) -> Option<Vec<DeviceNumber>> {
    let file_systems = fs::read_dir(root.join("sys/fs/btrfs")).ok()?.flatten();
    let mut members = file_systems.filter_map(|entry| {
        let devices = fs::read_dir(entry.path().join("devices")).ok()?.flatten();
        let number = |device: fs::DirEntry| attribute(&device.path(), "dev")?.parse().ok();
        Some(devices.filter_map(number).collect::<Vec<_>>())
    });
    let mut members = members.find(|members| members.contains(&one))?;
    members.sort();
    Some(members)
}

/// Returns the external journal device of an ext3 or ext4, if it has one. The kernel does
/// not show it, but the superblock, which is cached while mounted, has its number.
fn journal_of_ext4(root: &Path, file_system: &FileSystem) -> Option<DeviceNumber> {
    if !matches!(&*file_system.kind, "ext3" | "ext4") {
        return None;
    }
    let node = node(root, file_system.device)?;
    // Each journal is here; an internal one has its inode number after the device.
    let name = node.strip_prefix("/dev").ok()?.to_str()?.replace('/', "!");
    let mut journals = fs::read_dir(root.join("proc/fs/jbd2")).ok()?.flatten();
    let prefix = format!("{name}-");
    if journals.any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    blocking::enter(&node).ok()?;
    let device = rustix::fs::open(under(root, &node), flags, Mode::empty()).ok()?;
    let mut superblock = [0; 1024];
    File::from(device)
        .read_exact_at(&mut superblock, 1024)
        .ok()?;
    external_journal(&superblock)
}

/// Returns the external journal device in this superblock.
fn external_journal(superblock: &[u8; 1024]) -> Option<DeviceNumber> {
    const HAS_JOURNAL: u32 = 4;
    let word = |at: usize| {
        let bytes = superblock.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let is_ext4 = word(0x38)? & 0xffff == 0xef53;
    let has_journal = word(0x5c)? & HAS_JOURNAL != 0;
    let (inode, device) = (word(0xe0)?, word(0xe4)?);
    // The on-disk encoding of device numbers (new_decode_dev).
    let number = DeviceNumber {
        major: device >> 8 & 0xfff,
        minor: device & 0xff | device >> 12 & 0xf_ff00,
    };
    (is_ext4 && has_journal && inode == 0 && device != 0).then_some(number)
}

/// Returns the number of the block device with this node, or with a link below `/dev`. Looks
/// up no other path, since that may block forever.
pub(in super::super) fn number(root: &Path, node: &Path) -> Option<DeviceNumber> {
    let mut below = node.strip_prefix("/dev").ok()?.components();
    if !below.all(|name| matches!(name, Component::Normal(_))) {
        return None;
    }
    let metadata = fs::metadata(under(root, node)).ok()?;
    let is_device = metadata.file_type().is_block_device();
    is_device.then(|| DeviceNumber::from_raw(metadata.rdev()))
}
