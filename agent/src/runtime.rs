//! The runtime directory: the sockets, and the lock that a running agent holds. Agents that
//! serve one service each, in place of a stock daemon, share that lock, and each has a lock of
//! its own beside it.
//!
//! The kernel releases the lock when the process ends, however it ends, and no child
//! inherits it. So it is never stale, and no watchdog or other program that an agent leaves
//! behind holds it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use hyperv_services::trusted::make_runtime_directory;
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock, openat};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

const LOCK: &str = "lock";

/// The runtime directory, and its lock files.
#[derive(Debug)]
pub struct RuntimeDirectory {
    path: PathBuf,
    locks: Vec<Lock>,
}

#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
    shared: bool,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Another agent holds the lock.
    #[error(
        "another hyperv-agent runs{}: stop that one first",
        .0.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    AlreadyRunning(Option<Pid>),
    /// The directory or the lock file cannot be created, opened or locked.
    #[error("cannot {doing} {}: {source}", path.display())]
    Unusable {
        /// The action that failed.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl RuntimeDirectory {
    /// Opens the directory and its lock file, and creates them if they are missing. The lock
    /// is not taken yet.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unusable`].
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        Self::with_locks(path, &[(LOCK.to_owned(), false)])
    }

    /// The same, for an agent that serves only this service.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Unusable`].
    pub fn open_for(path: &Path, service: &str) -> Result<Self, RuntimeError> {
        let own = format!("{LOCK}-{service}");
        Self::with_locks(path, &[(LOCK.to_owned(), true), (own, false)])
    }

    fn with_locks(path: &Path, locks: &[(String, bool)]) -> Result<Self, RuntimeError> {
        let directory =
            make_runtime_directory(path).map_err(unusable("use the directory", path))?;
        // Only root may open the files: everybody who can could hold the lock.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(0o600);
        let open = |(name, shared): &(String, bool)| {
            let path = path.join(name);
            match openat(&directory, name.as_str(), flags | OFlags::CLOEXEC, mode) {
                Ok(file) => Ok(Lock {
                    path,
                    file: file.into(),
                    shared: *shared,
                }),
                Err(errno) => Err(unusable("open", &path)(errno.into())),
            }
        };
        Ok(Self {
            path: path.to_owned(),
            locks: locks.iter().map(open).collect::<Result<_, _>>()?,
        })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that no other process holds a lock that this one needs. An agent that detaches
    /// checks before it forks, while the user still sees its messages, and locks afterwards.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::AlreadyRunning`] if another process holds it.
    pub fn check(&self) -> Result<(), RuntimeError> {
        self.locks.iter().try_for_each(Lock::check)
    }

    /// Takes the locks for this process, until the value is dropped.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::AlreadyRunning`] if another process holds one.
    pub fn claim(&self) -> Result<(), RuntimeError> {
        self.locks.iter().try_for_each(Lock::claim)
    }
}

impl Lock {
    fn check(&self) -> Result<(), RuntimeError> {
        let kind = match self.shared {
            true => FlockType::ReadLock,
            false => FlockType::WriteLock,
        };
        match fcntl_getlk(&self.file, &Flock::from(kind)) {
            Ok(None) => Ok(()),
            Ok(Some(held)) => Err(RuntimeError::AlreadyRunning(held.pid)),
            Err(errno) => Err(unusable("lock", &self.path)(errno.into())),
        }
    }

    fn claim(&self) -> Result<(), RuntimeError> {
        let operation = match self.shared {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        match fcntl_lock(&self.file, operation) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN | Errno::ACCESS) => {
                self.check()?;
                // The other process has just ended.
                Err(RuntimeError::AlreadyRunning(None))
            }
            Err(errno) => Err(unusable("lock", &self.path)(errno.into())),
        }
    }
}

fn unusable(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::Unusable {
        doing,
        path,
        source,
    }
}
