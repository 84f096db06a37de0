//! Why a pool cannot be read or changed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::trusted::Refusal;

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
    /// Another program did not give the file back in time. Nothing was changed.
    #[error(
        "{} has been locked for {:.0} s by {holder}; nothing was read or changed",
        path.display(), waited.as_secs_f64()
    )]
    Locked {
        /// Which file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
        /// By whom, as far as that can be told.
        holder: String,
    },
    /// Others put one file after another in its place.
    #[error("{} is replaced again and again, and was not read", .0.display())]
    Changing(PathBuf),
    /// The request's time was over before this was done. Nothing was changed, or it was
    /// changed back.
    #[error("the time for changing {} was over; it is as before", .0.display())]
    Cancelled(PathBuf),
    /// Others could have put there what stands in the pool's place.
    #[error("{} is not used as a pool", path.display())]
    Untrusted {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Refusal,
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
