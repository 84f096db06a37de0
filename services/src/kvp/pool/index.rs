//! An index of the keys in a pool file, and whether it is still valid.

use std::fs::Metadata;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;

use rustix::time::{ClockId, clock_gettime};

/// The metadata that change with a file's content. Equal stamps mean equal content only
/// if the first was [`settled`](Snapshot::settled).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A [`Stamp`], and whether every later change results in another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshot {
    pub(super) stamp: Stamp,
    /// File systems take time stamps from a clock with ticks of several milliseconds, so
    /// two changes in one tick look the same. A change before the current tick differs
    /// from all later ones. So does one with a time that this clock has not reached yet:
    /// it is from the fine-grained clock, which kernels from 6.13 on use for a change
    /// after a stat.
    pub(super) settled: bool,
}

impl Snapshot {
    /// Takes a snapshot of the file that `stat` returns the metadata of.
    pub(super) fn take<E>(
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

/// Maps hashes of keys to records, with eight bytes per record. The hash is seeded, so
/// the host cannot make keys collide.
#[derive(Debug)]
pub(super) struct Index {
    /// Hash and number of each record, sorted once all are there.
    records: Vec<(u32, u32)>,
    hasher: RandomState,
}

impl Index {
    pub(super) fn with_capacity(records: usize) -> Self {
        Self {
            records: Vec::with_capacity(records),
            hasher: RandomState::new(),
        }
    }

    /// Adds a record at the end; the caller sorts after the last one.
    pub(super) fn push(&mut self, key: &[u8], record: u32) {
        let hash = self.hash(key);
        self.records.push((hash, record));
    }

    pub(super) fn sort(&mut self) {
        self.records.sort_unstable();
    }

    /// Inserts a record unless it is there already.
    pub(super) fn add(&mut self, key: &[u8], record: u32) {
        let entry = (self.hash(key), record);
        if let Err(place) = self.records.binary_search(&entry) {
            self.records.insert(place, entry);
        }
    }

    /// Returns the records that may have this key, in order. Hash collisions are rare.
    pub(super) fn candidates(&self, key: &[u8]) -> impl Iterator<Item = u32> {
        let hash = self.hash(key);
        let first = self.records.partition_point(|entry| entry.0 < hash);
        let records = self.records.iter().skip(first);
        records
            .take_while(move |entry| entry.0 == hash)
            .map(|entry| entry.1)
    }

    fn hash(&self, key: &[u8]) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
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
        // The tick ended during the stat.
        assert!(!is_settled(tick(2), tick(2), tick(3)));
        assert!(!is_settled(tick(3), tick(2), tick(3)));
        let fine = (1, 4_000_000 * 2 + 17);
        assert!(is_settled(fine, tick(2), tick(2)));
        assert!(!is_settled(fine, tick(2), tick(3)));
        assert!(is_settled((0, 999_999_999), (1, 0), (1, 0)));
    }

    #[test]
    fn records_of_a_key_are_found_in_order() {
        let mut index = Index::with_capacity(0);
        for (key, record) in [(b"a", 5), (b"b", 2), (b"a", 3)] {
            index.push(key, record);
        }
        index.sort();
        let found = |index: &Index, key| index.candidates(key).collect::<Vec<_>>();
        assert_eq!(found(&index, b"a"), [3, 5]);
        index.add(b"a", 4);
        index.add(b"a", 3);
        assert_eq!(found(&index, b"a"), [3, 4, 5]);
        assert_eq!(found(&index, b"b"), [2]);
        assert!(found(&index, b"c").is_empty());
    }
}
