//! Writes one record so that a program killed meanwhile leaves the old or the new one.
//!
//! The kernel ends the write of a killed program between two pages, and every other
//! record lies on two. Such a record is written to a redo journal beside the pool first,
//! which is renamed into place once it is complete. The next program that locks the pool
//! finds the journal and writes the record again. Nothing is synced: a power cut may
//! lose the value that was being set, as it may without a journal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crc32fast::Hasher;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disk;
use super::error::PoolError;
use super::journal;
use super::record::{MAX_SIZE, RECORD_LEN, RawRecord};

const MAGIC: [u8; 8] = *b"KVPset01";

/// Size of the smallest page in bytes.
const PAGE: u64 = 4096;

/// The whole journal.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Redo {
    magic: [u8; 8],
    /// Of the fields that follow.
    checksum: U32,
    reserved: U32,
    /// Identity of the pool, as in the other journal.
    inode: U64,
    born: U64,
    /// Offset of the record in the pool.
    offset: U64,
    record: RawRecord,
}

impl Redo {
    /// Returns the offset in the pool at which the record ends.
    pub(super) fn end(&self) -> u64 {
        self.offset.get() + RECORD_LEN
    }

    /// Replaces the record in `bytes`, which were read from the pool at `offset`; returns
    /// its end in them.
    pub(super) fn apply(&self, bytes: &mut [u8], offset: u64) -> Option<usize> {
        let start = usize::try_from(self.offset.get().checked_sub(offset)?).ok()?;
        let end = start.checked_add(size_of::<RawRecord>())?;
        bytes
            .get_mut(start..end)?
            .copy_from_slice(self.record.as_bytes());
        Some(end)
    }

    fn checksum(&self) -> u32 {
        let mut hasher = Hasher::new();
        for part in [self.inode, self.born, self.offset] {
            hasher.update(part.as_bytes());
        }
        hasher.update(self.record.as_bytes());
        hasher.finalize()
    }
}

/// Writes the record at `offset`, without its first `skipped` bytes, which are in the
/// file already. The caller holds the exclusive lock.
pub(super) fn write(
    pool: &File,
    pool_path: &Path,
    path: &Path,
    offset: u64,
    record: &RawRecord,
    skipped: usize,
) -> Result<(), PoolError> {
    let (_, bytes) = record
        .as_bytes()
        .split_at(skipped.min(size_of::<RawRecord>()));
    let start = offset + skipped as u64;
    let map = |result: io::Result<()>| result.map_err(PoolError::file("write to", pool_path));
    if start / PAGE == (offset + RECORD_LEN - 1) / PAGE {
        return map(disk::write(pool, bytes, start));
    }
    write_journal(pool, path, offset, record).map_err(PoolError::file("write", path))?;
    // Extends the file first: other programs append at its end.
    let result = extend(pool, offset + RECORD_LEN).and_then(|()| disk::write(pool, bytes, start));
    // Also after a failure: the caller sees the error, so nothing may redo it later.
    disk::remove(path).map_err(PoolError::file("remove", path))?;
    map(result)
}

fn extend(pool: &File, end: u64) -> io::Result<()> {
    match pool.metadata()?.len() < end {
        true => disk::resize(pool, end),
        false => Ok(()),
    }
}

fn write_journal(pool: &File, path: &Path, offset: u64, record: &RawRecord) -> io::Result<()> {
    let (inode, born) = journal::identity(pool)?;
    let mut redo = Redo {
        magic: MAGIC,
        checksum: U32::ZERO,
        reserved: U32::ZERO,
        inode: inode.into(),
        born: born.into(),
        offset: offset.into(),
        record: *record,
    };
    redo.checksum = redo.checksum().into();
    let new = path.with_extension("journal.new");
    let renamed = disk::create(&new, 0o600)
        .and_then(|file| disk::write(&file, redo.as_bytes(), 0))
        .and_then(|()| disk::rename(&new, path));
    if renamed.is_err() {
        let _ = disk::remove(&new);
    }
    renamed
}

/// Completes the write of a killed program. Returns whether the journal is a redo journal
/// of this pool. The caller holds the exclusive lock.
pub(super) fn recover(pool: &File, pool_path: &Path, path: &Path) -> Result<bool, PoolError> {
    let read = read(pool, path).map_err(PoolError::file("read", path))?;
    let Some(redo) = read else {
        return Ok(false);
    };
    let failed = PoolError::file("complete an interrupted change of", pool_path);
    disk::write(pool, redo.record.as_bytes(), redo.offset.get()).map_err(failed)?;
    disk::remove(path).map_err(PoolError::file("remove", path))?;
    Ok(true)
}

/// Reads the journal; returns `None` if it is damaged or of another pool, or if another
/// record has taken the place of its record.
pub(super) fn read(pool: &File, path: &Path) -> io::Result<Option<Redo>> {
    let Some(file) = journal::open(path)? else {
        return Ok(None);
    };
    let mut redo = Redo::new_zeroed();
    if file.metadata()?.len() != size_of::<Redo>() as u64 {
        return Ok(None);
    }
    file.read_exact_at(redo.as_mut_bytes(), 0)?;
    let offset = redo.offset.get();
    let size = pool.metadata()?.len();
    let fits = redo.magic == MAGIC
        && redo.checksum.get() == redo.checksum()
        && (redo.inode.get(), redo.born.get()) == journal::identity(pool)?
        && offset % RECORD_LEN == 0
        && offset < MAX_SIZE
        && offset <= size.next_multiple_of(RECORD_LEN);
    if !fits {
        return Ok(None);
    }
    let mut there = RawRecord::ZERO;
    let len = usize::try_from(size.saturating_sub(offset).min(RECORD_LEN)).unwrap_or(0);
    let (begun, _) = there.as_mut_bytes().split_at_mut(len);
    pool.read_exact_at(begun, offset)?;
    // The place of an appended record may be zeros yet.
    let same = there.key().is_empty() || there.key() == redo.record.key();
    Ok(same.then_some(redo))
}
