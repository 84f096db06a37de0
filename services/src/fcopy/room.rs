//! Reserves disk space before it is used, and keeps some free.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::{Errno, retry_on_intr};

use super::error::Error;

/// The default of `keep-free`: this fraction of the file system, but at most so many bytes.
const KEEP_FREE_FRACTION: u64 = 20;
const KEEP_FREE_MAX: u64 = 1 << 30;

/// Bytes that are reserved at a time beyond the announced size.
const STEP: u64 = 1 << 20;

/// The disk space of a file.
pub(super) enum Room {
    /// The file system has reserved this many bytes from the file's start.
    Reserved(u64),
    /// The file system cannot reserve space; it had space for this many more bytes at the
    /// last check.
    Checked(u64),
}

/// A file that needs space, and how much stays free.
pub(super) struct RoomFor<'a> {
    pub(super) file: BorrowedFd<'a>,
    /// For messages.
    pub(super) path: &'a Path,
    /// `None` for the default.
    pub(super) keep_free: Option<u64>,
}

impl Room {
    /// Reserves the announced size.
    pub(super) fn announced(room_for: &RoomFor<'_>, size: u64) -> Result<Self, Error> {
        if size == 0 {
            return Ok(Self::Reserved(0));
        }
        // Some file systems allocate all free space before they refuse a request for more,
        // and for that moment nobody can write.
        room_for.check(size, size)?;
        match room_for.reserve(0, size)? {
            true => Ok(Self::Reserved(size)),
            false => Ok(Self::Checked(0)),
        }
    }

    /// Ensures space for `len` bytes up to `end` that are about to be written.
    pub(super) fn grow(&mut self, room_for: &RoomFor<'_>, end: u64, len: u64) -> Result<(), Error> {
        let more = match self {
            Self::Reserved(reserved) => end.saturating_sub(*reserved),
            Self::Checked(seen) if *seen >= len => {
                *seen -= len;
                return Ok(());
            }
            Self::Checked(_) => len,
        };
        if more == 0 {
            return Ok(());
        }
        let step = match room_for.check(STEP.max(more), end) {
            Ok(()) => STEP.max(more),
            Err(_) => room_for.check(more, end).map(|()| more)?,
        };
        match self {
            Self::Reserved(reserved) => {
                let until = reserved.saturating_add(step);
                *self = match room_for.reserve(*reserved, step)? {
                    true => Self::Reserved(until),
                    false => Self::Checked(step.saturating_sub(len)),
                };
            }
            Self::Checked(seen) => *seen = step.saturating_sub(len),
        }
        Ok(())
    }

    /// Number of bytes reserved from the file's start.
    pub(super) fn reserved(&self) -> u64 {
        match self {
            Self::Reserved(reserved) => *reserved,
            Self::Checked(_) => 0,
        }
    }
}

impl RoomFor<'_> {
    /// Checks that `more` bytes leave enough free. `size` is the file's, for the message.
    pub(super) fn check(&self, more: u64, size: u64) -> Result<(), Error> {
        let Ok(fs) = fstatvfs(self.file) else {
            return Ok(());
        };
        // A file system that reports no blocks does not know.
        if fs.f_blocks == 0 {
            return Ok(());
        }
        // Blocks reserved for root do not count.
        let available = fs.f_bavail.saturating_mul(fs.f_frsize);
        let all = fs.f_blocks.saturating_mul(fs.f_frsize);
        let usual = (all / KEEP_FREE_FRACTION).min(KEEP_FREE_MAX);
        let keep_free = self.keep_free.unwrap_or(usual);
        if available < more.saturating_add(keep_free) {
            return Err(Error::KeepFree {
                path: self.path.to_owned(),
                size,
                available,
                keep_free,
            });
        }
        Ok(())
    }

    /// Reserves `len` bytes from `start`; `false` if the file system cannot.
    fn reserve(&self, start: u64, len: u64) -> Result<bool, Error> {
        let reserved = || fallocate(self.file, FallocateFlags::KEEP_SIZE, start, len);
        match retry_on_intr(reserved) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(source @ (Errno::NOSPC | Errno::DQUOT)) => Err(Error::NoRoom {
                path: self.path.to_owned(),
                size: start.saturating_add(len),
                source,
            }),
            Err(source) => Err(Error::File {
                doing: "reserve space for",
                path: self.path.to_owned(),
                source,
            }),
        }
    }
}
