//! Pool files: records of a key and a value, which other programs read and write too.
//! Protocol section 7.
//!
//! `file` opens and locks (`lock`) the pool's file, checks that the path still names it,
//! and completes what a crash interrupted. The operation then works on the `contents`:
//! `redo` writes one `record` such that a killed program leaves the old or the new one,
//! `journal` removes records. All changes go through `disk`. `memory` keeps the records of a
//! file as long as its `stamp` shows that nobody has changed it.
//!
//! Keys are compared byte by byte. A record whose key is not UTF-8 is listed, but no text
//! matches it, so nobody changes or deletes it by mistake.

use std::path::Path;

use self::contents::{Change, Contents};
pub use self::error::PoolError;
pub use self::file::Examined;
use self::file::PoolFile;
use self::lock::Access;
pub(super) use self::memory::Memory;
#[cfg(test)]
pub(super) use self::memory::testing;
use self::record::RawRecord;
pub use self::record::Record;
pub(super) use self::stamp::Stamp;
use super::cancel::CancelToken;
use super::request::PoolId;

mod contents;
#[cfg(test)]
mod crash;
mod disk;
mod error;
mod file;
mod holder;
mod journal;
mod lock;
mod memory;
mod open;
mod record;
mod redo;
mod stamp;
#[cfg(test)]
mod tests;

/// The pools in one directory. A missing file reads as an empty pool and is created by
/// the first write.
///
/// Each operation locks its file, and waits at most 5 s while other programs hold the
/// lock. After that a write fails, but a read continues without the lock, because
/// anybody who may read the file may lock it.
#[derive(Debug)]
pub struct Pools {
    files: [PoolFile; PoolId::ALL.len()],
    /// Cancels the request that the operations are for.
    token: Option<CancelToken>,
    /// What the last operation changed, for a rollback.
    last_change: Option<(PoolId, Change)>,
}

impl Pools {
    /// Uses the pools in this directory, which need not exist yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            files: PoolId::ALL.map(|pool| PoolFile::new(directory, &format!(".kvp_pool_{pool}"))),
            token: None,
            last_change: None,
        }
    }

    /// Sets the mode of the files: new ones are created with it, and existing ones get it
    /// when they are opened. `None` creates files with 0644 and leaves existing ones.
    #[must_use]
    pub fn with_mode(mut self, mode: Option<u32>) -> Self {
        self.files.iter_mut().for_each(|file| file.mode = mode);
        self
    }

    /// Keeps the records of each pool in these, by number, for others to read.
    #[must_use]
    pub(super) fn with_memory(mut self, memory: &[Memory; PoolId::ALL.len()]) -> Self {
        for (file, memory) in self.files.iter_mut().zip(memory) {
            file.memory = Some(memory.clone());
        }
        self
    }

    /// Returns whether any of the files exists, or cannot be looked for.
    pub fn exist(&self) -> bool {
        self.files.iter().any(PoolFile::exists)
    }

    /// Looks at the file of a pool, without its lock, and changes nothing. `None` if it does
    /// not exist.
    ///
    /// # Errors
    ///
    /// A [`PoolError`] that every operation would return.
    pub fn examine(&self, pool: PoolId) -> Result<Option<Examined>, PoolError> {
        let file = self.files.get(usize::from(pool.number()));
        file.map_or(Ok(None), PoolFile::examine)
    }

    /// Applies the configured mode to all files that exist.
    ///
    /// # Errors
    ///
    /// The first [`PoolError`], after trying every file.
    pub fn apply_mode(&self) -> Result<(), PoolError> {
        let results = self.files.each_ref().map(PoolFile::apply_mode);
        results.into_iter().collect()
    }

    /// Creates the directory and the files that are missing. What exists is not touched.
    ///
    /// # Errors
    ///
    /// The first [`PoolError`], after trying every file.
    pub fn create_missing(&self) -> Result<(), PoolError> {
        let results = self.files.each_ref().map(PoolFile::create_if_missing);
        results.into_iter().collect()
    }

    /// Takes the warnings for the administrator since the last call: which file another
    /// program keeps locked, and which program that is.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let files = self.files.iter_mut();
        files.filter_map(|file| file.warning.take()).collect()
    }

    /// Starts operations of a request; what they change after it is cancelled is undone.
    pub(super) fn for_request(&mut self, token: &CancelToken) -> &mut Self {
        let pools = self.without_token();
        pools.token = Some(token.clone());
        pools
    }

    /// Starts operations that do not belong to a request.
    pub(super) fn without_token(&mut self) -> &mut Self {
        self.token = None;
        self.last_change = None;
        self
    }

    /// Undoes what the last operation changed, unless another program changed it since.
    /// Returns whether there was a change.
    pub(super) fn rollback(&mut self) -> Result<bool, PoolError> {
        self.token = None;
        let Some((pool, change)) = self.last_change.take() else {
            return Ok(false);
        };
        let (file, _) = self.file(pool);
        file.with_lock(Access::Exclusive, None, |contents| contents.undo(&change))?;
        Ok(true)
    }

    /// Returns the value of the first record with this key.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`] about the file, not those about a key or value.
    pub fn get(&mut self, pool: PoolId, key: &str) -> Result<Option<String>, PoolError> {
        let (file, token) = self.file(pool);
        let found = file.with_lock(Access::Shared, token, |contents| {
            let key = key.as_bytes();
            match contents.recall(|records| records.value(key))? {
                Some(value) => Ok(value),
                None => Ok(contents.find(key)?.map(|(_, raw)| raw.decode().value)),
            }
        })?;
        Ok(found.flatten())
    }

    /// Sets the value of the first record with this key, or appends a record.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`]. A key or value that does not fit is never truncated.
    pub fn set(&mut self, pool: PoolId, key: &str, value: &str) -> Result<(), PoolError> {
        let new = RawRecord::new(key, value)?;
        let (file, token) = self.file(pool);
        let change = file.write_or_create(token, |contents| {
            let change = contents.set(&new)?;
            commit_or_undo(contents, &change, token)?;
            Ok(change)
        })?;
        self.last_change = Some((pool, change));
        Ok(())
    }

    /// Deletes every record with this key and returns whether there was one. The others
    /// keep their order.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get), and [`PoolError::EmptyKey`]: records that lost their key
    /// are kept.
    pub fn delete(&mut self, pool: PoolId, key: &str) -> Result<bool, PoolError> {
        if key.is_empty() {
            return Err(PoolError::EmptyKey);
        }
        let (file, token) = self.file(pool);
        let deleted = file.with_lock(Access::Exclusive, token, |contents| {
            let change = contents.delete(key.as_bytes())?;
            if let Some(change) = &change {
                commit_or_undo(contents, change, token)?;
            }
            Ok(change)
        })?;
        self.last_change = deleted.flatten().map(|change| (pool, change));
        Ok(self.last_change.is_some())
    }

    /// Deletes all records of a pool, those without a key included.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn clear(&mut self, pool: PoolId) -> Result<(), PoolError> {
        self.last_change = None;
        let (file, token) = self.file(pool);
        file.with_lock(Access::Exclusive, token, |contents| contents.clear())?;
        Ok(())
    }

    /// Returns the record at this position; `None` past the end.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn at(&mut self, pool: PoolId, index: u32) -> Result<Option<Record>, PoolError> {
        let (file, token) = self.file(pool);
        let found = file.with_lock(Access::Shared, token, |contents| {
            match contents.recall(|records| records.at(index))? {
                Some(record) => Ok(record),
                None => Ok(contents.at(index)?.map(|raw| raw.decode())),
            }
        })?;
        Ok(found.flatten())
    }

    /// Returns all records in order, a consistent snapshot.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn list(&mut self, pool: PoolId) -> Result<Vec<Record>, PoolError> {
        let (file, token) = self.file(pool);
        let records = file.with_lock(Access::Shared, token, |contents| contents.list())?;
        Ok(records.unwrap_or_default())
    }

    /// Returns what changes with the content of a pool; `None` without a file.
    pub(super) fn stamp(&self, pool: PoolId) -> Option<Stamp> {
        self.files.get(usize::from(pool.number()))?.stamp()
    }

    /// Returns the file of the pool, and the token of the request.
    fn file(&mut self, pool: PoolId) -> (&mut PoolFile, Option<&CancelToken>) {
        let [external, guest, auto, auto_external, auto_internal] = &mut self.files;
        let file = match pool {
            PoolId::External => external,
            PoolId::Guest => guest,
            PoolId::Auto => auto,
            PoolId::AutoExternal => auto_external,
            PoolId::AutoInternal => auto_internal,
        };
        (file, self.token.as_ref())
    }
}

/// Commits the change, or undoes it if the request was cancelled. The file is still
/// locked.
fn commit_or_undo(
    contents: &mut Contents<'_>,
    change: &Change,
    token: Option<&CancelToken>,
) -> Result<(), PoolError> {
    if token.is_none_or(CancelToken::commit) {
        return Ok(());
    }
    contents.undo(change)?;
    Err(PoolError::Cancelled(contents.path.to_owned()))
}
