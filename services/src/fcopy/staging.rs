//! The file while it is being received, and putting it in place in one step.
//!
//! It has no name where the file system can have such files (`O_TMPFILE`), and
//! vanishes with its descriptor. Elsewhere it has a hidden name, which is noted
//! in the journal.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, fsync, linkat, openat, renameat, renameat_with,
    unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::journal::{self, Journal};

/// How many random names are tried.
const NAME_TRIES: u32 = 16;

/// A file that is not in place yet. Dropped, it leaves nothing behind.
pub(super) struct Staging {
    directory: OwnedFd,
    file: OwnedFd,
    /// Its name in `directory`, if it has one that is to go.
    temporary: Option<OsString>,
}

impl Staging {
    /// Makes the file in `directory`, readable and writable by its owner only.
    pub(super) fn new(directory: OwnedFd, journal: &mut Journal) -> Result<Self, Errno> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match retry_on_intr(|| openat(&directory, ".", flags, owner_only())) {
            Ok(file) => Ok(Self {
                directory,
                file,
                temporary: None,
            }),
            // What file systems and kernels without O_TMPFILE say.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                Self::with_name(directory, journal)
            }
            Err(error) => Err(error),
        }
    }

    fn with_name(directory: OwnedFd, journal: &mut Journal) -> Result<Self, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let (name, file) = with_new_name(directory.as_fd(), journal, |name| {
            openat(&directory, name, flags, owner_only())
        })?;
        Ok(Self {
            directory,
            file,
            temporary: Some(name),
        })
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Gives the file its name where there is none of that name.
    ///
    /// # Errors
    ///
    /// `EEXIST` where there is one; the file is still staged then, as after any
    /// other error.
    pub(super) fn put(&mut self, name: &OsStr) -> Result<(), Errno> {
        match &self.temporary {
            None => link(self.file.as_fd(), self.directory.as_fd(), name),
            Some(temporary) => {
                let directory = &self.directory;
                let temporary = temporary.as_os_str();
                match renameat_with(
                    directory,
                    temporary,
                    directory,
                    name,
                    RenameFlags::NOREPLACE,
                ) {
                    Ok(()) => {
                        self.temporary = None;
                        Ok(())
                    }
                    // The file system or the kernel does not know the flag. The
                    // temporary name goes when this is dropped.
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        linkat(directory, temporary, directory, name, AtFlags::empty())
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Gives the file its name in the place of another that has it.
    pub(super) fn replace(&mut self, name: &OsStr, journal: &mut Journal) -> Result<(), Errno> {
        let (file, directory) = (self.file.as_fd(), self.directory.as_fd());
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => with_new_name(directory, journal, |name| link(file, directory, name))?.0,
        };
        let done = renameat(directory, temporary.as_os_str(), directory, name);
        if done.is_err() {
            self.temporary = Some(temporary);
        }
        done
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // A failure leaves the file for the journal: the next start.
            let _ = unlinkat(&self.directory, temporary.as_os_str(), AtFlags::empty());
        }
    }
}

/// Makes something under a new temporary name, noted beforehand.
fn with_new_name<T>(
    directory: BorrowedFd<'_>,
    journal: &mut Journal,
    mut make: impl FnMut(&OsStr) -> Result<T, Errno>,
) -> Result<(OsString, T), Errno> {
    for _ in 0..NAME_TRIES {
        let name = journal::temporary_name();
        journal.add_file(directory, &name);
        match retry_on_intr(|| make(&name)) {
            Err(Errno::EXIST) => {}
            made => return Ok((name, made?)),
        }
    }
    Err(Errno::EXIST)
}

/// Names a file that has no name. Linking a bare descriptor wants a privilege;
/// linking what `/proc` shows of it does not, but wants `/proc`.
fn link(file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match linkat(file, "", directory, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)
        }
        result => result,
    }
}

/// Brings a directory's entries to its disk, where its file system has such an
/// operation.
pub(super) fn sync_directory(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match retry_on_intr(|| fsync(directory)) {
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        result => result,
    }
}

fn owner_only() -> Mode {
    Mode::RUSR | Mode::WUSR
}

#[cfg(test)]
mod tests {
    //! What a file system without unnamed files makes us do; the other way is
    //! what the tests of the whole service take.

    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use slog::{Discard, Logger, o};

    use super::*;

    struct Named {
        directory: tempfile::TempDir,
        state: tempfile::TempDir,
        journal: Journal,
        staging: Staging,
    }

    fn named() -> Named {
        let directory = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(state.path(), &Logger::root(Discard, o!()));
        let opened = File::open(directory.path()).unwrap().into();
        let staging = Staging::with_name(opened, &mut journal).unwrap();
        rustix::io::write(staging.file(), b"new").unwrap();
        Named {
            directory,
            state,
            journal,
            staging,
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn put() {
        let mut it = named();
        it.staging.put(OsStr::new("file")).unwrap();
        drop(it.staging);
        assert_eq!(names(it.directory.path()), ["file"]);
        assert_eq!(fs::read(it.directory.path().join("file")).unwrap(), b"new");
    }

    #[test]
    fn put_never_replaces() {
        let mut it = named();
        fs::write(it.directory.path().join("file"), "old").unwrap();
        assert_eq!(it.staging.put(OsStr::new("file")), Err(Errno::EXIST));
        drop(it.staging);
        assert_eq!(names(it.directory.path()), ["file"]);
        assert_eq!(fs::read(it.directory.path().join("file")).unwrap(), b"old");
    }

    #[test]
    fn replace() {
        let mut it = named();
        fs::write(it.directory.path().join("file"), "old").unwrap();
        it.staging
            .replace(OsStr::new("file"), &mut it.journal)
            .unwrap();
        drop(it.staging);
        assert_eq!(names(it.directory.path()), ["file"]);
        assert_eq!(fs::read(it.directory.path().join("file")).unwrap(), b"new");
    }

    #[test]
    fn dropped() {
        let it = named();
        assert_eq!(names(it.directory.path()).len(), 1);
        drop(it.staging);
        assert!(names(it.directory.path()).is_empty());
    }

    #[test]
    fn killed() {
        let it = named();
        // Death releases locks and runs no destructor.
        let notes = it.state.path().join(&names(it.state.path())[0]);
        let bytes = fs::read(&notes).unwrap();
        std::mem::forget(it.staging);
        drop(it.journal);
        fs::write(&notes, bytes).unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o600)).unwrap();

        journal::clean(it.state.path(), &Logger::root(Discard, o!()));
        assert!(names(it.directory.path()).is_empty());
        assert!(names(it.state.path()).is_empty());
    }

    #[test]
    fn replacing_with_a_failure_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(state.path(), &Logger::root(Discard, o!()));
        let opened = File::open(directory.path()).unwrap().into();
        let mut staging = Staging::new(opened, &mut journal).unwrap();
        fs::create_dir(directory.path().join("file")).unwrap();
        assert_eq!(
            staging.replace(OsStr::new("file"), &mut journal),
            Err(Errno::ISDIR)
        );
        drop(staging);
        assert_eq!(names(directory.path()), ["file"]);
    }
}
