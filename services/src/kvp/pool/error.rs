//! Why a pool cannot be read or changed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::trusted::Refusal;

/// Why a pool cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A system call on the file failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// The operation, in words that follow "cannot".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the call.
        source: io::Error,
    },
    /// Another program kept the file locked. Nothing was changed.
    #[error(
        "{} has been locked for {:.0} s by {holder}; nothing was read or changed",
        path.display(), waited.as_secs_f64()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long the operation waited.
        waited: Duration,
        /// The program that holds the lock, if it can be found out.
        holder: String,
    },
    /// Another program keeps replacing the file.
    #[error("{} keeps being replaced by another program", .0.display())]
    Changing(PathBuf),
    /// The request was cancelled. Nothing was changed, or the change was undone.
    #[error("the request timed out; {} is unchanged", .0.display())]
    Cancelled(PathBuf),
    /// A user other than root could have put the file there.
    #[error("refusing to use {} as a pool", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Refusal,
    },
    /// The path names something else than a regular file.
    #[error("{} is not a regular file; move it away", .0.display())]
    NotAFile(PathBuf),
    /// The file is far larger than any pool.
    #[error(
        "{} is too large: {size} bytes, at most {limit} are supported; move it away",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The key is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// The key does not fit a record.
    #[error("the key is too long: {len} bytes in UTF-8, at most {limit} fit a record")]
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The value does not fit a record.
    #[error("the value is too long: {len} bytes in UTF-8, at most {limit} fit a record")]
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The key or value contains a NUL, which would end it in the file.
    #[error("the {0} contains a NUL character")]
    Nul(&'static str),
}

impl PoolError {
    /// Returns a function that makes an error of a failed call on `path`.
    pub(super) fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }
}
