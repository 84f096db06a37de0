//! Where a file is to go: the name in an opened directory, and what is there
//! already.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags, readlinkat, statx};
use rustix::io::Errno;

use super::confine::Place;
use super::directories::{self, Made};
use super::error::Error;
use super::journal::Record;
use super::request::Start;

/// Symbolic links followed one after the other, at most; the kernel's limit.
const MAX_LINKS: u32 = 40;

/// A name in an opened directory.
pub(super) struct Target {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
    /// The same as a path, for messages.
    pub(super) path: PathBuf,
}

/// What is at a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A regular file that can be replaced.
    File,
    Link,
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
    made: &mut Made,
    record: &mut Record,
) -> Result<Target, Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mut place = Place::new(parent, allowed)?;
    let mut target = Target {
        directory: directories::open(&place, start.create_path, made, record)?,
        name: OsString::from(&start.file_name),
        path: path.to_owned(),
    };
    if !start.overwrite {
        return match target.look() {
            Ok((FileType::Directory, _)) => Err(Error::IsDirectory {
                path: target.path,
                overwrite: false,
            }),
            Ok(_) => Err(Error::Exists(target.path)),
            Err(Errno::NOENT) => Ok(target),
            Err(source) => Err(target.failed("look at", source)),
        };
    }
    for followed in 0..MAX_LINKS {
        match target.find()? {
            Found::Link => {}
            Found::Nothing if followed > 0 => {
                return Err(target.refused("a dangling symbolic link"));
            }
            Found::Nothing | Found::File => return Ok(target),
        }
        let text = readlinkat(&target.directory, target.name.as_os_str(), Vec::new())
            .map_err(|source| target.failed("read the symbolic link", source))?;
        let text = PathBuf::from(OsString::from_vec(text.into_bytes()));
        // A link that ends in `/`, `.` or `..` leads to a directory.
        let name = match text.file_name() {
            Some(name)
                if text
                    .as_os_str()
                    .as_encoded_bytes()
                    .ends_with(name.as_encoded_bytes()) =>
            {
                name
            }
            _ => return Err(target.is_directory()),
        };
        let parent = text.parent().unwrap_or(Path::new(""));
        if parent.is_absolute() {
            place = Place::new(parent, allowed)?;
        } else {
            place.join(parent);
        }
        target.directory = match place.open(place.rest()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Err(target.refused("a dangling symbolic link")),
            Err(source) => return Err(place.explain(source)),
        };
        target.name = name.to_owned();
        target.path = place.path().join(name);
    }
    Err(target.refused("a loop of symbolic links"))
}

impl Target {
    /// Looks at the name.
    ///
    /// # Errors
    ///
    /// For anything but a regular file or a link, and for a file that is protected
    /// from being replaced.
    pub(super) fn find(&self) -> Result<Found, Error> {
        let (kind, attributes) = match self.look() {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(source) => return Err(self.failed("look at", source)),
        };
        let what = match kind {
            FileType::Symlink => return Ok(Found::Link),
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
                    None => Ok(Found::File),
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

    fn look(&self) -> Result<(FileType, StatxAttributes), Errno> {
        let found = statx(
            &self.directory,
            self.name.as_os_str(),
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::TYPE,
        )?;
        let kind = FileType::from_raw_mode(found.stx_mode.into());
        Ok((kind, found.stx_attributes))
    }
}
