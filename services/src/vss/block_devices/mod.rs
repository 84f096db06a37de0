//! Stacked block devices, from `/sys/dev/block`.
//!
//! `walk` goes from the devices that a file system is on (`members`) down to the disks, and
//! returns the kind of each (`layer`) and the location of each disk (`location`). The
//! freeze order and the output of `vss plan` come from that.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use self::members::{Member, members};
use super::device_number::DeviceNumber;
use super::file_system::FileSystem;
use super::sysfs::{attribute, bytes, directory, node_of};
use super::{blocking, mountinfo};

pub mod layer;
mod location;
mod members;

pub use self::layer::{Kind, Layer};
pub use self::location::{Azure, Location};
pub(super) use self::members::number;

/// The bottom of stacked devices that is no disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bottom {
    /// The backing file of a loop device.
    File(PathBuf),
    /// A device that may be made of anything: a program serves it, or it is unknown.
    Unknown(PathBuf),
}

/// A device on the way down, by its directory in sysfs, or else by its node.
enum Found {
    Directory(PathBuf),
    Node(PathBuf),
}

/// Returns the devices that a file system is on and all below them, breadth first, each
/// once.
pub(super) fn walk(root: &Path, file_system: &FileSystem) -> Vec<Layer> {
    let found = members(root, file_system).into_iter();
    let found = found.map(|member| match member {
        Member::Number(device) => by_number(root, device),
        Member::Path(path) => Found::Node(path),
    });
    let mut next: VecDeque<_> = found.map(|found| (0, found)).collect();
    let mut seen = HashSet::new();
    let mut layers = Vec::new();
    while let Some((depth, found)) = next.pop_front() {
        let node = found.node();
        if !seen.insert(node.clone()) {
            continue;
        }
        let (kind, below) = match &found {
            Found::Directory(directory) => describe(root, directory),
            Found::Node(_) => (Kind::Unknown, Vec::new()),
        };
        layers.push(Layer {
            node,
            kind,
            depth,
            below: below.iter().map(Found::node).collect(),
        });
        next.extend(below.into_iter().map(|found| (depth + 1, found)));
    }
    layers
}

/// Returns the nodes of the devices that a file system itself is on.
pub(super) fn nodes(layers: &[Layer]) -> Vec<PathBuf> {
    let own = layers.iter().filter(|layer| layer.depth == 0);
    let known = own.filter(|layer| layer.kind != Kind::Unknown);
    known.map(|layer| layer.node.clone()).collect()
}

/// Returns what is at the bottom and is no disk.
pub(super) fn bottom(layers: &[Layer]) -> Vec<Bottom> {
    let bottom = layers.iter().filter_map(|layer| match &layer.kind {
        Kind::Loop(file) => file.clone().map(Bottom::File),
        Kind::Served(_) | Kind::Unknown => Some(Bottom::Unknown(layer.node.clone())),
        _ => None,
    });
    let mut bottom: Vec<_> = bottom.collect();
    bottom.sort();
    bottom
}

impl Found {
    fn node(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => node_of(directory),
            Self::Node(node) => node.clone(),
        }
    }
}

fn by_number(root: &Path, device: DeviceNumber) -> Found {
    match directory(root, device) {
        Some(directory) => Found::Directory(directory),
        None => Found::Node(format!("/dev/block/{device}").into()),
    }
}

/// Returns the kind of the device with this directory in sysfs, and the devices directly
/// below it.
fn describe(root: &Path, directory: &Path) -> (Kind, Vec<Found>) {
    if directory.join("partition").exists() {
        let whole = directory.parent().map(Path::to_owned).into_iter();
        return (Kind::Partition, whole.map(Found::Directory).collect());
    }
    let slaves = fs::read_dir(directory.join("slaves")).into_iter().flatten();
    let slaves = slaves.flatten().map(|entry| fs::canonicalize(entry.path()));
    let mut slaves: Vec<_> = slaves.flatten().collect();
    slaves.sort();
    let below = slaves.into_iter().map(Found::Directory);

    let parent = directory.parent();
    let is_virtual = parent.is_some_and(|it| it.ends_with("virtual/block"));
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let driver = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    if let Some(file) = backing_file(directory) {
        // A loop device can be backed by another device.
        return match number(root, &file) {
            Some(device) => (Kind::Loop(None), vec![by_number(root, device)]),
            None => (Kind::Loop(Some(file)), Vec::new()),
        };
    }
    let kind = if let Some(name) = attribute(directory, "dm/name") {
        let uuid = attribute(directory, "dm/uuid").unwrap_or_default();
        let purpose = purpose(&uuid).to_owned();
        Kind::Mapper { purpose, name }
    } else if let Some(level) = attribute(directory, "md/level") {
        Kind::Raid(level)
    } else if let Some(by) = location::served_by(directory) {
        Kind::Served(by)
    } else if below.len() > 0 || is_virtual {
        Kind::Virtual(driver.to_owned())
    } else {
        Kind::Disk(location::of(directory))
    };
    (kind, below.collect())
}

/// Returns the purpose of a device-mapper device with this UUID. The program that made it
/// put its name and a dash in front.
fn purpose(uuid: &str) -> &str {
    match uuid.split_once('-').map_or("", |(first, _)| first) {
        "" => "dm",
        "LVM" => "lvm",
        "CRYPT" => "crypt",
        "mpath" => "multipath",
        // Such as part1, of kpartx.
        part if part.starts_with("part") => "partition",
        other => other,
    }
}

/// Returns the backing file of a loop device.
fn backing_file(directory: &Path) -> Option<PathBuf> {
    let mut file = bytes(&directory.join("loop/backing_file"))?;
    if file.last() == Some(&b'\n') {
        file.pop();
    }
    Some(OsString::from_vec(file).into())
}

/// Returns the mount of a loop device's backing file, if known.
pub(super) fn mount_of(root: &Path, file: &Path) -> Option<u64> {
    let open = |path: &Path| {
        blocking::enter(path).ok()?;
        let path = root.join(path.strip_prefix("/").ok()?);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok()
    };
    // The kernel appends this to the name of a file that was removed. It is on the file
    // system of its directory.
    let deleted = || {
        let name = file.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
        open(Path::new(OsStr::from_bytes(name)).parent()?)
    };
    open(file)
        .or_else(deleted)
        .and_then(|fd| mountinfo::id(fd).ok())
}

#[cfg(test)]
mod tests;
