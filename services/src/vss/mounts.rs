//! What is mounted: `/proc/self/mountinfo`, as proc(5) has it.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::plan::DeviceNumber;

/// The list of mounts, below `root`.
pub(super) const LIST: &str = "proc/self/mountinfo";

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number for the mount.
    pub id: u64,
    /// The kernel's number for the file system.
    pub device: DeviceNumber,
    /// The directory or file at which it is mounted.
    pub point: PathBuf,
    /// Whether all of the file system, or a subvolume of it, is mounted there:
    /// not only a directory or a file in it.
    pub whole: bool,
    /// The type of the file system, such as `xfs`.
    pub kind: String,
    /// What it was mounted from.
    pub source: String,
    /// Whether the file system is read-only, wherever it is mounted.
    pub read_only: bool,
}

/// What is mounted now, where `root` stands for `/`.
///
/// # Errors
///
/// If the list cannot be read.
pub fn read(root: &Path) -> io::Result<Vec<Mounted>> {
    fs::read(root.join(LIST)).map(|text| parse(&text))
}

/// The lines of a list of mounts; those that make no sense are left out.
pub fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mounted> {
    // Any field but the numbers may be empty, so each space counts.
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = decode(fields.next()?);
    let point = decode(fields.next()?);
    let _options_of_the_mount = fields.next()?;
    // As many optional fields as the kernel likes.
    fields.find(|field| *field == b"-")?;
    let kind = text(fields.next()?);
    let source = text(fields.next()?);
    let options = fields.next()?;
    let mut options = options.split(|byte| *byte == b',');
    let subvolume = |option: &[u8]| option.strip_prefix(b"subvol=").map(decode);
    Some(Mounted {
        id,
        device,
        whole: root == "/" || options.clone().filter_map(subvolume).any(|it| it == root),
        point: point.into(),
        kind,
        source,
        read_only: options.any(|option| option == b"ro"),
    })
}

fn text(field: &[u8]) -> String {
    decode(field).to_string_lossy().into_owned()
}

/// A field without its escapes: bytes that would part it from the next are
/// written as a backslash and three octal digits.
fn decode(field: &[u8]) -> OsString {
    let mut decoded = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = match (first, after) {
            (
                b'\\',
                [
                    high @ b'0'..=b'3',
                    middle @ b'0'..=b'7',
                    low @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                rest = after;
                (high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0')
            }
            _ => *first,
        };
        decoded.push(escaped);
    }
    OsString::from_vec(decoded)
}

/// The kernel's number for the mount by which `fd` was opened.
///
/// # Errors
///
/// If `/proc` does not tell.
pub(super) fn id(fd: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let info = fs::read_to_string(path)?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("no number of the mount in /proc/self/fdinfo"))
}
