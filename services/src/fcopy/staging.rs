//! The temporary file of a copy, which is put in place atomically.
//!
//! If the file system supports `O_TMPFILE` it has no name and vanishes with its descriptor.
//! Otherwise it has a hidden name, which the journal records.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, fsync, linkat, openat, renameat, renameat_with,
    unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::journal::{self, Journal};

/// Number of random names that are tried.
const NAME_TRIES: u32 = 16;

/// Permission bits of a temporary file.
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file that is not in place yet. Dropping it deletes the file.
pub(super) struct Staging {
    directory: OwnedFd,
    file: OwnedFd,
    /// Its temporary name in `directory`, if it has one.
    temporary: Option<OsString>,
}

impl Staging {
    /// Creates the file in `directory`, readable and writable by its owner only.
    pub(super) fn new(directory: OwnedFd, journal: &mut Journal) -> Result<Self, Errno> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match retry_on_intr(|| openat(&directory, ".", flags, OWNER_ONLY)) {
            Ok(file) => Ok(Self {
                directory,
                file,
                temporary: None,
            }),
            // The errors of file systems and kernels without O_TMPFILE.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                Self::with_name(directory, journal)
            }
            Err(error) => Err(error),
        }
    }

    fn with_name(directory: OwnedFd, journal: &mut Journal) -> Result<Self, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let (name, file) = with_new_name(directory.as_fd(), journal, |name| {
            openat(&directory, name, flags, OWNER_ONLY)
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

    /// Gives the file its name, without replacing another.
    ///
    /// # Errors
    ///
    /// Returns `EEXIST` if the name exists. The file stays staged after any error.
    pub(super) fn put(&mut self, name: &OsStr) -> Result<(), Errno> {
        match &self.temporary {
            None => link(self.file.as_fd(), self.directory.as_fd(), name),
            Some(temporary) => {
                let directory = &self.directory;
                let temporary = temporary.as_os_str();
                let flags = RenameFlags::NOREPLACE;
                match renameat_with(directory, temporary, directory, name, flags) {
                    Ok(()) => {
                        self.temporary = None;
                        Ok(())
                    }
                    // The file system or the kernel does not support the flag. The
                    // temporary name is removed when this is dropped.
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        linkat(directory, temporary, directory, name, AtFlags::empty())
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Gives the file its name, replacing another.
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
            // If this fails, the next start removes the file by the journal.
            let _ = unlinkat(&self.directory, temporary.as_os_str(), AtFlags::empty());
        }
    }
}

/// Creates a file under a new temporary name, which is recorded before.
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

/// Links a file that has no name. Linking the descriptor itself needs a privilege; linking
/// its entry in `/proc` does not.
fn link(file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match linkat(file, "", directory, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)
        }
        result => result,
    }
}

/// Syncs a directory, if its file system supports that.
pub(super) fn sync_directory(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match retry_on_intr(|| fsync(directory)) {
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        result => result,
    }
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
