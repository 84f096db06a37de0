//! Where in a pool file a key is, and whether that is still true.

use std::collections::HashMap;
use std::fs::Metadata;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;

use rustix::time::{ClockId, clock_gettime};

/// A file's state, as far as it shows from outside: two that are equal mean the
/// same content only if the first was [`settled`](Self::settled).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A [`Stamp`], and whether every later change gives another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) stamp: Stamp,
    /// File systems take their time from a clock with ticks of several
    /// milliseconds, so two changes in one tick look the same. A change before
    /// the current tick is told from all that follow. So is one with a time
    /// that this clock has not reached yet: it was taken from the fine clock,
    /// as kernels from 6.13 on do for a change after a look at the file.
    pub(super) settled: bool,
}

impl Seen {
    /// Looks at a file through `stat`.
    pub(super) fn look<E>(
        stat: impl FnOnce() -> Result<Metadata, E>,
    ) -> Result<(Self, Metadata), E> {
        let before = coarse_clock();
        let metadata = stat()?;
        let after = coarse_clock();
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let stamp = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
        };
        let settled = changed < before || changed > after;
        Ok((Self { stamp, settled }, metadata))
    }
}

fn coarse_clock() -> (i64, i64) {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec)
}

/// The number of the first record with a key, by the key's hash: small, and
/// useless to a host that would like keys to collide.
#[derive(Debug, Default)]
pub(super) struct Index {
    first: HashMap<u64, u32>,
    hasher: RandomState,
}

impl Index {
    /// Notes that a record with this key is there, unless an earlier one is.
    pub(super) fn add(&mut self, key: &[u8], record: u32) {
        self.first
            .entry(self.hasher.hash_one(key))
            .or_insert(record);
    }

    /// The only record that can be the first with this key.
    pub(super) fn candidate(&self, key: &[u8]) -> Option<u32> {
        self.first.get(&self.hasher.hash_one(key)).copied()
    }
}
