//! Making the directories that a path lacks, and taking them away again when
//! the copy that wanted them comes to nothing.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, Mode, Statx, StatxAttributes, StatxFlags, fchmod, mkdirat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::confine::Walk;
use super::entry::{Entry, stat};
use super::error::Error;
use super::journal::Journal;
use super::staging;

const PERMISSIONS: Mode = Mode::from_raw_mode(0o755);

/// Directories that a copy made, outermost first. Those that are still empty
/// are removed when this is dropped.
#[derive(Default)]
pub(super) struct CreatedDirectories(Vec<New>);

struct New {
    parent: OwnedFd,
    name: OsString,
    /// Held, so that no other gets its inode.
    directory: OwnedFd,
}

impl CreatedDirectories {
    /// Lets the directories stay, on disk too if `sync` says so.
    pub(super) fn keep(&mut self, sync: bool) -> Result<(), Errno> {
        for new in self.0.drain(..) {
            if sync {
                staging::sync_directory(new.parent.as_fd())?;
            }
        }
        Ok(())
    }
}

impl Drop for CreatedDirectories {
    fn drop(&mut self) {
        for new in self.0.iter().rev() {
            if new.has_its_name() {
                // Not empty: somebody else uses it by now.
                let _ = unlinkat(&new.parent, new.name.as_os_str(), AtFlags::REMOVEDIR);
            }
        }
    }
}

impl New {
    /// Whether nobody has put another one in its place.
    fn has_its_name(&self) -> bool {
        let place = |found: Statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
        let this = stat(self.directory.as_fd()).map(place);
        let there = Entry::look(self.parent.as_fd(), &self.name).map(|entry| place(entry.found));
        this.is_ok() && this == there
    }
}

/// Goes along the components of `path`, making what is missing where `create` says
/// so, and makes sure that something may be made in the directory at its end.
pub(super) fn go(
    walk: &mut Walk<'_>,
    path: &Path,
    create: bool,
    created: &mut CreatedDirectories,
    journal: &mut Journal,
) -> Result<(), Error> {
    let whole = walk.path().join(path);
    let mut making = false;
    for name in path {
        if !making && walk.enter(name)? {
            continue;
        }
        if !create {
            return Err(Error::NoDirectory(whole));
        }
        if !making {
            walk.may_write()?;
        }
        making = true;
        make(walk, name, created, journal)?;
    }
    match making {
        true => Ok(()),
        false => walk.may_write(),
    }
}

/// Makes a directory where the walk is, and goes there.
fn make(
    walk: &mut Walk<'_>,
    name: &OsStr,
    created: &mut CreatedDirectories,
    journal: &mut Journal,
) -> Result<(), Error> {
    let path = walk.path().join(name);
    let failed = |source| Error::MakeDirectory {
        path: path.clone(),
        source,
    };
    let parent = walk.open()?;
    let new = match mkdirat(&parent, name, PERMISSIONS) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(source @ Errno::PERM) => {
            let protected = protected(parent.as_fd(), walk.path());
            return Err(protected.unwrap_or_else(|| failed(source)));
        }
        Err(source) => return Err(failed(source)),
    };
    if !walk.enter(name)? {
        return Err(failed(Errno::NOENT));
    }
    let directory = walk.open()?;
    let found = stat(directory.as_fd()).map_err(failed)?;
    // Where others may rename what is in the parent it may be another one by now.
    if !new
        || found.stx_uid != geteuid().as_raw()
        || !is_empty(directory.as_fd()).map_err(failed)?
    {
        return Ok(());
    }
    // The umask may have taken bits; set-group-ID comes from the parent.
    let mode = Mode::from_raw_mode(found.stx_mode.into());
    let wanted = (mode & Mode::SGID) | PERMISSIONS;
    if mode != wanted {
        fchmod(&directory, wanted).map_err(failed)?;
    }
    journal.add_directory(parent.as_fd(), name, &found);
    created.0.push(New {
        parent,
        name: name.to_owned(),
        directory,
    });
    Ok(())
}

fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
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
