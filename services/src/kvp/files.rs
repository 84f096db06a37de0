//! Reads small files of other programs.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Bytes that are read of a file; the rest is ignored. Lease files can be long.
const MAX_LEN: u64 = 1 << 20;

/// Bytes of room for a file before it is read. With less, it is read in small parts first.
const ROOM: usize = 64 << 10;

/// Files of a directory that are read.
const MAX_FILES: usize = 1000;

/// Reads a regular file; returns `None` if that fails.
pub(super) fn bytes(path: &Path) -> Option<Vec<u8>> {
    // A FIFO at this path must not block the request.
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    // In few reads: two of a file in /proc may tell of different times.
    let mut content = Vec::with_capacity(ROOM);
    file.take(MAX_LEN).read_to_end(&mut content).ok()?;
    Some(content)
}

/// Reads a regular file as text; bytes that are not UTF-8 are replaced.
pub(super) fn text(path: &Path) -> Option<String> {
    let content = bytes(path)?;
    Some(String::from_utf8_lossy(&content).into_owned())
}

/// Returns the absolute `path` below `root`.
pub(super) fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Returns the paths of the directory's entries in order; none if it does not exist.
pub(super) fn in_directory(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.take(MAX_FILES).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_read_up_to_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        fs::write(&path, vec![b'x'; 2_000_000]).unwrap();
        assert_eq!(text(&path).unwrap().len() as u64, MAX_LEN);
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(text(&fifo), None);
        assert_eq!(text(directory.path()), None);
        assert_eq!(text(&directory.path().join("missing")), None);
    }
}
