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
        let settled = is_settled(changed, before, after);
        Ok((Self { stamp, settled }, metadata))
    }
}

fn is_settled(changed: (i64, i64), before: (i64, i64), after: (i64, i64)) -> bool {
    changed < before || changed > after
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_current_tick_is_not_settled() {
        let tick = |number: i64| (1, number * 4_000_000);
        assert!(is_settled(tick(1), tick(2), tick(2)));
        assert!(!is_settled(tick(2), tick(2), tick(2)));
        // The tick ended while the file was looked at.
        assert!(!is_settled(tick(2), tick(2), tick(3)));
        assert!(!is_settled(tick(3), tick(2), tick(3)));
        let fine = (1, 4_000_000 * 2 + 17);
        assert!(is_settled(fine, tick(2), tick(2)));
        assert!(!is_settled(fine, tick(2), tick(3)));
        assert!(is_settled((0, 999_999_999), (1, 0), (1, 0)));
    }

    #[test]
    fn of_records_with_one_key_the_first_is_found() {
        let mut index = Index::default();
        index.add(b"a", 3);
        index.add(b"a", 5);
        assert_eq!(index.candidate(b"a"), Some(3));
        assert_eq!(index.candidate(b"b"), None);
    }
}
