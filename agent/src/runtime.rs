//! The runtime directory: the sockets, and the lock that a running agent holds.
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

/// The runtime directory, and its lock file.
#[derive(Debug)]
pub struct RuntimeDirectory {
    path: PathBuf,
    lock: File,
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
        let unusable = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| RuntimeError::Unusable {
                doing,
                path,
                source,
            }
        };
        let directory =
            make_runtime_directory(path).map_err(unusable("use the directory", path))?;
        // Only root may open the file: everybody who can could hold the lock.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(0o600);
        let lock = openat(directory, LOCK, flags | OFlags::CLOEXEC, mode)
            .map_err(|errno| unusable("open", &path.join(LOCK))(errno.into()))?;
        Ok(Self {
            path: path.to_owned(),
            lock: lock.into(),
        })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that no other process holds the lock. An agent that detaches checks before it
    /// forks, while the user still sees its messages, and locks afterwards.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::AlreadyRunning`] if another process holds it.
    pub fn check(&self) -> Result<(), RuntimeError> {
        match fcntl_getlk(&self.lock, &Flock::from(FlockType::WriteLock)) {
            Ok(None) => Ok(()),
            Ok(Some(held)) => Err(RuntimeError::AlreadyRunning(held.pid)),
            Err(errno) => Err(self.cannot_lock(errno)),
        }
    }

    /// Takes the lock for this process, until the value is dropped.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::AlreadyRunning`] if another process holds it.
    pub fn claim(&self) -> Result<(), RuntimeError> {
        match fcntl_lock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN | Errno::ACCESS) => {
                self.check()?;
                // The other process has just ended.
                Err(RuntimeError::AlreadyRunning(None))
            }
            Err(errno) => Err(self.cannot_lock(errno)),
        }
    }

    fn cannot_lock(&self, errno: Errno) -> RuntimeError {
        RuntimeError::Unusable {
            doing: "lock",
            path: self.path.join(LOCK),
            source: errno.into(),
        }
    }
}
