//! What sysfs tells of block devices.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::device_number::DeviceNumber;

/// More than the kernel puts into a file of sysfs: a page, of 64 KiB at most.
const MAX_ATTRIBUTE: u64 = 1 << 16;

/// A file of sysfs, without the end of its line and the blanks before it.
pub(super) fn attribute(directory: &Path, name: &str) -> Option<String> {
    let text = bytes(&directory.join(name))?;
    Some(String::from_utf8_lossy(&text).trim_end().to_owned())
}

pub(super) fn bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_ATTRIBUTE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What a device is called below `/dev`.
pub(super) fn node(root: &Path, device: DeviceNumber) -> Option<PathBuf> {
    directory(root, device).map(|directory| node_of(&directory))
}

/// What a device with this directory in sysfs is called below `/dev`.
pub(super) fn node_of(directory: &Path) -> PathBuf {
    // The kernel cannot have a slash in the name of a directory.
    let name = directory.file_name().unwrap_or_default().as_bytes();
    let name = name.iter().map(|byte| match byte {
        b'!' => b'/',
        other => *other,
    });
    Path::new("/dev").join(OsString::from_vec(name.collect()))
}

pub(super) fn directory(root: &Path, device: DeviceNumber) -> Option<PathBuf> {
    fs::canonicalize(root.join(format!("sys/dev/block/{device}"))).ok()
}

/// An absolute path of the machine, where `root` stands for `/`.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
