//! Both families of locks on a pool file.
//!
//! Of the programs that share the pools some take `flock`, some POSIX record
//! locks, and the two do not know of each other: so both are taken. The record
//! lock is one of the open file description, which conflicts with the classic
//! ones but is not lost when any other descriptor of the file is closed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::PoolError;

/// How long a lock is waited for. The host waits longer for its answer.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

const MIN_PAUSE: Duration = Duration::from_micros(100);
const MAX_PAUSE: Duration = Duration::from_millis(1);

/// What a lock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading, as others may at the same time.
    Shared,
    /// Writing.
    Exclusive,
}

/// Locks of both families, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lock<'a> {
    file: &'a File,
}

/// The end of an operation's patience.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// That of an operation that begins now, which has to be done by `end`.
    pub(super) fn start(end: Option<Instant>) -> Self {
        let own = Instant::now() + LOCK_TIMEOUT;
        Self(end.map_or(own, |end| end.min(own)))
    }

    /// No patience.
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
}

impl<'a> Lock<'a> {
    /// Takes both locks, trying again until the deadline; `None` where others keep the
    /// file.
    ///
    /// # Errors
    ///
    /// [`PoolError::File`] where it cannot be locked at all.
    pub(super) fn take(
        file: &'a File,
        path: &Path,
        access: Access,
        deadline: Deadline,
    ) -> Result<Option<Self>, PoolError> {
        let mut pause = MIN_PAUSE;
        loop {
            match attempt(file, access) {
                Ok(()) => return Ok(Some(Self { file })),
                Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => {}
                Err(error) => return Err(PoolError::file("lock", path)(error.into())),
            }
            if deadline.is_over() {
                return Ok(None);
            }
            // Others wait inside the kernel and are woken there: a pause loses
            // the race against them, but never holds one lock while it waits
            // for the other.
            thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = record_lock(self.file, libc::F_UNLCK);
        let _ = flock(self.file, FlockOperation::Unlock);
    }
}

/// Takes both locks or none.
fn attempt(file: &File, access: Access) -> Result<(), Errno> {
    let (whole, record) = match access {
        Access::Shared => (FlockOperation::NonBlockingLockShared, libc::F_RDLCK),
        Access::Exclusive => (FlockOperation::NonBlockingLockExclusive, libc::F_WRLCK),
    };
    flock(file, whole)?;
    record_lock(file, record).inspect_err(|_| {
        let _ = flock(file, FlockOperation::Unlock);
    })
}

/// Locks every byte there is and will be, or unlocks them.
#[allow(clippy::cast_possible_truncation)] // Of constants between 0 and 2.
fn record_lock(file: &File, kind: i32) -> Result<(), Errno> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Errno::from_io_error(&io::Error::from(error)).unwrap_or(Errno::IO)),
    }
}
