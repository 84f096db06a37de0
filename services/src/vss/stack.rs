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

/// Drivers of devices that a program serves, on this machine or on another.
const SERVED: [&str; 2] = ["nbd", "ublkb"];

/// At the bottom of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bottom {
    /// A file of which a loop device is made.
    File(PathBuf),
    /// A device that may be made of anything: a program serves it, or nothing is
    /// known of it.
    Unknown(PathBuf),
}

/// The block devices that a file system is on: the one that its number names,
/// or, where that is no block device's, those that it says it has.
pub(super) fn members(root: &Path, file_system: &FileSystem) -> Vec<DeviceNumber> {
    if file_system.device.major != 0 {
        return vec![file_system.device];
    }
    let node = |path: &str| number(root, Path::new(path));
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

/// What a device with this directory in sysfs is called below `/dev`.
fn node_of(directory: &Path) -> PathBuf {
    // The kernel cannot have a slash in the name of a directory.
    let name = directory.file_name().unwrap_or_default().as_bytes();
    let name = name.iter().map(|byte| match byte {
        b'!' => b'/',
        other => *other,
    });
    Path::new("/dev").join(OsString::from_vec(name.collect()))
}

/// The number of the block device that has this node.
fn number(root: &Path, node: &Path) -> Option<DeviceNumber> {
    let metadata = fs::metadata(under(root, node)).ok()?;
    let is_device = metadata.file_type().is_block_device();
    is_device.then(|| DeviceNumber::from_raw(metadata.rdev()))
}

fn directory(root: &Path, device: DeviceNumber) -> Option<PathBuf> {
    fs::canonicalize(root.join(format!("sys/dev/block/{device}"))).ok()
}

/// What is at the bottom of devices, through partitions, device-mapper, md and
/// the like. A disk has nothing below it.
pub(super) fn bottom(root: &Path, devices: &[DeviceNumber]) -> Vec<Bottom> {
    let mut bottom = Vec::new();
    let mut next = Vec::new();
    for device in devices {
        match directory(root, *device) {
            Some(directory) => next.push(directory),
            None => bottom.push(Bottom::Unknown(format!("/dev/block/{device}").into())),
        }
    }
    let mut seen = HashSet::new();
    while let Some(directory) = next.pop() {
        if !seen.insert(directory.clone()) {
            continue;
        }
        if let Ok(mut file) = fs::read(directory.join("loop/backing_file")) {
            if file.last() == Some(&b'\n') {
                file.pop();
            }
            let file = PathBuf::from(OsString::from_vec(file));
            // To make a loop device of another device is possible too.
            match number(root, &file) {
                Some(device) => next.extend(self::directory(root, device)),
                None => bottom.push(Bottom::File(file)),
            }
        }
        let node = node_of(&directory);
        let name = node.file_name().unwrap_or_default().to_string_lossy();
        let is_partition = directory.join("partition").exists();
        if !is_partition && SERVED.iter().any(|driver| name.starts_with(driver)) {
            bottom.push(Bottom::Unknown(node));
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
        let path = root.join(path.strip_prefix("/").ok()?);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok()
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A tree with devices: each a number and a directory below `sys/devices`.
    fn tree(devices: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
        for (number, path) in devices {
            let directory = root.path().join("sys/devices").join(path);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("dev"), format!("{number}\n")).unwrap();
            let link = root.path().join("sys/dev/block").join(number);
            symlink(format!("../../devices/{path}"), link).unwrap();
        }
        root
    }

    fn write(root: &TempDir, path: &str, content: &[u8]) {
        let path = root.path().join("sys/devices").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(root: &TempDir, path: &str, target: &str) {
        let path = root.path().join("sys").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(root.path().join("sys/devices").join(target), path).unwrap();
    }

    fn number(text: &str) -> DeviceNumber {
        text.parse().unwrap()
    }

    fn bottom_of(root: &TempDir, device: &str) -> Vec<Bottom> {
        bottom(root.path(), &[number(device)])
    }

    fn files(names: &[&str]) -> Vec<Bottom> {
        let files = names.iter().map(|name| Bottom::File(name.into()));
        files.collect()
    }

    #[test]
    fn a_disk_has_nothing_below_it() {
        let root = tree(&[("8:0", "pci/sda"), ("8:1", "pci/sda/sda1")]);
        write(&root, "pci/sda/sda1/partition", b"1\n");
        assert_eq!(bottom_of(&root, "8:0"), []);
        assert_eq!(bottom_of(&root, "8:1"), []);
    }

    #[test]
    fn a_loop_device_and_its_partitions_are_in_a_file() {
        let root = tree(&[("7:0", "virtual/loop0"), ("259:0", "virtual/loop0/loop0p1")]);
        let file = b"/srv/two\nlines and \xff\n";
        write(&root, "virtual/loop0/loop/backing_file", file);
        write(&root, "virtual/loop0/loop0p1/partition", b"1\n");
        let file = OsStr::from_bytes(b"/srv/two\nlines and \xff");
        for device in ["7:0", "259:0"] {
            assert_eq!(bottom_of(&root, device), [Bottom::File(file.into())]);
        }
    }

    #[test]
    fn what_device_mapper_and_md_put_together_is_followed_down() {
        let root = tree(&[
            ("7:0", "virtual/loop0"),
            ("7:1", "virtual/loop1"),
            ("259:0", "virtual/loop1/loop1p2"),
            ("8:0", "pci/sda"),
            ("9:0", "virtual/md0"),
            ("253:0", "virtual/dm-0"),
            ("253:1", "virtual/dm-1"),
        ]);
        write(&root, "virtual/loop0/loop/backing_file", b"/a\n");
        write(&root, "virtual/loop1/loop/backing_file", b"/b\n");
        write(&root, "virtual/loop1/loop1p2/partition", b"2\n");
        // dm-1 on dm-0 and a disk, that on md0 and loop0, and that on a
        // partition of loop1 and again on loop0.
        for (upper, lower, path) in [
            ("dm-1", "dm-0", "virtual/dm-0"),
            ("dm-1", "sda", "pci/sda"),
            ("dm-0", "md0", "virtual/md0"),
            ("dm-0", "loop0", "virtual/loop0"),
            ("md0", "loop1p2", "virtual/loop1/loop1p2"),
            ("md0", "loop0", "virtual/loop0"),
        ] {
            link(
                &root,
                &format!("devices/virtual/{upper}/slaves/{lower}"),
                path,
            );
        }
        assert_eq!(bottom_of(&root, "253:1"), files(&["/a", "/b"]));
        assert_eq!(bottom_of(&root, "7:1"), files(&["/b"]));
    }

    #[test]
    fn a_circle_ends() {
        let root = tree(&[("253:0", "virtual/dm-0"), ("253:1", "virtual/dm-1")]);
        link(&root, "devices/virtual/dm-0/slaves/dm-1", "virtual/dm-1");
        link(&root, "devices/virtual/dm-1/slaves/dm-0", "virtual/dm-0");
        assert_eq!(bottom_of(&root, "253:0"), []);
    }

    #[test]
    fn what_a_program_serves_or_nobody_knows_may_be_anywhere() {
        let root = tree(&[("43:0", "virtual/nbd0"), ("43:1", "virtual/nbd0/nbd0p1")]);
        write(&root, "virtual/nbd0/nbd0p1/partition", b"1\n");
        for (device, node) in [
            ("43:0", "/dev/nbd0"),
            ("43:1", "/dev/nbd0"),
            ("8:7", "/dev/block/8:7"),
        ] {
            assert_eq!(bottom_of(&root, device), [Bottom::Unknown(node.into())]);
        }
    }

    #[test]
    fn nodes_have_the_kernels_names() {
        let root = tree(&[("8:1", "pci/sda/sda1"), ("104:1", "pci/cciss!c0d0p1")]);
        let node = |device| node(root.path(), number(device));
        assert_eq!(node("8:1"), Some("/dev/sda1".into()));
        assert_eq!(node("104:1"), Some("/dev/cciss/c0d0p1".into()));
        assert_eq!(node("8:2"), None);
    }

    /// Only root can make nodes.
    #[test]
    fn a_file_system_on_several_devices_names_one_of_them() {
        use rustix::fs::{CWD, FileType, makedev, mknodat};

        if !rustix::process::geteuid().is_root() {
            return hyperv_needs::skip("only root can make the nodes of devices");
        }
        let root = tree(&[
            ("8:0", "pci/sda"),
            ("8:16", "pci/sdb"),
            ("8:32", "pci/sdc"),
            ("7:0", "virtual/loop0"),
        ]);
        fs::create_dir(root.path().join("dev")).unwrap();
        for (name, minor) in [("sda", 0), ("sdb", 16), ("sdc", 32)] {
            let node = root.path().join("dev").join(name);
            let device = makedev(8, minor);
            mknodat(CWD, node, FileType::BlockDevice, Mode::RUSR, device).unwrap();
        }
        for (uuid, devices) in [("one", &["sda"][..]), ("two", &["sdc", "sdb"])] {
            for device in devices {
                let path = format!("fs/btrfs/{uuid}/devices/{device}");
                link(&root, &path, &format!("pci/{device}"));
            }
        }
        fs::create_dir(root.path().join("sys/fs/btrfs/features")).unwrap();
        let members = |device, kind: &str, source: &str| {
            let file_system = FileSystem {
                device: number(device),
                kind: kind.into(),
                source: source.into(),
                ..FileSystem::default()
            };
            members(root.path(), &file_system)
        };
        let numbers = |texts: &[&str]| -> Vec<_> { texts.iter().map(|it| number(it)).collect() };
        assert_eq!(members("8:3", "xfs", "/dev/sdb"), numbers(&["8:3"]));
        assert_eq!(members("0:40", "btrfs", "/dev/sda"), numbers(&["8:0"]));
        for source in ["/dev/sdb", "/dev/sdc"] {
            assert_eq!(members("0:41", "btrfs", source), numbers(&["8:16", "8:32"]));
        }
        let several = "/dev/sdb:/dev/sda";
        assert_eq!(
            members("0:42", "bcachefs", several),
            numbers(&["8:16", "8:0"])
        );
        for source in ["none", "/dev/root", "/dev", ""] {
            assert_eq!(members("0:43", "btrfs", source), []);
        }

        // A loop device can be made of a device, too.
        write(&root, "virtual/loop0/loop/backing_file", b"/dev/sdb\n");
        assert_eq!(bottom_of(&root, "7:0"), []);
    }

    #[test]
    fn the_file_of_a_loop_device_is_found_even_when_it_has_no_name_any_more() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("directory")).unwrap();
        fs::write(root.path().join("directory/file"), "").unwrap();
        fs::write(root.path().join("directory/is (deleted)"), "").unwrap();
        let expected = mounts::id(fs::File::open(root.path()).unwrap()).unwrap();
        let found = |file: &str| mount_of(root.path(), Path::new(file));
        for file in ["file", "gone (deleted)", "is (deleted)"] {
            assert_eq!(found(&format!("/directory/{file}")), Some(expected));
        }
        for file in ["/directory/gone", "/gone/gone (deleted)", " (deleted)", ""] {
            assert_eq!(found(file), None, "{file}");
        }
    }
}
