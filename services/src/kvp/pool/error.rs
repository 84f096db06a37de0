//! Why a pool cannot be read or changed.

use std::io;
use std::path::PathBuf;

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
    /// Another program did not give the file back in time.
    #[error(
        "{} has been locked by another program for {seconds} s; `lslocks` tells by which",
        path.display()
    )]
    Locked {
        /// Which file.
        path: PathBuf,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// What stands in the pool's place is no file of records.
    #[error("{} is no regular file; move it away", .0.display())]
    NotAFile(PathBuf),
    /// The file is far larger than any pool is.
    #[error("{} has {size} bytes, no more than {limit} are read; move it away", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A key without a character.
    #[error("the key is empty")]
    EmptyKey,
    /// A key that a record has no room for.
    #[error("a key of {len} bytes in UTF-8 is too long, a record has room for {limit}")]
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A value that a record has no room for.
    #[error("a value of {len} bytes in UTF-8 is too long, a record has room for {limit}")]
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A NUL, which would end the text in the file.
    #[error("the {0} has a NUL character in it")]
    Nul(&'static str),
}

impl PoolError {
    /// What makes a failed call on `path` one of these.
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
