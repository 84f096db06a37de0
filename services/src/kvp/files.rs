//! Reads small files of other programs.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Bytes that are read of a file; what follows is ignored. Lease files can be
/// long.
const MAX_LEN: u64 = 1 << 20;

/// Files of a directory that are looked at.
const MAX_FILES: usize = 1000;

/// What is in a regular file; `None` where it cannot be read.
pub(super) fn bytes(path: &Path) -> Option<Vec<u8>> {
    // A FIFO in its place must not hold up the request.
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    file.take(MAX_LEN).read_to_end(&mut content).ok()?;
    Some(content)
}

/// The text in a regular file; what is not UTF-8 is replaced.
pub(super) fn text(path: &Path) -> Option<String> {
    let content = bytes(path)?;
    Some(String::from_utf8_lossy(&content).into_owned())
}

/// An absolute path of the machine, where `root` stands for `/`.
pub(super) fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// What is in a directory, in order of names; nothing if there is none.
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
    fn only_so_much_of_a_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        fs::write(&path, vec![b'x'; 2_000_000]).unwrap();
        assert_eq!(text(&path).unwrap().len(), 1 << 20);
    }

    #[test]
    fn what_is_no_file_has_no_text() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(text(&fifo), None);
        assert_eq!(text(directory.path()), None);
        assert_eq!(text(&directory.path().join("missing")), None);
    }
}
