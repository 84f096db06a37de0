//! The directory of what lasts as long as the agent runs: its control socket,
//! and the lock that says that it runs.
//!
//! The lock is one that the kernel gives up with the process, however that
//! ends, and that a child does not inherit: it is never stale, and no guard or
//! program that an agent leaves behind holds it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use hyperv_services::trusted::make_runtime_directory;
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock, openat};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

const LOCK: &str = "lock";

/// The directory, made where it was missing.
#[derive(Debug)]
pub struct RuntimeDirectory {
    path: PathBuf,
    lock: File,
}

/// Why the directory is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Another agent has it.
    #[error(
        "another hyperv-agent runs{}: stop that one first",
        .0.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    AlreadyRunning(Option<Pid>),
    /// It cannot be made, or not be written to.
    #[error("cannot {doing} {}: {source}", path.display())]
    Unusable {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl RuntimeDirectory {
    /// Makes the directory where it is missing; nothing is claimed yet.
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
        // Whoever can write to it could hold the lock.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(0o600);
        let lock = openat(directory, LOCK, flags | OFlags::CLOEXEC, mode)
            .map_err(|errno| unusable("open", &path.join(LOCK))(errno.into()))?;
        Ok(Self {
            path: path.to_owned(),
            lock: lock.into(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it could be claimed now. A process that is about to fork asks
    /// this while it can still be heard, and claims afterwards.
    ///
    /// # Errors
    ///
    /// Any [`RuntimeError`].
    pub fn check(&self) -> Result<(), RuntimeError> {
        match fcntl_getlk(&self.lock, &Flock::from(FlockType::WriteLock)) {
            Ok(None) => Ok(()),
            Ok(Some(held)) => Err(RuntimeError::AlreadyRunning(held.pid)),
            Err(errno) => Err(self.cannot_lock(errno)),
        }
    }

    /// Claims it for this process, for as long as this lives.
    ///
    /// # Errors
    ///
    /// Any [`RuntimeError`].
    pub fn claim(&self) -> Result<(), RuntimeError> {
        match fcntl_lock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN | Errno::ACCESS) => {
                self.check()?;
                // It ended between the two.
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
