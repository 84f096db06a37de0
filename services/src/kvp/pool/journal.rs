//! Removes records from the middle of a pool file such that a crash at any point loses
//! none of the others.
//!
//! The file is changed in place: programs that hold locks on it would continue to write
//! to a replaced one. The records that follow the gap, the tail, are written to a journal
//! beside the pool first, which is synced and then renamed into place, so that it is
//! complete or absent. Then
//!
//! 1. the tail is written to the pool, with zeros after it up to the old end,
//! 2. the journal is marked [`TRUNCATE`],
//! 3. the pool is truncated after the tail,
//! 4. the journal is removed.
//!
//! The next program that locks the pool and finds a journal continues at its mark.
//! Meanwhile a program that does not know the journal may have appended records. Before
//! the mark is set they follow the old end. Afterwards they do if zeros precede them, as
//! no record consists of zeros; otherwise the pool was truncated before.

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

/// The tail is yet to be written.
const MOVE: u8 = 0;

/// Tail and zeros are in the pool, which is yet to be truncated, or was already.
const TRUNCATE: u8 = 1;

/// Offset of the mark in the header.
const MARK: u64 = 8;

/// Bytes per copy.
const CHUNK: usize = 128 << 10;

/// The header of a journal; the tail follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    mark: u8,
    reserved: [u8; 3],
    /// Of the tail and this header, with mark and checksum zero.
    checksum: U32,
    /// Inode of the pool, to detect that it was replaced. The device is not used: its
    /// number may change at a reboot.
    inode: U64,
    /// When the pool was created, in nanoseconds, because inode numbers are reused. 0 if
    /// the file system does not tell.
    born: U64,
    /// Offset of the tail in the pool.
    offset: U64,
    /// Old size of the pool.
    size: U64,
    /// Size of the tail in bytes.
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

/// Replaces the pool's content from `offset` to its end at `size` with the `kept` ranges.
/// The caller holds the exclusive lock.
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

/// Completes what a crash interrupted. Removes a journal that does not belong to the
/// pool. The caller holds the exclusive lock.
pub(super) fn recover(pool: &File, pool_path: &Path, path: &Path) -> Result<(), PoolError> {
    let failed = PoolError::file("complete an interrupted change of", pool_path);
    match read(pool, path) {
        Ok(Some((file, header))) => finish(pool, path, file, header).map_err(failed),
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

/// Opens a journal; returns `None` if it is not a regular file.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    match opened {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        // A symbolic link.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the header; returns `None` if the journal is damaged or of another pool.
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
        && header.mark <= TRUNCATE
        && (header.inode.get(), header.born.get()) == (inode, born)
        && header.offset.get() % RECORD_LEN == 0
        && header.end() < header.size.get()
        && header.size.get() <= MAX_SIZE
        && len - HEADER_LEN == header.tail.get()
        // Otherwise another program truncated the pool.
        && (header.mark == TRUNCATE || pool.metadata()?.len() >= header.size.get());
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

/// Performs the steps from the journal's mark on.
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
            disk::write(&file, &[TRUNCATE], MARK)?;
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
        // Moves down what other programs appended in the same way.
        (file, header) = write(pool, path, end, now, std::slice::from_ref(&(size..now)))?;
    }
    pool.sync_all()?;
    disk::remove(path)?;
    // Otherwise the journal could reappear after a power cut, beside a pool that was
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

/// Calls `take` with each part of a range of a file and the part's offset.
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

/// Returns inode and time of creation of a pool, which identify it.
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
