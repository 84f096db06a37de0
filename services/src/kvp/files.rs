//! Reads small files of other programs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Bytes that are read of a file; what follows is ignored.
const MAX_LEN: u64 = 64 << 10;

/// What is in a regular file; `None` where it cannot be read.
pub(super) fn bytes(path: &Path) -> Option<Vec<u8>> {
    // A FIFO in its place must not hold up the request.
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
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
pub(super) fn under(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_so_much_of_a_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        assert_eq!(text(&path).unwrap().len(), 64 << 10);
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
