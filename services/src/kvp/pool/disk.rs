//! All operations that change files, so that tests can stop the writer at each.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
use super::crash;

pub(super) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    crash::step(offset, bytes.len(), |cut| {
        file.write_all_at(&bytes[..cut], offset)
    })?;
    file.write_all_at(bytes, offset)
}

pub(super) fn resize(file: &File, size: u64) -> io::Result<()> {
    #[cfg(test)]
    crash::step(0, 0, |_| Ok(()))?;
    file.set_len(size)
}

/// Creates an empty file, replacing what is there.
pub(super) fn create(path: &Path, mode: u32) -> io::Result<File> {
    #[cfg(test)]
    crash::step(0, 0, |_| Ok(()))?;
    let _ = fs::remove_file(path);
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    crash::step(0, 0, |_| Ok(()))?;
    fs::rename(from, to)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    crash::step(0, 0, |_| Ok(()))?;
    fs::remove_file(path)
}
