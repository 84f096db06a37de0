//! Room on the disk: asked for before it is used, and never the last of it.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::{Errno, retry_on_intr};

use super::error::Error;

/// What stays free unless the configuration says how much: a part of the file
/// system, and at most so many bytes.
const KEEP_FREE_PART: u64 = 20;
const KEEP_FREE_MOST: u64 = 1 << 30;

/// Bytes that are asked for at a time beyond what was announced.
const STEP: u64 = 1 << 20;

/// How much room a file has.
pub(super) enum Room {
    /// The file system has reserved so many bytes from the file's start.
    Reserved(u64),
    /// It reserves none; there was room for so many more bytes when it was looked
    /// at.
    Seen(u64),
}

/// A file that needs room, and what has to stay free.
pub(super) struct RoomFor<'a> {
    pub(super) file: BorrowedFd<'a>,
    /// For messages.
    pub(super) path: &'a Path,
    /// `None` for what is usual.
    pub(super) keep_free: Option<u64>,
}

impl Room {
    /// Room for an announced size.
    pub(super) fn announced(room_for: &RoomFor<'_>, size: u64) -> Result<Self, Error> {
        if size == 0 {
            return Ok(Self::Reserved(0));
        }
        // Asked for more than there is, some file systems hand out all they have
        // before they refuse, and for that moment nobody can write anything.
        room_for.look(size, size)?;
        match room_for.reserve(0, size)? {
            true => Ok(Self::Reserved(size)),
            false => Ok(Self::Seen(0)),
        }
    }

    /// Room for `len` bytes that end at `end` and are about to be written.
    pub(super) fn grow(&mut self, room_for: &RoomFor<'_>, end: u64, len: u64) -> Result<(), Error> {
        let more = match self {
            Self::Reserved(reserved) => end.saturating_sub(*reserved),
            Self::Seen(seen) if *seen >= len => {
                *seen -= len;
                return Ok(());
            }
            Self::Seen(_) => len,
        };
        if more == 0 {
            return Ok(());
        }
        let step = match room_for.look(STEP.max(more), end) {
            Ok(()) => STEP.max(more),
            Err(_) => room_for.look(more, end).map(|()| more)?,
        };
        match self {
            Self::Reserved(reserved) => {
                let until = reserved.saturating_add(step);
                *self = match room_for.reserve(*reserved, step)? {
                    true => Self::Reserved(until),
                    false => Self::Seen(step.saturating_sub(len)),
                };
            }
            Self::Seen(seen) => *seen = step.saturating_sub(len),
        }
        Ok(())
    }

    /// Bytes that are reserved from the file's start.
    pub(super) fn reserved(&self) -> u64 {
        match self {
            Self::Reserved(reserved) => *reserved,
            Self::Seen(_) => 0,
        }
    }
}

impl RoomFor<'_> {
    /// Makes sure that there is room for `more` bytes beside what stays free.
    /// `size` is the file's, for the message.
    pub(super) fn look(&self, more: u64, size: u64) -> Result<(), Error> {
        let Ok(fs) = fstatvfs(self.file) else {
            return Ok(());
        };
        // One that counts no blocks does not know.
        if fs.f_blocks == 0 {
            return Ok(());
        }
        // What is reserved for root is not among these.
        let available = fs.f_bavail.saturating_mul(fs.f_frsize);
        let all = fs.f_blocks.saturating_mul(fs.f_frsize);
        let usual = (all / KEEP_FREE_PART).min(KEEP_FREE_MOST);
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

    /// Reserves `len` bytes from `start`; `false` where the file system cannot.
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
