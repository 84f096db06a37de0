//! Taking records out of the middle of a pool file so that a crash at any point
//! loses none of the others.
//!
//! The file is changed in place: others hold locks on it, and would go on
//! writing to one that was replaced. What is to follow the gap, the tail, goes
//! into a journal beside the pool first, synced and then renamed to its name:
//! it is whole or not there. Then
//!
//! 1. the tail is written to the pool, and zeros behind it up to the old end,
//! 2. the journal is marked [`CUT`],
//! 3. the pool is cut behind the tail,
//! 4. the journal is removed.
//!
//! Whoever locks the pool next and finds a journal begins again at its mark.
//! Meanwhile a program that knows of no journal may have appended records. Up
//! to the mark they stand behind the old end. After it they do, if zeros
//! precede them, which no record consists of, and otherwise the pool was cut
//! before.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use crc32fast::Hasher;
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disk;
use super::error::PoolError;
use super::record::{MAX_SIZE, RECORD_LEN};

const MAGIC: [u8; 8] = *b"KVPtail1";

/// The pool still has its old size.
const MOVE: u8 = 0;

/// Tail and zeros are in the pool; it was cut, or is about to be.
const CUT: u8 = 1;

/// Where the mark stands in the header.
const MARK: u64 = 8;

/// Bytes that are copied at a time.
const CHUNK: usize = 128 << 10;

/// What a journal begins with; the tail follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    mark: u8,
    reserved: [u8; 3],
    /// Of the tail and then this header without mark and checksum.
    checksum: U32,
    /// Of the pool, to tell it from one that was put in its place. The device
    /// would not do: its number may change when the machine starts again.
    inode: U64,
    /// When the pool was made, in nanoseconds: numbers of inodes are used
    /// again. 0 where the file system does not say.
    born: U64,
    /// Where in the pool the tail goes.
    offset: U64,
    /// The pool's old size.
    size: U64,
    /// Bytes of the tail.
    tail: U64,
}

const HEADER_LEN: u64 = size_of::<Header>() as u64;

const _: () = assert!(HEADER_LEN == 56);

impl Header {
    fn end(&self) -> u64 {
        self.offset.get().saturating_add(self.tail.get())
    }

    fn checksum(&self, mut tail: Hasher) -> u32 {
        let bare = Self {
            mark: 0,
            checksum: U32::ZERO,
            ..*self
        };
        tail.update(bare.as_bytes());
        tail.finalize()
    }
}

/// Makes the pool's bytes from `offset` on, up to its end at `size`, those of
/// the `kept` ranges. The caller holds the exclusive lock.
pub(super) fn rewrite(
    pool: &File,
    pool_path: &Path,
    path: &Path,
    offset: u64,
    size: u64,
    kept: &[Range<u64>],
) -> Result<(), PoolError> {
    let (file, header) =
        write(pool, path, offset, size, kept).map_err(PoolError::file("write", path))?;
    finish(pool, path, file, header).map_err(PoolError::file("change", pool_path))
}

/// Ends what a crash interrupted. A journal that does not fit the pool is
/// removed. The caller holds the exclusive lock.
pub(super) fn recover(pool: &File, pool_path: &Path, path: &Path) -> Result<(), PoolError> {
    match read(pool, path) {
        Ok(Some((file, header))) => finish(pool, path, file, header)
            .map_err(PoolError::file("end an interrupted change of", pool_path)),
        Ok(None) => disk::remove(path).map_err(PoolError::file("remove", path)),
        Err(error) => Err(PoolError::file("read", path)(error)),
    }
}

fn write(
    pool: &File,
    path: &Path,
    offset: u64,
    size: u64,
    kept: &[Range<u64>],
) -> io::Result<(File, Header)> {
    let new = path.with_extension("journal.new");
    let written = write_whole(pool, &new, offset, size, kept).and_then(|journal| {
        disk::rename(&new, path)?;
        sync_directory(path)?;
        Ok(journal)
    });
    if written.is_err() {
        let _ = disk::remove(&new);
    }
    written
}

fn write_whole(
    pool: &File,
    path: &Path,
    offset: u64,
    size: u64,
    kept: &[Range<u64>],
) -> io::Result<(File, Header)> {
    let file = disk::create(path, 0o600)?;
    let mut hasher = Hasher::new();
    let mut end = HEADER_LEN;
    for range in kept {
        each_chunk(pool, range.clone(), |bytes, _| {
            hasher.update(bytes);
            disk::write(&file, bytes, end)?;
            end += bytes.len() as u64;
            Ok(())
        })?;
    }
    let (inode, born) = identity(pool)?;
    let mut header = Header {
        magic: MAGIC,
        mark: MOVE,
        reserved: [0; 3],
        checksum: U32::ZERO,
        inode: inode.into(),
        born: born.into(),
        offset: offset.into(),
        size: size.into(),
        tail: (end - HEADER_LEN).into(),
    };
    header.checksum = header.checksum(hasher).into();
    disk::write(&file, header.as_bytes(), 0)?;
    file.sync_all()?;
    Ok((file, header))
}

/// Opens a journal; `None` of what can be none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    match opened {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        // A link is none of ours.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The journal, if it belongs to this pool and is what was written.
fn read(pool: &File, path: &Path) -> io::Result<Option<(File, Header)>> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    let len = file.metadata()?.len();
    let mut header = Header::new_zeroed();
    if len < HEADER_LEN {
        return Ok(None);
    }
    file.read_exact_at(header.as_mut_bytes(), 0)?;
    let (inode, born) = identity(pool)?;
    let fits = header.magic == MAGIC
        && header.mark <= CUT
        && (header.inode.get(), header.born.get()) == (inode, born)
        && header.offset.get() % RECORD_LEN == 0
        && header.end() < header.size.get()
        && header.size.get() <= MAX_SIZE
        && len - HEADER_LEN == header.tail.get()
        // Somebody else began the pool anew.
        && (header.mark == CUT || pool.metadata()?.len() >= header.size.get());
    if !fits {
        return Ok(None);
    }
    let mut hasher = Hasher::new();
    each_chunk(&file, HEADER_LEN..len, |bytes, _| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok((header.checksum(hasher) == header.checksum.get()).then_some((file, header)))
}

/// Takes the steps from the journal's mark on.
fn finish(pool: &File, path: &Path, mut file: File, mut header: Header) -> io::Result<()> {
    loop {
        let (end, size) = (header.end(), header.size.get());
        if header.mark == MOVE {
            let tail = HEADER_LEN..HEADER_LEN + header.tail.get();
            each_chunk(&file, tail, |bytes, at| {
                disk::write(pool, bytes, header.offset.get() + (at - HEADER_LEN))
            })?;
            each_chunk(pool, end..size, |bytes, at| {
                bytes.fill(0);
                disk::write(pool, bytes, at)
            })?;
            pool.sync_all()?;
            disk::write(&file, &[CUT], MARK)?;
            file.sync_all()?;
        }
        let now = pool.metadata()?.len();
        if now < size || !is_zero(pool, end..size)? {
            break;
        }
        if now == size {
            disk::resize(pool, end)?;
            break;
        }
        // Others appended: what they did moves down the same way.
        (file, header) = write(pool, path, end, now, std::slice::from_ref(&(size..now)))?;
    }
    pool.sync_all()?;
    disk::remove(path)?;
    // Otherwise a power cut could bring the journal back to a pool that was
    // changed since.
    sync_directory(path)
}

fn is_zero(pool: &File, range: Range<u64>) -> io::Result<bool> {
    let mut blank = true;
    each_chunk(pool, range, |bytes, _| {
        blank &= bytes.iter().all(|&byte| byte == 0);
        Ok(())
    })?;
    Ok(blank)
}

/// Reads a range of a file, part by part with where each begins.
fn each_chunk(
    file: &File,
    range: Range<u64>,
    mut take: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(CHUNK);
        let (bytes, _) = buffer.split_at_mut(left.min(CHUNK));
        file.read_exact_at(bytes, at)?;
        take(bytes, at)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// What tells a pool from one that is put in its place: its inode, and when it was made.
pub(super) fn identity(pool: &File) -> io::Result<(u64, u64)> {
    let metadata = pool.metadata()?;
    let born = metadata.created().ok();
    let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let born = born.and_then(|born| u64::try_from(born.as_nanos()).ok());
    Ok((metadata.ino(), born.unwrap_or(0)))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
