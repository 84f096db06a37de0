//! What block devices lie on: `/sys/dev/block`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::mounts;
use super::plan::{DeviceNumber, FileSystem};

/// Drivers of devices that a program serves, on this machine or on another one.
const SERVED: [&str; 2] = ["nbd", "ublkb"];

/// At the bottom of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bottom {
    /// A file, in which a loop device is.
    File(PathBuf),
    /// A device that a program serves, from wherever it likes.
    Program(PathBuf),
}

/// The block devices that a file system is on: the one that its number names,
/// or, where that is no block device's, those that it says it has.
pub(super) fn members(root: &Path, file_system: &FileSystem) -> Vec<DeviceNumber> {
    if file_system.device.major != 0 {
        return vec![file_system.device];
    }
    let node = |path: &str| {
        let metadata = fs::metadata(under(root, Path::new(path))).ok()?;
        let is_node = metadata.file_type().is_block_device();
        is_node.then(|| DeviceNumber::from_raw(metadata.rdev()))
    };
    match node(&file_system.source) {
        Some(one) if file_system.kind == "btrfs" => {
            btrfs_members(root, one).unwrap_or_else(|| vec![one])
        }
        Some(one) => vec![one],
        // bcachefs has all of them in a row.
        None => file_system.source.split(':').filter_map(node).collect(),
    }
}

/// The devices of the btrfs file system that has this one.
fn btrfs_members(root: &Path, one: DeviceNumber) -> Option<Vec<DeviceNumber>> {
    let file_systems = fs::read_dir(root.join("sys/fs/btrfs")).ok()?.flatten();
    let mut members = file_systems.filter_map(|entry| {
        let devices = fs::read_dir(entry.path().join("devices")).ok()?.flatten();
        let number = |device: fs::DirEntry| {
            let text = fs::read_to_string(device.path().join("dev")).ok()?;
            text.trim_end().parse().ok()
        };
        Some(devices.filter_map(number).collect::<Vec<_>>())
    });
    let mut members = members.find(|members| members.contains(&one))?;
    members.sort();
    Some(members)
}

/// What a device is called below `/dev`.
pub(super) fn node(root: &Path, device: DeviceNumber) -> Option<PathBuf> {
    directory(root, device).map(|directory| node_of(&directory))
}

fn node_of(directory: &Path) -> PathBuf {
    // The kernel cannot have a slash in the name of a directory.
    let name = directory.file_name().unwrap_or_default().as_bytes();
    let name = name.iter().map(|byte| match byte {
        b'!' => b'/',
        other => *other,
    });
    Path::new("/dev").join(OsString::from_vec(name.collect()))
}

fn directory(root: &Path, device: DeviceNumber) -> Option<PathBuf> {
    fs::canonicalize(root.join(format!("sys/dev/block/{device}"))).ok()
}

/// What is at the bottom of a device, through partitions, device-mapper, md and
/// the like. A disk has nothing below it.
pub(super) fn bottom(root: &Path, device: DeviceNumber) -> Vec<Bottom> {
    let mut bottom = Vec::new();
    let mut seen = HashSet::new();
    let mut next: Vec<_> = directory(root, device).into_iter().collect();
    while let Some(directory) = next.pop() {
        if !seen.insert(directory.clone()) {
            continue;
        }
        if let Ok(mut file) = fs::read(directory.join("loop/backing_file")) {
            if file.last() == Some(&b'\n') {
                file.pop();
            }
            bottom.push(Bottom::File(OsString::from_vec(file).into()));
        }
        let node = node_of(&directory);
        let name = node.file_name().unwrap_or_default().to_string_lossy();
        let is_partition = directory.join("partition").exists();
        if !is_partition && SERVED.iter().any(|driver| name.starts_with(driver)) {
            bottom.push(Bottom::Program(node));
        }
        if is_partition {
            next.extend(directory.parent().map(Path::to_owned));
        }
        let slaves = fs::read_dir(directory.join("slaves")).into_iter().flatten();
        let slaves = slaves.flatten().map(|entry| fs::canonicalize(entry.path()));
        next.extend(slaves.flatten());
    }
    bottom.sort();
    bottom
}

/// An absolute path of the machine, where `root` stands for `/`.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The mount in which a loop device's file is; `None` where that cannot be told.
pub(super) fn mount_of(root: &Path, file: &Path) -> Option<u64> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(under(root, path), flags, Mode::empty()).ok()
    };
    // The kernel says so after the name of a file that has none any more. It is
    // where its directory is.
    let deleted = || {
        let name = file.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
        open(Path::new(OsStr::from_bytes(name)).parent()?)
    };
    open(file)
        .or_else(deleted)
        .and_then(|fd| mounts::id(fd).ok())
}
