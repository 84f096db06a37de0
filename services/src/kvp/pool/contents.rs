//! Operations on the records of a locked pool file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::IntoBytes;

use super::error::PoolError;
use super::memory::{Memory, Records};
use super::record::{KEY_LEN, MAX_SIZE, RECORD_LEN, RawRecord, Record};
use super::redo::{self, Redo};
use super::stamp::Snapshot;
use super::{disk, journal};

/// Records per read: less than 32 KiB.
const CHUNK: usize = 12;

/// Size of the largest pool whose records are all read to keep them in memory: some 13,000.
const MAX_REMEMBERED: u64 = 32 << 20;

/// Describes a change so that it can be undone.
#[derive(Debug)]
pub(super) struct Change {
    /// The record that was written; `None` if records were deleted.
    written: Option<Box<RawRecord>>,
    /// The record with the old value, or those that were deleted.
    before: Vec<RawRecord>,
}

/// A locked pool file. An incomplete record at its end counts as one that is padded with
/// NULs.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    pub(super) journal: &'a Path,
    /// Size of the content; bytes after it are ignored.
    pub(super) size: u64,
    pub(super) snapshot: Snapshot,
    /// Where the records are kept for reading; `None` if these are not the file's alone.
    pub(super) memory: Option<&'a Memory>,
    /// A record that a killed program left in the journal; it is read as if it were in
    /// the file.
    pub(super) redo: Option<&'a Redo>,
}

impl Contents<'_> {
    /// Returns the record at this position; `None` past the end.
    pub(super) fn at(&self, number: u32) -> Result<Option<RawRecord>, PoolError> {
        let offset = u64::from(number) * RECORD_LEN;
        if offset >= self.size {
            return Ok(None);
        }
        let mut raw = RawRecord::ZERO;
        let len = self.read(raw.as_mut_bytes(), offset)?;
        Ok((len > 0).then_some(raw))
    }

    /// Answers from the records in memory, which this reads if they are not those of the file;
    /// `None` if they are too many, or if a later change could be missed.
    pub(super) fn recall<T>(
        &self,
        answer: impl FnOnce(&Records) -> T,
    ) -> Result<Option<T>, PoolError> {
        let Some(memory) = self.memory.filter(|_| self.snapshot.settled) else {
            return Ok(None);
        };
        let stamp = self.snapshot.stamp;
        if !memory.is_of(stamp) {
            let mut records = (self.size <= MAX_REMEMBERED).then(Records::default);
            if records.is_some() {
                self.each(|_, raw| records = records.take().and_then(|all| all.with(raw)))?;
            }
            memory.put(self.file, stamp, records);
        }
        Ok(memory.recall(self.path, self.journal, stamp, answer))
    }

    /// Finds the first record with this key.
    pub(super) fn find(&self, key: &[u8]) -> Result<Option<(u32, RawRecord)>, PoolError> {
        let mut found = None;
        self.each(|number, raw| {
            if found.is_none() && raw.key() == key {
                found = Some((number, *raw));
            }
        })?;
        Ok(found)
    }

    /// Returns all records in order.
    pub(super) fn list(&self) -> Result<Vec<Record>, PoolError> {
        let mut records = Vec::new();
        self.each(|_, raw| records.push(raw.decode()))?;
        Ok(records)
    }

    /// Sets the value of the first record with the key of `new`, or appends `new`.
    pub(super) fn set(&mut self, new: &RawRecord) -> Result<Change, PoolError> {
        let found = self.find(new.key())?;
        let change = Change {
            written: Some(Box::new(*new)),
            before: found.iter().map(|(_, raw)| *raw).collect(),
        };
        match found {
            Some((number, _)) => self.write_value(number, new)?,
            None => self.append(new)?,
        }
        Ok(change)
    }

    /// Undoes a change unless the same record was changed since. Deleted records are
    /// appended at the end.
    pub(super) fn undo(&mut self, change: &Change) -> Result<(), PoolError> {
        let Some(written) = &change.written else {
            if let Some(raw) = change.before.first() {
                if self.find(raw.key())?.is_none() {
                    for raw in &change.before {
                        self.append(raw)?;
                    }
                }
            }
            return Ok(());
        };
        let Some((number, now)) = self.find(written.key())? else {
            return Ok(());
        };
        if now.value_field() != written.value_field() {
            return Ok(());
        }
        match change.before.first() {
            Some(before) => self.write_value(number, before),
            None => self.delete(written.key()).map(drop),
        }
    }

    fn write_value(&self, number: u32, raw: &RawRecord) -> Result<(), PoolError> {
        let offset = u64::from(number) * RECORD_LEN;
        // Keeps the bytes of the key: other programs may have left anything after its NUL.
        let current = self.at(number)?.unwrap_or(RawRecord::ZERO);
        let record = current.with_value_of(raw);
        redo::write(self.file, self.path, self.journal, offset, &record, KEY_LEN)
    }

    fn append(&mut self, new: &RawRecord) -> Result<(), PoolError> {
        let end = self.size.next_multiple_of(RECORD_LEN);
        if end + RECORD_LEN > MAX_SIZE {
            return Err(PoolError::TooLarge {
                path: self.path.to_owned(),
                size: end + RECORD_LEN,
                limit: MAX_SIZE,
            });
        }
        // After an incomplete record, the file system fills the gap with zeros.
        redo::write(self.file, self.path, self.journal, end, new, 0).inspect_err(|_| {
            // A full disk may have taken a part of it.
            let _ = disk::resize(self.file, self.size);
        })?;
        self.size = end + RECORD_LEN;
        Ok(())
    }

    /// Deletes every record with this key; returns `None` if there was none.
    pub(super) fn delete(&mut self, key: &[u8]) -> Result<Option<Change>, PoolError> {
        let mut gaps = Vec::new();
        let mut before = Vec::new();
        self.each(|number, raw| {
            if raw.key() == key {
                gaps.push(u64::from(number) * RECORD_LEN);
                before.push(*raw);
            }
        })?;
        let Some(&offset) = gaps.first() else {
            return Ok(None);
        };
        let ends = gaps.iter().skip(1).copied().chain([self.size]);
        let kept: Vec<_> = gaps
            .iter()
            .zip(ends)
            .map(|(gap, end)| gap + RECORD_LEN..end)
            .filter(|range| !range.is_empty())
            .collect();
        if kept.is_empty() {
            disk::resize(self.file, offset).map_err(PoolError::file("truncate", self.path))?;
        } else {
            journal::rewrite(self.file, self.path, self.journal, offset, self.size, &kept)?;
        }
        let removed = before.len() as u64 * RECORD_LEN;
        self.size = self.size.saturating_sub(removed).max(offset);
        let written = None;
        Ok(Some(Change { written, before }))
    }

    /// Deletes all records.
    pub(super) fn clear(&mut self) -> Result<(), PoolError> {
        disk::resize(self.file, 0).map_err(PoolError::file("truncate", self.path))?;
        self.size = 0;
        Ok(())
    }

    /// Reads records at `offset`; returns the number of bytes.
    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<usize, PoolError> {
        let len = read(self.file, bytes, offset).map_err(PoolError::file("read", self.path))?;
        let end = self.redo.and_then(|redo| redo.apply(bytes, offset));
        Ok(end.map_or(len, |end| end.max(len)))
    }

    /// Calls `take` with the number of each record and the record, in order.
    fn each(&self, mut take: impl FnMut(u32, &RawRecord)) -> Result<(), PoolError> {
        let mut chunk = vec![RawRecord::ZERO; CHUNK];
        let mut numbers = 0..;
        let mut offset = 0;
        while offset < self.size {
            let bytes = chunk.as_mut_bytes();
            let left = usize::try_from(self.size - offset).unwrap_or(bytes.len());
            let (wanted, _) = bytes.split_at_mut(left.min(bytes.len()));
            let len = self.read(wanted, offset)?;
            let (_, rest) = bytes.split_at_mut(len);
            let last = !rest.is_empty();
            rest.fill(0);
            let records = len.div_ceil(size_of::<RawRecord>());
            for (raw, number) in chunk.iter().take(records).zip(&mut numbers) {
                take(number, raw);
            }
            if last {
                break;
            }
            offset += len as u64;
        }
        Ok(())
    }
}

/// Fills `bytes` up to the end of the file; returns the number of bytes.
fn read(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
