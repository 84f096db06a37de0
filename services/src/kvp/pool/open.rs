//! Opens a pool's file if only root can have put it there.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::error::PoolError;
use super::lock::Access;
use super::stamp::Stamp;
use crate::trusted::trusted_directory_of;

/// An open file with its identity.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) writable: bool,
    device: u64,
    inode: u64,
}

/// Checks that only root can have put a file at this path.
pub(super) fn check_trusted(path: &Path) -> Result<(), PoolError> {
    trusted_directory_of(path).map_err(|source| PoolError::Untrusted {
        path: path.to_owned(),
        source,
    })
}

impl OpenFile {
    pub(super) fn new(path: &Path, access: Access) -> Result<Option<Self>, PoolError> {
        // Checked before it is opened: opening some devices has effects.
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        check_trusted(path)?;
        let writable = access == Access::Exclusive;
        let opened = File::options()
            .read(true)
            .write(writable)
            // Does not block on a FIFO or a device.
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PoolError::file("open", path)(error)),
        };
        let metadata = file.metadata().map_err(PoolError::file("stat", path))?;
        if !metadata.is_file() {
            return Err(PoolError::NotAFile(path.to_owned()));
        }
        Ok(Some(Self {
            writable,
            device: metadata.dev(),
            inode: metadata.ino(),
            file,
        }))
    }

    /// Sets the mode of the file unless it is `None`.
    pub(super) fn apply_mode(&self, mode: Option<u32>) -> io::Result<()> {
        let now = self.file.metadata()?.mode() & 0o7777;
        match mode {
            Some(mode) if mode != now => self.file.set_permissions(Permissions::from_mode(mode)),
            _ => Ok(()),
        }
    }

    /// Whether the stamp is of this file.
    pub(super) fn is(&self, stamp: Stamp) -> bool {
        (self.device, self.inode) == (stamp.device, stamp.inode)
    }
}
