//! The destination of a copy: a name in an opened directory, and the existing file.

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
    /// Its path, for messages.
    pub(super) path: PathBuf,
    /// The ordinary user whose link was followed, if there was one.
    link_owner: Option<u32>,
}

/// What exists at a name.
pub(super) enum Existing {
    None,
    /// A regular file that may be replaced.
    File,
    Link(Box<Entry>),
}

/// Builds the path of a START and checks its syntax.
///
/// The name comes from a Windows machine, where a backslash is a separator. Linux would
/// allow it in a name, but such a file would appear where nobody looks for it.
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

/// Opens the directory of `path`, which [`path`] built from `start`, follows a symbolic
/// link at its end if the host requests to overwrite, and checks that an existing file may
/// be replaced.
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
            Err(source) => Err(target.failed("read the status of", source)),
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
    /// Returns what exists at the name.
    ///
    /// # Errors
    ///
    /// Returns an error for anything but a regular file or a link, for a file that is
    /// protected by its attributes, and for one that another user may have planted.
    pub(super) fn existing(&self) -> Result<Existing, Error> {
        let entry = match self.look() {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Ok(Existing::None),
            Err(source) => return Err(self.failed("read the status of", source)),
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
                // A file that is linked into an append-only directory cannot be renamed
                // from there.
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

    /// Returns the error of a failed call.
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

    /// Returns an error if attributes protect the directory.
    fn protected(&self) -> Option<Error> {
        let path = self.path.parent().unwrap_or(&self.path);
        directories::protected(self.directory.as_fd(), path)
    }

    /// Checks that a file with this status may be replaced by one with its owner and mode.
    /// The status of its directory is read again.
    pub(super) fn may_replace(&self, found: &Statx) -> Result<(), Error> {
        let directory = stat(self.directory.as_fd());
        let directory = directory
            .map_err(|source| self.failed("read the status of the directory of", source))?;
        let file = ownership(found);
        ownership(&directory)
            .may_replace(file)
            .and(match self.link_owner {
                Some(user) if file.uid != user => Err(Distrust::NotLinkOwners(user)),
                _ => Ok(()),
            })
            .map_err(|reason| Error::Untrusted {
                path: self.path.clone(),
                action: "replaced",
                reason,
            })
    }

    /// Whether both are the same name in the same directory.
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
