//! Whether a pool file has changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Statx, StatxTimestamp, makedev};
use rustix::time::{ClockId, clock_gettime};

/// The metadata that change with the content of a file or directory. Equal stamps mean equal content only
/// if the first was [`settled`](Snapshot::settled).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl From<&Statx> for Stamp {
    fn from(stat: &Statx) -> Self {
        let time = |time: StatxTimestamp| (time.tv_sec, i64::from(time.tv_nsec));
        Self {
            device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
        }
    }
}

/// A [`Stamp`], and whether every later change results in another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshot {
    pub(super) stamp: Stamp,
    /// File systems take time stamps from a clock with ticks of several milliseconds, so
    /// two changes in one tick look the same. A change before the current tick differs
    /// from all later ones. One with a time that this clock has not reached yet is from the
    /// fine-grained clock, which kernels from 6.13 on use for a change after a stat: its
    /// content may not be written yet. If the time is much later, the clock was set back.
    pub(super) settled: bool,
}

impl Snapshot {
    /// Takes a snapshot of the file that `stat` returns the stamp of.
    pub(super) fn take<E>(stat: impl FnOnce() -> Result<Stamp, E>) -> Result<Self, E> {
        let before = coarse_clock();
        let stamp = stat()?;
        let after = coarse_clock();
        let settled = is_settled(stamp.changed, before, after);
        Ok(Self { stamp, settled })
    }
}

fn is_settled(changed: (i64, i64), before: (i64, i64), after: (i64, i64)) -> bool {
    // Some file systems record whole seconds: the tick ends with the second.
    let end = match changed {
        (seconds, 0) => (seconds + 1, 0),
        _ => changed,
    };
    end < before || changed > (after.0 + 1, after.1)
}

fn coarse_clock() -> (i64, i64) {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec)
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
        assert!(!is_settled(fine, tick(2), tick(2)));
        assert!(is_settled(fine, tick(3), tick(3)));
        assert!(is_settled((3, 0), tick(2), tick(2)));
        assert!(!is_settled(fine, tick(2), tick(3)));
        assert!(is_settled((0, 999_999_999), (1, 0), (1, 0)));
        assert!(!is_settled((1, 0), (1, 900_000_000), (1, 900_000_000)));
        assert!(is_settled((1, 0), (2, 1), (2, 1)));
    }
}
