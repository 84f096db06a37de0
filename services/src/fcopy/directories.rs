//! Creates the missing directories of a path, and removes them if the copy fails.

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

/// Directories that a copy created, outermost first. Dropping this removes those that are
/// still empty.
#[derive(Default)]
pub(super) struct CreatedDirectories(Vec<New>);

struct New {
    parent: OwnedFd,
    name: OsString,
    /// Open, so that its inode number is not reused.
    directory: OwnedFd,
}

impl CreatedDirectories {
    /// Keeps the directories, and syncs them if `sync`.
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
                // If it is not empty, another program uses it.
                let _ = unlinkat(&new.parent, new.name.as_os_str(), AtFlags::REMOVEDIR);
            }
        }
    }
}

impl New {
    /// Whether its name still leads to this directory.
    fn has_its_name(&self) -> bool {
        let place = |found: Statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
        let this = stat(self.directory.as_fd()).map(place);
        let there = Entry::look(self.parent.as_fd(), &self.name).map(|entry| place(entry.found));
        this.is_ok() && this == there
    }
}

/// Walks along `path`, creates missing directories if `create`, and checks that a file may
/// be created in the last one.
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

/// Creates a directory in the current one and enters it.
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
    // If others may rename entries of the parent, this may be another directory.
    if !new
        || found.stx_uid != geteuid().as_raw()
        || !is_empty(directory.as_fd()).map_err(failed)?
    {
        return Ok(());
    }
    // The umask may have cleared bits; set-group-ID is inherited from the parent.
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

/// Returns an error if a directory's attributes forbid to create or remove entries. `path`
/// is for the message.
pub(super) fn protected(directory: BorrowedFd<'_>, path: &Path) -> Option<Error> {
    let found = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).ok()?;
    let (what, flag) = if found.stx_attributes.contains(StatxAttributes::IMMUTABLE) {
        ("immutable, and nothing can be created", 'i')
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
