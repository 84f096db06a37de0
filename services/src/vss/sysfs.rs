//! Reads sysfs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::device_number::DeviceNumber;

/// An attribute has at most one page, and a page at most 64 KiB.
const MAX_ATTRIBUTE: u64 = 1 << 16;

/// Reads an attribute as text, without whitespace at its end.
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

/// Returns the kernel's name of a device below `/dev`.
pub(super) fn node(root: &Path, device: DeviceNumber) -> Option<PathBuf> {
    directory(root, device).map(|directory| node_of(&directory))
}

/// Returns the kernel's name below `/dev` of a device with this directory in sysfs.
pub(super) fn node_of(directory: &Path) -> PathBuf {
    // The kernel replaces a slash in the name of a directory.
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

/// Returns where an absolute path is if `root` stands for `/`.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
