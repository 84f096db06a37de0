//! Pool files: records of a key and a value, shared with whoever else reads and
//! writes them. Protocol section 7.

use std::io;
use std::path::{Path, PathBuf};

use super::request::PoolId;

/// A key and its value, as the host is told of them: bytes in the file that are
/// not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Why a pool cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A call on the file failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was to be done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The pools in one directory.
#[derive(Debug)]
pub struct Pools {
    directory: PathBuf,
}

impl Pools {
    /// The pools in this directory, which need not exist yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// The value of the first record with this key.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`].
    pub fn get(&mut self, pool: PoolId, key: &str) -> Result<Option<String>, PoolError> {
        let _ = (&self.directory, pool, key);
        Ok(None)
    }

    /// Gives the first record with this key a new value, or appends a record.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`].
    pub fn set(&mut self, pool: PoolId, key: &str, value: &str) -> Result<(), PoolError> {
        let _ = (pool, key, value);
        Ok(())
    }

    /// Removes every record with this key, and says whether there was one.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`].
    pub fn delete(&mut self, pool: PoolId, key: &str) -> Result<bool, PoolError> {
        let _ = (pool, key);
        Ok(false)
    }

    /// The record at this position; `None` past the end.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`].
    pub fn at(&mut self, pool: PoolId, index: u32) -> Result<Option<Record>, PoolError> {
        let _ = (pool, index);
        Ok(None)
    }

    /// Every record, in order.
    ///
    /// # Errors
    ///
    /// Any [`PoolError`].
    pub fn list(&mut self, pool: PoolId) -> Result<Vec<Record>, PoolError> {
        let _ = pool;
        Ok(Vec::new())
    }
}
