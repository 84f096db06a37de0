//! A directory entry, held by a descriptor so that checks and use see the same file.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Statx, StatxFlags, fstatfs, openat,
    readlinkat, statx,
};
use rustix::io::{Errno, retry_on_intr};

use super::owners::Ownership;

/// Flags that open a file for its status, or a directory to walk through: no link is
/// followed.
pub(super) const PASS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory entry and its status.
pub(super) struct Entry {
    file: OwnedFd,
    pub(super) found: Statx,
}

impl Entry {
    /// Opens a name without following it.
    pub(super) fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Self, Errno> {
        Self::of(retry_on_intr(|| {
            openat(directory, name, PASS, Mode::empty())
        })?)
    }

    fn of(file: OwnedFd) -> Result<Self, Errno> {
        let found = stat(file.as_fd())?;
        Ok(Self { file, found })
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.found.stx_mode.into())
    }

    /// Reads the target of a symbolic link.
    pub(super) fn target(&self) -> Result<PathBuf, Errno> {
        // Links in `/proc` do not lead to the path that they contain.
        if fstatfs(&self.file)?.f_type == PROC_SUPER_MAGIC {
            return Err(Errno::PERM);
        }
        let text = readlinkat(&self.file, "", Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
    }
}

/// Reads the status of an open file.
pub(super) fn stat(file: BorrowedFd<'_>) -> Result<Statx, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    statx(file, "", AtFlags::EMPTY_PATH, wanted)
}

/// Returns owner, mode and link count of a status.
pub(super) fn ownership(found: &Statx) -> Ownership {
    Ownership {
        uid: found.stx_uid,
        mode: u32::from(found.stx_mode) & 0o7777,
        links: found.stx_nlink,
    }
}
