//! Path resolution that stays below the allowed directories and follows no link that an
//! ordinary user may have planted.
//!
//! The agent opens one directory after another relative to the one before, and follows
//! each symbolic link by itself; the kernel follows none. So each step is checked on the
//! descriptor that is then used, whatever changes meanwhile, and `..` returns to a
//! directory that was passed, never above the allowed one.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use rustix::io::{Errno, retry_on_intr};

use super::entry::{Entry, PASS, ownership, stat};
use super::error::Error;
use super::owners::{Distrust, Ownership};

/// Most symbolic links followed in one walk, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Greatest depth below the allowed directory: a descriptor is held for each level. A path
/// from the host has at most 130 levels; links may lead deeper.
const MAX_DEPTH: usize = 200;

/// How often a step is retried because the file changed meanwhile.
const RACE_RETRIES: u32 = 32;

/// The result of a step.
enum Step {
    Entered,
    Missing,
    Link(PathBuf),
}

/// A walk through directories.
pub(super) struct Walk<'a> {
    allowed: &'a [PathBuf],
    /// The allowed directory and those passed from there to the current one.
    passed: Vec<(OwnedFd, Ownership)>,
    /// Path of the current directory.
    path: PathBuf,
    /// The ordinary user who owns a link that was followed: from there the walk enters only
    /// directories that this user may search, and reaches only this user's files.
    link_owner: Option<u32>,
    links: u32,
}

impl<'a> Walk<'a> {
    /// Starts a walk at the allowed directory that contains `path`; returns it with the rest
    /// of the path.
    pub(super) fn new<'p>(
        path: &'p Path,
        allowed: &'a [PathBuf],
    ) -> Result<(Self, &'p Path), Error> {
        Self::new_from_link(path, allowed, None)
    }

    fn new_from_link<'p>(
        path: &'p Path,
        allowed: &'a [PathBuf],
        link_owner: Option<u32>,
    ) -> Result<(Self, &'p Path), Error> {
        let outside = || Error::NotAllowed(path.to_owned());
        let root = Path::new("/");
        let everything = allowed.iter().any(|directory| directory == root);
        let base = if everything {
            root
        } else {
            allowed
                .iter()
                .filter(|directory| path.starts_with(directory))
                .max_by_key(|directory| directory.components().count())
                .ok_or_else(outside)?
        };
        let rest = path.strip_prefix(base).map_err(|_| outside())?;
        let mut walk = Self::from_root(link_owner)?;
        let below = base.strip_prefix(root).unwrap_or(base);
        walk.follow(below)?;
        // `..` does not lead above this directory.
        walk.passed.drain(..walk.passed.len().saturating_sub(1));
        walk.allowed = allowed;
        Ok((walk, rest))
    }

    /// Starts a walk at `/` that may go anywhere.
    pub(super) fn from_root(link_owner: Option<u32>) -> Result<Self, Error> {
        let path = PathBuf::from("/");
        let failed = |source| Error::Directory {
            path: PathBuf::from("/"),
            source,
        };
        let flags = PASS | OFlags::DIRECTORY;
        let root = openat(CWD, &path, flags, Mode::empty()).map_err(failed)?;
        let ownership = ownership(&stat(root.as_fd()).map_err(failed)?);
        Ok(Self {
            allowed: &[],
            passed: vec![(root, ownership)],
            path,
            link_owner,
            links: 0,
        })
    }

    /// Forbids the walk to follow links.
    pub(super) fn without_links(mut self) -> Self {
        self.links = MAX_LINKS;
        self
    }

    /// Path of the current directory, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The current directory, as an `O_PATH` descriptor; see [`Walk::open`].
    pub(super) fn here(&self) -> Result<(BorrowedFd<'_>, Ownership), Error> {
        let Some((directory, ownership)) = self.passed.last() else {
            return Err(Error::NotAllowed(self.path.clone()));
        };
        Ok((directory.as_fd(), *ownership))
    }

    /// Opens the current directory.
    pub(super) fn open(&self) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (here, _) = self.here()?;
        retry_on_intr(|| openat(here, ".", flags, Mode::empty()))
            .map_err(|source| self.failed(OsStr::new(""), source))
    }

    /// The ordinary user whose link was followed, if there was one.
    pub(super) fn link_owner(&self) -> Option<u32> {
        self.link_owner
    }

    /// Checks that a file may be created in the current directory.
    pub(super) fn may_write(&self) -> Result<(), Error> {
        match (self.link_owner, self.here()?) {
            (Some(user), (_, here)) if here.uid != user => Err(Error::Untrusted {
                path: self.path.clone(),
                action: "written to",
                reason: Distrust::NotLinkOwners(user),
            }),
            _ => Ok(()),
        }
    }

    /// Enters the directory `name`, which may be a link to one; `false` if it does not
    /// exist.
    pub(super) fn enter(&mut self, name: &OsStr) -> Result<bool, Error> {
        match self.step(name)? {
            Step::Entered => Ok(true),
            Step::Missing => Ok(false),
            Step::Link(text) => self.follow(&text).map(|()| true),
        }
    }

    /// Follows the link `entry`, called `name`, to the directory of its target, and returns
    /// the target's name there; `None` if the target is a directory.
    pub(super) fn follow_to_file(
        &mut self,
        name: &OsStr,
        entry: &Entry,
    ) -> Result<Option<OsString>, Error> {
        let text = self.read_link(name, entry)?;
        // A target that ends in `/`, `.` or `..` is a directory.
        let whole = text.as_os_str().as_encoded_bytes();
        let Some(name) = text.file_name() else {
            return Ok(None);
        };
        if !whole.ends_with(name.as_encoded_bytes()) {
            return Ok(None);
        }
        self.follow(text.parent().unwrap_or(Path::new("")))?;
        Ok(Some(name.to_owned()))
    }

    /// Walks along a path, all of which must exist.
    pub(super) fn follow(&mut self, path: &Path) -> Result<(), Error> {
        let mut to_go = Vec::new();
        self.push(path, &mut to_go)?;
        while let Some(name) = to_go.pop() {
            let Some(name) = name else {
                self.ascend()?;
                continue;
            };
            match self.step(&name)? {
                Step::Entered => {}
                Step::Missing => return Err(self.failed(&name, Errno::NOENT)),
                Step::Link(text) => self.push(&text, &mut to_go)?,
            }
        }
        Ok(())
    }

    /// Pushes the components of `path` onto the stack `to_go`, the first on top; `None` is
    /// `..`. An absolute path restarts the walk.
    fn push(&mut self, path: &Path, to_go: &mut Vec<Option<OsString>>) -> Result<(), Error> {
        let mut rest = path;
        if path.is_absolute() {
            let (restarted, below) = if self.allowed.is_empty() {
                (Self::from_root(self.link_owner)?, path)
            } else {
                Self::new_from_link(path, self.allowed, self.link_owner)?
            };
            rest = below;
            *self = Self {
                links: self.links,
                ..restarted
            };
        }
        for component in rest.components().rev() {
            match component {
                Component::Normal(name) => to_go.push(Some(name.to_owned())),
                Component::ParentDir => to_go.push(None),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }

    /// Returns to the parent directory.
    fn ascend(&mut self) -> Result<(), Error> {
        if self.passed.len() > 1 {
            self.passed.pop();
            self.path.pop();
        } else if self.path != Path::new("/") {
            return Err(Error::NotAllowed(self.path.join("..")));
        }
        Ok(())
    }

    fn step(&mut self, name: &OsStr) -> Result<Step, Error> {
        for _ in 0..RACE_RETRIES {
            let (here, _) = self.here()?;
            // This also triggers an automount.
            let flags = PASS | OFlags::DIRECTORY;
            match retry_on_intr(|| openat(here, name, flags, Mode::empty())) {
                Ok(directory) => {
                    self.enter_opened(name, directory)?;
                    return Ok(Step::Entered);
                }
                Err(Errno::NOENT) => return Ok(Step::Missing),
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(source) => return Err(self.failed(name, source)),
            }
            match Entry::look(here, name) {
                Ok(entry) => match entry.kind() {
                    FileType::Symlink => return Ok(Step::Link(self.read_link(name, &entry)?)),
                    FileType::Directory => {}
                    _ => return Err(self.failed(name, Errno::NOTDIR)),
                },
                Err(Errno::NOENT) => {}
                Err(source) => return Err(self.failed(name, source)),
            }
        }
        Err(self.failed(name, Errno::AGAIN))
    }

    /// Checks and enters a directory that was opened.
    fn enter_opened(&mut self, name: &OsStr, directory: OwnedFd) -> Result<(), Error> {
        let found = stat(directory.as_fd()).map_err(|source| self.failed(name, source))?;
        let child = ownership(&found);
        let (_, here) = self.here()?;
        here.may_enter(child)
            .and_then(|()| match self.link_owner {
                Some(user) if !child.is_searchable_by(user) => Err(Distrust::NotLinkOwners(user)),
                _ => Ok(()),
            })
            .map_err(|reason| self.untrusted(name, "entered", reason))?;
        if self.passed.len() > MAX_DEPTH {
            return Err(self.failed(name, Errno::NAMETOOLONG));
        }
        self.passed.push((directory, child));
        self.path.push(name);
        Ok(())
    }

    /// Reads the target of a link that may be followed.
    fn read_link(&mut self, name: &OsStr, link: &Entry) -> Result<PathBuf, Error> {
        if self.links >= MAX_LINKS {
            return Err(self.failed(name, Errno::LOOP));
        }
        self.links += 1;
        let (_, here) = self.here()?;
        let made_by = here
            .may_follow(ownership(&link.found))
            .and_then(|made_by| match (self.link_owner, made_by) {
                (Some(one), Some(other)) if one != other => Err(Distrust::TwoUsers(one, other)),
                (before, made_by) => Ok(before.or(made_by)),
            })
            .map_err(|reason| self.untrusted(name, "followed", reason))?;
        let text = link.target().map_err(|source| self.failed(name, source))?;
        self.link_owner = made_by;
        Ok(text)
    }

    fn untrusted(&self, name: &OsStr, action: &'static str, reason: Distrust) -> Error {
        Error::Untrusted {
            path: self.path.join(name),
            action,
            reason,
        }
    }

    fn failed(&self, name: &OsStr, source: Errno) -> Error {
        Error::Directory {
            path: self.path.join(name),
            source,
        }
    }
}
