//! Where a file is to go: the name in an opened directory, and what is there
//! already.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Statx, StatxAttributes, fstat};
use rustix::io::Errno;

use super::confine::Walk;
use super::directories::{self, CreatedDirectories};
use super::entry::{Entry, ownership, stat};
use super::error::Error;
use super::journal::Journal;
use super::owners::Distrust;
use super::request::Start;

/// A name in an opened directory.
pub(super) struct Target {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
    /// The same as a path, for messages.
    pub(super) path: PathBuf,
    /// The ordinary user whose link led here, if one did.
    link_owner: Option<u32>,
}

/// What is at a name.
pub(super) enum Existing {
    None,
    /// A regular file that can be replaced.
    File,
    Link(Box<Entry>),
}

/// The path that a START means, checked by itself.
///
/// Whoever names it sits at a Windows machine: a backslash is meant to part names,
/// although Linux could have it in one. A file or directory of such a name would
/// appear where nobody looks for it.
pub(super) fn path(start: &Start) -> Result<PathBuf, Error> {
    let destination = match start.directory.as_str() {
        "" => start.file_name.clone(),
        directory => format!("{directory}/{}", start.file_name),
    };
    let drive =
        matches!(destination.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    if drive || destination.contains('\\') {
        return Err(Error::WindowsPath(destination));
    }
    let mut path = PathBuf::from("/");
    for component in Path::new(&start.directory).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::DirectoryName(start.directory.clone()));
            }
        }
    }
    let name = &start.file_name;
    if name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
        return Err(Error::FileName(name.clone()));
    }
    path.push(name);
    Ok(path)
}

/// Opens the directory for `path`, which [`path`] made of `start`, follows a
/// symbolic link at its end where the file is to be overwritten, and makes sure
/// that what is there may be replaced.
pub(super) fn resolve(
    start: &Start,
    path: &Path,
    allowed: &[PathBuf],
    created: &mut CreatedDirectories,
    journal: &mut Journal,
) -> Result<Target, Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let (mut walk, rest) = Walk::new(parent, allowed)?;
    directories::go(&mut walk, rest, start.create_path, created, journal)?;
    let mut target = Target {
        directory: walk.open()?,
        name: OsString::from(&start.file_name),
        path: path.to_owned(),
        link_owner: walk.link_owner(),
    };
    if !start.overwrite {
        return match target.look() {
            Ok(entry) if entry.kind() == FileType::Directory => Err(Error::IsDirectory {
                path: target.path,
                overwrite: false,
            }),
            Ok(_) => Err(Error::Exists(target.path)),
            Err(Errno::NOENT) => Ok(target),
            Err(source) => Err(target.failed("look at", source)),
        };
    }
    let mut followed = false;
    loop {
        let link = match target.existing()? {
            Existing::Link(link) => link,
            Existing::None if followed => {
                return Err(target.refused("a dangling symbolic link"));
            }
            Existing::None | Existing::File => break,
        };
        let name = walk
            .follow_to_file(&target.name, &link)
            .map_err(|error| match error {
                Error::Directory {
                    source: Errno::NOENT,
                    ..
                } => target.refused("a dangling symbolic link"),
                Error::Directory {
                    source: Errno::LOOP,
                    ..
                } => target.refused("a loop of symbolic links"),
                error => error,
            })?
            .ok_or_else(|| target.is_directory())?;
        walk.may_write()?;
        target = Target {
            directory: walk.open()?,
            path: walk.path().join(&name),
            name,
            link_owner: walk.link_owner(),
        };
        followed = true;
    }
    Ok(target)
}

impl Target {
    /// Looks at the name.
    ///
    /// # Errors
    ///
    /// For anything but a regular file or a link, for a file that is protected from
    /// being replaced, and for one that somebody else may have put there.
    pub(super) fn existing(&self) -> Result<Existing, Error> {
        let entry = match self.look() {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Ok(Existing::None),
            Err(source) => return Err(self.failed("look at", source)),
        };
        let (kind, attributes) = (entry.kind(), entry.found.stx_attributes);
        let what = match kind {
            FileType::Symlink => return Ok(Existing::Link(Box::new(entry))),
            FileType::RegularFile if attributes.contains(StatxAttributes::IMMUTABLE) => {
                "immutable (chattr +i)"
            }
            FileType::RegularFile if attributes.contains(StatxAttributes::APPEND) => {
                "append-only (chattr +a)"
            }
            FileType::RegularFile if attributes.contains(StatxAttributes::MOUNT_ROOT) => {
                "a mount point"
            }
            FileType::RegularFile => {
                // What is linked into an append-only directory for the replacing
                // could not be taken out again.
                return match self.protected() {
                    Some(error) => Err(error),
                    None => self.may_replace(&entry.found).map(|()| Existing::File),
                };
            }
            FileType::Directory => return Err(self.is_directory()),
            FileType::Fifo => "a named pipe",
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            _ => "not a regular file",
        };
        Err(self.refused(what))
    }

    pub(super) fn refused(&self, what: &'static str) -> Error {
        Error::NotReplaceable {
            path: self.path.clone(),
            what,
        }
    }

    fn is_directory(&self) -> Error {
        Error::IsDirectory {
            path: self.path.clone(),
            overwrite: true,
        }
    }

    /// What it means that something failed.
    pub(super) fn failed(&self, doing: &'static str, source: Errno) -> Error {
        let protected = match source {
            Errno::PERM => self.protected(),
            _ => None,
        };
        protected.unwrap_or_else(|| Error::File {
            doing,
            path: self.path.clone(),
            source,
        })
    }

    /// The error where the directory is protected.
    fn protected(&self) -> Option<Error> {
        let path = self.path.parent().unwrap_or(&self.path);
        directories::protected(self.directory.as_fd(), path)
    }

    /// Makes sure that the file of which this was `found` may be replaced, and keeps
    /// its owner and mode. Those of its directory count as they are now.
    pub(super) fn may_replace(&self, found: &Statx) -> Result<(), Error> {
        let directory = stat(self.directory.as_fd());
        let directory =
            directory.map_err(|source| self.failed("look at the directory of", source))?;
        let file = ownership(found);
        ownership(&directory)
            .may_replace(file)
            .and(match self.link_owner {
                Some(user) if file.uid != user => Err(Distrust::NotLinkOwners(user)),
                _ => Ok(()),
            })
            .map_err(|reason| Error::Untrusted {
                path: self.path.clone(),
                done: "replaced",
                reason,
            })
    }

    /// Whether it is the same name in the same directory.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        let place = |target: &Self| {
            let found = fstat(&target.directory).ok()?;
            Some((found.st_dev, found.st_ino, target.name.clone()))
        };
        place(self).is_some_and(|this| place(other) == Some(this))
    }

    fn look(&self) -> Result<Entry, Errno> {
        Entry::look(self.directory.as_fd(), &self.name)
    }
}
