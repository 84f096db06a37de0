//! Pool files: records of a key and a value, shared with whoever else reads and
//! writes them. Protocol section 7.
//!
//! An operation goes to the pool's `file`, which is opened, locked (`lock`) and
//! made sure to be the one that the path names; a `journal` that a crash left
//! is taken to its end. What is then done with the `contents` uses an `index`
//! to find keys, reads a `record`, writes one with `redo` so that it is old or new
//! whenever the program is killed, and changes files through `disk`.
//! Nothing is kept of a value: what others wrote is seen by the next operation.
//!
//! Keys are compared byte by byte. A record whose key is no UTF-8 is listed, but
//! no text finds it, so nobody changes or removes it by mistake.

use std::path::Path;

use self::contents::{Change, Contents};
pub use self::error::PoolError;
use self::file::PoolFile;
use self::record::RawRecord;
pub use self::record::Record;
use super::cancel::CancelToken;
use super::request::PoolId;

mod contents;
#[cfg(test)]
mod crash;
mod disk;
mod error;
mod file;
mod holder;
mod index;
mod journal;
mod lock;
mod open;
mod record;
mod redo;
#[cfg(test)]
mod tests;

/// The pools in one directory. A file that is missing reads as an empty pool,
/// and is made when something is written to it.
///
/// Each operation locks its file, for reading or for writing, and waits at most
/// 5 s for others that have it locked. Then nothing is written; but what is in the
/// file is read without a lock, as anybody who may read the file may lock it.
#[derive(Debug)]
pub struct Pools {
    files: [PoolFile; PoolId::ALL.len()],
    /// The time of the request that operations are for.
    token: Option<CancelToken>,
    /// What the last of them changed.
    last_change: Option<(PoolId, Change)>,
}

impl Pools {
    /// The pools in this directory, which need not exist yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            files: PoolId::ALL.map(|pool| PoolFile::new(directory, &format!(".kvp_pool_{pool}"))),
            token: None,
            last_change: None,
        }
    }

    /// The same, whose files are to have these permission bits: those that are made,
    /// and those that are there when they are opened. `None` makes files with 0644
    /// and leaves the others as they are.
    #[must_use]
    pub fn with_mode(mut self, mode: Option<u32>) -> Self {
        if let Some(mode) = mode {
            self.files.iter_mut().for_each(|file| file.set_mode(mode));
        }
        self
    }

    /// Gives the files that are there the permission bits that they are to have. All
    /// are tried.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`] of a file that is not used or cannot be changed.
    pub fn apply_mode(&self) -> Result<(), PoolError> {
        let mut result = Ok(());
        for file in &self.files {
            result = result.and(file.apply_mode());
        }
        result
    }

    /// What the administrator should know of the operations since it was last asked for:
    /// which file others keep locked, and who.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.files
            .iter_mut()
            .filter_map(PoolFile::take_warning)
            .collect()
    }

    /// For operations of a request: what is changed after its end is changed back.
    pub(super) fn for_request(&mut self, token: &CancelToken) -> &mut Self {
        self.token = Some(token.clone());
        self.last_change = None;
        self
    }

    /// For operations that are of no request.
    pub(super) fn without_token(&mut self) -> &mut Self {
        self.token = None;
        self.last_change = None;
        self
    }

    /// Takes back what the last operation changed, where nobody has changed it since;
    /// says whether there was anything.
    pub(super) fn rollback(&mut self) -> Result<bool, PoolError> {
        self.token = None;
        let Some((pool, change)) = self.last_change.take() else {
            return Ok(false);
        };
        self.file(pool)
            .write(None, |contents| contents.undo(&change))?;
        Ok(true)
    }

    /// The value of the first record with this key.
    ///
    /// # Errors
    ///
    /// [`PoolError::File`], [`PoolError::Locked`], [`PoolError::Changing`],
    /// [`PoolError::Untrusted`], [`PoolError::NotAFile`] or [`PoolError::TooLarge`].
    pub fn get(&mut self, pool: PoolId, key: &str) -> Result<Option<String>, PoolError> {
        let token = self.token.clone();
        let found = self
            .file(pool)
            .read(token.as_ref(), |contents| contents.find(key.as_bytes()))?;
        Ok(found.flatten().map(|(_, raw)| raw.decode().value))
    }

    /// Gives the first record with this key a new value, or appends a record.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`]; of a key or value that does not fit, nothing is
    /// written.
    pub fn set(&mut self, pool: PoolId, key: &str, value: &str) -> Result<(), PoolError> {
        let new = RawRecord::new(key, value)?;
        let token = self.token.clone();
        let change = self
            .file(pool)
            .write_or_create(token.as_ref(), |contents| {
                let change = contents.set(&new)?;
                commit_or_undo(contents, &change, token.as_ref())?;
                Ok(change)
            })?;
        self.last_change = Some((pool, change));
        Ok(())
    }

    /// Removes every record with this key, and says whether there was one. The
    /// others keep their order.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get); [`PoolError::EmptyKey`], so that records whose
    /// key was lost stay.
    pub fn delete(&mut self, pool: PoolId, key: &str) -> Result<bool, PoolError> {
        if key.is_empty() {
            return Err(PoolError::EmptyKey);
        }
        let token = self.token.clone();
        let deleted = self.file(pool).write(token.as_ref(), |contents| {
            let change = contents.delete(key.as_bytes())?;
            if let Some(change) = &change {
                commit_or_undo(contents, change, token.as_ref())?;
            }
            Ok(change)
        })?;
        self.last_change = deleted.flatten().map(|change| (pool, change));
        Ok(self.last_change.is_some())
    }

    /// The record at this position; `None` past the end.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn at(&mut self, pool: PoolId, index: u32) -> Result<Option<Record>, PoolError> {
        let token = self.token.clone();
        let found = self
            .file(pool)
            .read(token.as_ref(), |contents| contents.at(index))?;
        Ok(found.flatten().map(|raw| raw.decode()))
    }

    /// Every record, in order, as they were at one moment.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn list(&mut self, pool: PoolId) -> Result<Vec<Record>, PoolError> {
        let token = self.token.clone();
        let records = self
            .file(pool)
            .read(token.as_ref(), |contents| contents.list())?;
        Ok(records.unwrap_or_default())
    }

    fn file(&mut self, pool: PoolId) -> &mut PoolFile {
        let [external, guest, auto, auto_external, auto_internal] = &mut self.files;
        match pool {
            PoolId::External => external,
            PoolId::Guest => guest,
            PoolId::Auto => auto,
            PoolId::AutoExternal => auto_external,
            PoolId::AutoInternal => auto_internal,
        }
    }
}

/// Settles that a change stays, or undoes it where nobody waits for it any more. The
/// file is still locked.
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
