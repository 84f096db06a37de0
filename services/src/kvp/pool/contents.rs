//! Operations on the records of a locked pool file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::IntoBytes;

use super::error::PoolError;
use super::index::{Index, Snapshot};
use super::record::{KEY_LEN, MAX_SIZE, RECORD_LEN, RawRecord, Record};
use super::redo::{self, Redo};
use super::{disk, journal};

/// Records per read: less than 32 KiB.
const CHUNK: usize = 12;

/// An index, and the state of the file that it was built from.
#[derive(Debug)]
pub(super) struct CachedIndex {
    snapshot: Snapshot,
    index: Index,
}

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
    /// The index that an earlier operation built.
    pub(super) index: &'a mut Option<CachedIndex>,
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

    /// Finds the first record with this key.
    pub(super) fn find(&mut self, key: &[u8]) -> Result<Option<(u32, RawRecord)>, PoolError> {
        if let Some(CachedIndex { snapshot, index }) = &*self.index {
            if snapshot.settled && snapshot.stamp == self.snapshot.stamp {
                for number in index.candidates(key) {
                    if let Some(raw) = self.at(number)?.filter(|raw| raw.key() == key) {
                        return Ok(Some((number, raw)));
                    }
                }
                return Ok(None);
            }
        }
        // Frees the outdated index before building another.
        *self.index = None;
        let records = self.size.div_ceil(RECORD_LEN);
        let mut index = Index::with_capacity(usize::try_from(records).unwrap_or_default());
        let mut found = None;
        self.each(|number, raw| {
            index.push(raw.key(), number);
            if found.is_none() && raw.key() == key {
                found = Some((number, *raw));
            }
        })?;
        index.sort();
        let snapshot = self.snapshot;
        *self.index = Some(CachedIndex { snapshot, index });
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
        // There is no index until the write succeeded.
        let indexed = self.index.take();
        let number = match found {
            Some((number, _)) => {
                self.write_value(number, new)?;
                number
            }
            None => self.append(new)?,
        };
        if let Some(CachedIndex { mut index, .. }) = indexed {
            // Nobody else writes while this holds the lock, so the index fits the
            // file as it is now.
            index.add(new.key(), number);
            let (snapshot, _) = Snapshot::take(|| self.file.metadata())
                .map_err(PoolError::file("stat", self.path))?;
            *self.index = Some(CachedIndex { snapshot, index });
        }
        Ok(change)
    }

    /// Undoes a change unless the same record was changed since. Deleted records are
    /// appended at the end.
    pub(super) fn undo(&mut self, change: &Change) -> Result<(), PoolError> {
        let Some(written) = &change.written else {
            if let Some(raw) = change.before.first() {
                if self.find(raw.key())?.is_none() {
                    *self.index = None;
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

    fn append(&mut self, new: &RawRecord) -> Result<u32, PoolError> {
        let end = self.size.next_multiple_of(RECORD_LEN);
        let number = u32::try_from(end / RECORD_LEN).ok();
        let Some(number) = number.filter(|_| end + RECORD_LEN <= MAX_SIZE) else {
            return Err(PoolError::TooLarge {
                path: self.path.to_owned(),
                size: end + RECORD_LEN,
                limit: MAX_SIZE,
            });
        };
        // After an incomplete record, the file system fills the gap with zeros.
        redo::write(self.file, self.path, self.journal, end, new, 0).inspect_err(|_| {
            // A full disk may have taken a part of it.
            let _ = disk::resize(self.file, self.size);
        })?;
        self.size = end + RECORD_LEN;
        Ok(number)
    }

    /// Deletes every record with this key; returns `None` if there was none.
    pub(super) fn delete(&mut self, key: &[u8]) -> Result<Option<Change>, PoolError> {
        if self.find(key)?.is_none() {
            return Ok(None);
        }
        *self.index = None;
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
        *self.index = None;
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_index_is_used_only_if_no_change_can_have_been_missed() {
        let mut file = tempfile::tempfile().unwrap();
        let raw = RawRecord::new("key", "value").unwrap();
        file.write_all(raw.as_bytes()).unwrap();
        let (now, _) = Snapshot::take(|| file.metadata()).unwrap();
        for (settled, found) in [(true, false), (false, true)] {
            // An empty index with the stamp of this file.
            let snapshot = Snapshot { settled, ..now };
            let index = Index::with_capacity(0);
            let mut contents = Contents {
                file: &file,
                path: Path::new("pool"),
                journal: Path::new("journal"),
                size: RECORD_LEN,
                snapshot: now,
                index: &mut Some(CachedIndex { snapshot, index }),
                redo: None,
            };
            assert_eq!(contents.find(b"key").unwrap().is_some(), found);
        }
    }
}
