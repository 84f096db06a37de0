//! Writing one record so that a program that is killed leaves it old or new.
//!
//! The kernel ends the write of a killed program between two pages, and every other
//! record lies on two. What is to be written to such a one goes into a journal beside
//! the pool first, which is renamed to its name when it is whole; whoever locks the pool
//! next and finds it writes it once more. Nothing is synced: after a power cut the value
//! that was being set may be lost, as it may be without a journal.

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

/// Bytes of the smallest page.
const PAGE: u64 = 4096;

/// The whole journal.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Redo {
    magic: [u8; 8],
    /// Of what follows.
    checksum: U32,
    reserved: U32,
    /// Of the pool, as in the other journal.
    inode: U64,
    born: U64,
    /// Where in the pool the record goes.
    offset: U64,
    record: RawRecord,
}

impl Redo {
    fn checksum(&self) -> u32 {
        let mut hasher = Hasher::new();
        for part in [self.inode, self.born, self.offset] {
            hasher.update(part.as_bytes());
        }
        hasher.update(self.record.as_bytes());
        hasher.finalize()
    }
}

/// Writes the record at `offset`, its first `skipped` bytes apart, which stand there. The
/// caller holds the exclusive lock.
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
    let written = |result: io::Result<()>| result.map_err(PoolError::file("write to", pool_path));
    if start / PAGE == (offset + RECORD_LEN - 1) / PAGE {
        return written(disk::write(pool, bytes, start));
    }
    write_journal(pool, path, offset, record).map_err(PoolError::file("write", path))?;
    // Room for all of it first: others append behind whatever is there.
    let result = extend(pool, offset + RECORD_LEN).and_then(|()| disk::write(pool, bytes, start));
    // Also where that failed: the caller is told so, and it is not to be done later.
    disk::remove(path).map_err(PoolError::file("remove", path))?;
    written(result)
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

/// Ends the write that a killed program began, if the journal is of such a one; says
/// whether it is. The caller holds the exclusive lock.
pub(super) fn recover(pool: &File, pool_path: &Path, path: &Path) -> Result<bool, PoolError> {
    let read = read(pool, path).map_err(PoolError::file("read", path))?;
    let Some(redo) = read else {
        return Ok(false);
    };
    disk::write(pool, redo.record.as_bytes(), redo.offset.get())
        .map_err(PoolError::file("end an interrupted change of", pool_path))?;
    disk::remove(path).map_err(PoolError::file("remove", path))?;
    Ok(true)
}

/// The journal, if it is what was written, for this pool, and the place in the pool is
/// still that of the record.
fn read(pool: &File, path: &Path) -> io::Result<Option<Redo>> {
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
        && offset.is_multiple_of(RECORD_LEN)
        && offset < MAX_SIZE
        && offset <= size.next_multiple_of(RECORD_LEN);
    if !fits {
        return Ok(None);
    }
    let mut there = RawRecord::ZERO;
    let len = usize::try_from(size.saturating_sub(offset).min(RECORD_LEN)).unwrap_or(0);
    let (begun, _) = there.as_mut_bytes().split_at_mut(len);
    pool.read_exact_at(begun, offset)?;
    // A new record of which nothing is there yet has no key.
    let same = there.key().is_empty() || there.key() == redo.record.key();
    Ok(same.then_some(redo))
}
