//! Opening a directory without leaving the directories that the configuration
//! allows.
//!
//! With `/` among them, everything is allowed and a path is resolved as anyone
//! would. Otherwise a path must lie under an allowed directory by its
//! components, and the kernel resolves the rest of it beneath that directory
//! (`openat2`): neither a symbolic link nor `..` gets out, whatever changes
//! meanwhile.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, retry_on_intr};

use super::error::Error;

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// How often a lookup is tried again that the kernel gave up because something
/// was renamed meanwhile.
const RENAME_RETRIES: u32 = 32;

/// A root, and a path under it.
pub(super) struct Place {
    /// The root as the configuration names it, for messages.
    root_path: PathBuf,
    root: OwnedFd,
    confined: bool,
    /// Under the root; relative. May contain `..` where a symbolic link brought
    /// it in.
    rest: PathBuf,
}

impl Place {
    /// The place of an absolute path.
    pub(super) fn new(path: &Path, allowed: &[PathBuf]) -> Result<Self, Error> {
        let everything = allowed.iter().any(|directory| directory == Path::new("/"));
        let root_path = if everything {
            PathBuf::from("/")
        } else {
            allowed
                .iter()
                .filter(|directory| path.starts_with(directory))
                .max_by_key(|directory| directory.components().count())
                .ok_or_else(|| Error::NotAllowed(path.to_owned()))?
                .clone()
        };
        let rest = path
            .strip_prefix(&root_path)
            .map_err(|_| Error::NotAllowed(path.to_owned()))?
            .to_owned();
        let root =
            retry_on_intr(|| openat(CWD, &root_path, FLAGS, Mode::empty())).map_err(|source| {
                Error::Directory {
                    path: root_path.clone(),
                    source,
                }
            })?;
        Ok(Self {
            root_path,
            root,
            confined: !everything,
            rest,
        })
    }

    /// The same place, or one further on from it.
    pub(super) fn join(&mut self, relative: &Path) {
        self.rest.push(relative);
    }

    /// The path under the root.
    pub(super) fn rest(&self) -> &Path {
        &self.rest
    }

    /// The whole path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.root_path.join(&self.rest)
    }

    /// Opens the directory `rest` under the root; empty for the root itself.
    pub(super) fn open(&self, rest: &Path) -> Result<OwnedFd, Errno> {
        let rest = if rest.as_os_str().is_empty() {
            Path::new(".")
        } else {
            rest
        };
        let mut resolve = ResolveFlags::NO_MAGICLINKS;
        if self.confined {
            resolve |= ResolveFlags::BENEATH;
        }
        for _ in 0..RENAME_RETRIES {
            match openat2(&self.root, rest, FLAGS, Mode::empty(), resolve) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The kernel, or a seccomp filter, does not know the call.
                Err(Errno::NOSYS | Errno::PERM) if !self.confined => {
                    return retry_on_intr(|| openat(&self.root, rest, FLAGS, Mode::empty()));
                }
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// What it means that `open` failed.
    pub(super) fn explain(&self, source: Errno) -> Error {
        let path = self.path();
        match source {
            Errno::XDEV => Error::NotAllowed(path),
            Errno::NOENT => Error::NoDirectory(path),
            Errno::NOSYS | Errno::PERM if self.confined => Error::CannotConfine(source),
            source => Error::Directory { path, source },
        }
    }
}

/// Opens `name` in `directory`, where it must be a directory and no symbolic
/// link.
pub(super) fn open_child(
    directory: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
) -> Result<OwnedFd, Errno> {
    let flags = FLAGS | OFlags::NOFOLLOW;
    retry_on_intr(|| openat(directory, name, flags, Mode::empty()))
}
