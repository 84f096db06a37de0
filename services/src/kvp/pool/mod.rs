//! Pool files: records of a key and a value, shared with whoever else reads and
//! writes them. Protocol section 7.
//!
//! An operation goes to the pool's `file`, which is opened, locked (`lock`) and
//! made sure to be the one that the path names; a `journal` that a crash left
//! is taken to its end. What is then done with the `contents` uses an `index`
//! to find keys, reads and writes a `record`, and changes files through `disk`.
//! Nothing is kept of a value: what others wrote is seen by the next operation.
//!
//! Keys are compared byte by byte. A record whose key is no UTF-8 is listed, but
//! no text finds it, so nobody changes or removes it by mistake.

use std::path::Path;

pub use self::error::PoolError;
use self::file::PoolFile;
use self::record::Raw;
use super::request::PoolId;

mod contents;
#[cfg(test)]
mod crash;
mod disk;
mod error;
mod file;
mod index;
mod journal;
mod lock;
mod record;
#[cfg(test)]
mod tests;

/// Bytes of the largest file that is read: some 100,000 records.
const MAX_SIZE: u64 = 256 << 20;

/// A key and its value, as the host is told of them: bytes in the file that are
/// not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// The pools in one directory. A file that is missing reads as an empty pool,
/// and is made when something is written to it.
///
/// Each operation locks its file, for reading or for writing, and waits at most
/// 5 s for others that have it locked.
#[derive(Debug)]
pub struct Pools {
    files: [PoolFile; PoolId::ALL.len()],
}

impl Pools {
    /// The pools in this directory, which need not exist yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            files: PoolId::ALL.map(|pool| PoolFile::new(directory, &format!(".kvp_pool_{pool}"))),
        }
    }

    /// The value of the first record with this key.
    ///
    /// # Errors
    ///
    /// [`PoolError::File`], [`PoolError::Locked`], [`PoolError::NotAFile`] or
    /// [`PoolError::TooLarge`].
    pub fn get(&mut self, pool: PoolId, key: &str) -> Result<Option<String>, PoolError> {
        let found = self
            .file(pool)
            .read(|contents| contents.find(key.as_bytes()))?;
        Ok(found.flatten().map(|(_, raw)| raw.decode().value))
    }

    /// Gives the first record with this key a new value, or appends a record.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`]; of a key or value that does not fit, nothing is
    /// written.
    pub fn set(&mut self, pool: PoolId, key: &str, value: &str) -> Result<(), PoolError> {
        let new = Raw::new(key, value)?;
        self.file(pool)
            .change_or_make(|contents| contents.set(&new))
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
        let deleted = self
            .file(pool)
            .change(|contents| contents.delete(key.as_bytes()))?;
        Ok(deleted.unwrap_or(false))
    }

    /// The record at this position; `None` past the end.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn at(&mut self, pool: PoolId, index: u32) -> Result<Option<Record>, PoolError> {
        let found = self.file(pool).read(|contents| contents.at(index))?;
        Ok(found.flatten().map(|raw| raw.decode()))
    }

    /// Every record, in order, as they were at one moment.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub fn list(&mut self, pool: PoolId) -> Result<Vec<Record>, PoolError> {
        let records = self.file(pool).read(|contents| contents.list())?;
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
