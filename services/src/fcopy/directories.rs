//! Making the directories that a path lacks, and taking them away again when
//! the copy that wanted them comes to nothing.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, StatxAttributes, StatxFlags, fchmod, fstat, mkdirat, statx, unlinkat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::confine::{Place, open_child};
use super::error::Error;
use super::journal::Record;
use super::staging;

const PERMISSIONS: Mode = Mode::from_raw_mode(0o755);

/// Directories that a copy made, outermost first. Those that are still empty
/// are removed when this is dropped.
#[derive(Default)]
pub(super) struct Made(Vec<(OwnedFd, OsString)>);

impl Made {
    /// Lets the directories stay, on disk too if `sync` says so.
    pub(super) fn keep(&mut self, sync: bool) -> Result<(), Errno> {
        for (parent, _) in self.0.drain(..) {
            if sync {
                staging::sync_directory(parent.as_fd())?;
            }
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (parent, name) in self.0.iter().rev() {
            // Not empty: somebody else uses it by now.
            let _ = unlinkat(parent, name.as_os_str(), AtFlags::REMOVEDIR);
        }
    }
}

/// Opens the directory of `place`, making what is missing where `create` says
/// so.
pub(super) fn open(
    place: &Place,
    create: bool,
    made: &mut Made,
    record: &mut Record,
) -> Result<OwnedFd, Error> {
    let mut existing = place.rest();
    let mut missing = Vec::new();
    let mut directory = loop {
        match (
            place.open(existing),
            existing.parent(),
            existing.file_name(),
        ) {
            (Ok(directory), _, _) => break directory,
            (Err(Errno::NOENT), Some(parent), Some(name)) if create => {
                missing.push(name);
                existing = parent;
            }
            (Err(source), _, _) => return Err(place.explain(source)),
        }
    };
    let whole = place.path();
    let mut path = whole
        .ancestors()
        .nth(missing.len())
        .unwrap_or(&whole)
        .to_owned();
    for name in missing.into_iter().rev() {
        let above = path.clone();
        path.push(name);
        let failed = |source| Error::MakeDirectory {
            path: path.clone(),
            source,
        };
        let parent = fcntl_dupfd_cloexec(&directory, 0).map_err(failed)?;
        record.directory(directory.as_fd(), name);
        let ours = match mkdirat(&directory, name, PERMISSIONS) {
            Ok(()) => {
                made.0.push((parent, name.to_owned()));
                true
            }
            Err(Errno::EXIST) => false,
            Err(source @ Errno::PERM) => {
                let protected = protected(directory.as_fd(), &above);
                return Err(protected.unwrap_or_else(|| failed(source)));
            }
            Err(source) => return Err(failed(source)),
        };
        directory = open_child(directory.as_fd(), name).map_err(failed)?;
        if ours {
            // The umask may have taken bits; set-group-ID comes from the parent.
            let mode = Mode::from_raw_mode(fstat(&directory).map_err(failed)?.st_mode);
            let wanted = (mode & Mode::SGID) | PERMISSIONS;
            if mode != wanted {
                fchmod(&directory, wanted).map_err(failed)?;
            }
        }
    }
    Ok(directory)
}

/// The error where a directory's attributes keep entries from being made in it or
/// taken out of it. `path` is for the message.
pub(super) fn protected(directory: BorrowedFd<'_>, path: &Path) -> Option<Error> {
    let found = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).ok()?;
    let (what, flag) = if found.stx_attributes.contains(StatxAttributes::IMMUTABLE) {
        ("immutable, and nothing can be made", 'i')
    } else if found.stx_attributes.contains(StatxAttributes::APPEND) {
        ("append-only, and nothing can be replaced", 'a')
    } else {
        return None;
    };
    Some(Error::ProtectedDirectory {
        path: path.to_owned(),
        what,
        flag,
    })
}
