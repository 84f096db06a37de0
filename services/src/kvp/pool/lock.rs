//! Locks a pool file with both families of locks.
//!
//! Some of the programs that share the pools take `flock`, others take POSIX record
//! locks, and neither conflicts with the other, so this takes both. The record lock
//! is an open file description lock: it conflicts with the classic ones but is not
//! lost when another descriptor of the file is closed.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::PoolError;
use crate::retry::retry_until;

/// Pauses between two attempts, the first and the longest.
const PAUSES: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_millis(1);

/// What a lock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading, which other readers may do at the same time.
    Shared,
    /// Writing.
    Exclusive,
}

/// Holds locks of both families until it is dropped.
#[derive(Debug)]
pub(super) struct Lock<'a> {
    file: &'a File,
}

impl<'a> Lock<'a> {
    /// Takes both locks, retrying until the deadline; returns `None` if another program
    /// still holds one then.
    ///
    /// # Errors
    ///
    /// [`PoolError::File`] if a lock call fails for another reason.
    pub(super) fn take(
        file: &'a File,
        path: &Path,
        access: Access,
        deadline: Instant,
    ) -> Result<Option<Self>, PoolError> {
        // Programs that wait inside the kernel get the lock first, but this
        // never holds one lock while it waits for the other.
        retry_until(deadline, PAUSES, || match attempt(file, access) {
            Ok(()) => Ok(Some(Self { file })),
            Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => Ok(None),
            Err(error) => Err(PoolError::file("lock", path)(error.into())),
        })
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

/// Locks or unlocks the whole file, however long it grows.
#[expect(clippy::cast_possible_truncation)] // Of constants between 0 and 2.
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
