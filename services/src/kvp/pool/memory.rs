//! The records of a pool as they were last read, for a thread that must not wait.
//!
//! They are current while the path names the same file with the same stamp, and no journal
//! lies beside it. Whoever changes the file changes its stamp, with two exceptions: a store to
//! a mapping of the file may not, and a program that writes without a lock changes the stamp a
//! moment before the content. So the file is read again after [`MAX_AGE`]. The look at both paths uses nothing but the kernel's caches, and fails
//! where these do not suffice. A file system that other machines change is not trusted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, fstatfs, openat2, statx};
use rustix::io::Errno;

use super::record::{RawRecord, Record};
use super::stamp::Stamp;

/// Most bytes that the records of one pool take in memory.
const MAX_LEN: usize = 256 << 10;

/// How long records are kept: it limits the harm of a change that the stamp does not show.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The file systems that only this machine changes, and whose metadata can be read without
/// waiting: ext4 and its ancestors, XFS, Btrfs, F2FS, overlayfs. The kernel does not remember
/// that a name is missing in a tmpfs.
const LOCAL: [u32; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x794c_7630];

/// The records of one pool. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Memory(Arc<Mutex<Option<Image>>>);

/// The records of a file with this stamp.
#[derive(Debug)]
struct Image {
    path: PathBuf,
    journal: PathBuf,
    stamp: Stamp,
    /// When they were read.
    read: Instant,
    /// `None` if they take too much memory, or if the file system is none of [`LOCAL`].
    records: Option<Records>,
}

impl Memory {
    /// Returns the value of the first record with this key, or `None` if the pool must be read.
    /// Does not wait.
    pub(in super::super) fn value(&self, key: &str) -> Option<Option<String>> {
        self.current(|records| records.value(key.as_bytes()))
    }

    /// Returns the record at this position, or `None` if the pool must be read. Does not wait.
    pub(in super::super) fn at(&self, index: u32) -> Option<Option<Record>> {
        self.current(|records| records.at(index))
    }

    fn current<T>(&self, answer: impl FnOnce(&Records) -> T) -> Option<T> {
        let image = self.0.try_lock().ok()?;
        let image = image.as_ref()?;
        let records = image.records.as_ref()?;
        image.is_current().then(|| answer(records))
    }

    /// Forgets the records.
    pub(in super::super) fn forget(&self) {
        *self.lock() = None;
    }

    /// Whether these are the records of the file with this stamp, or none of it are kept.
    pub(super) fn is_of(&self, stamp: Stamp) -> bool {
        self.lock().as_ref().is_some_and(|image| image.is_of(stamp))
    }

    /// Answers from the records if they are those of the file with this stamp.
    pub(super) fn recall<T>(&self, stamp: Stamp, answer: impl FnOnce(&Records) -> T) -> Option<T> {
        let image = self.lock();
        let image = image.as_ref().filter(|image| image.is_of(stamp))?;
        image.records.as_ref().map(answer)
    }

    /// Keeps the records of a file, which is locked and has no journal.
    pub(super) fn put(
        &self,
        file: &File,
        path: &Path,
        journal: &Path,
        stamp: Stamp,
        records: Option<Records>,
    ) {
        let is_local = |_: &Records| {
            let kind = fstatfs(file).map(|stat| stat.f_type);
            kind.is_ok_and(|kind| LOCAL.iter().any(|&local| kind == local as _))
        };
        *self.lock() = Some(Image {
            path: path.to_owned(),
            journal: journal.to_owned(),
            stamp,
            read: Instant::now(),
            records: records.filter(is_local),
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Image>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Image {
    /// Whether they are those of the file with this stamp, as far as that shows.
    fn is_of(&self, stamp: Stamp) -> bool {
        self.stamp == stamp && self.read.elapsed() < MAX_AGE
    }

    /// Whether the path still names the file, it is unchanged, and nobody left a journal.
    /// `false` also if that cannot be told without waiting, as on kernels before 5.12.
    fn is_current(&self) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat =
            find(&self.path).and_then(|file| statx(file, c"", flags, StatxFlags::BASIC_STATS));
        stat.is_ok_and(|stat| self.is_of(Stamp::from(&stat)))
            && find(&self.journal).is_err_and(|error| error == Errno::NOENT)
    }
}

/// Finds a file without waiting: `EAGAIN` if the kernel's caches do not suffice.
fn find(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED)
}

/// Records in order, their fields without what follows a NUL.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Each key and each value, with a NUL after it.
    text: Vec<u8>,
    /// Where each key begins.
    starts: Vec<u32>,
}

impl Records {
    /// Adds a record at the end; returns `None` if they take too much memory then.
    pub(super) fn with(mut self, raw: &RawRecord) -> Option<Self> {
        self.starts.push(u32::try_from(self.text.len()).ok()?);
        for field in [raw.key(), raw.value()] {
            self.text.extend_from_slice(field);
            self.text.push(0);
        }
        let len = self.text.len() + size_of_val(self.starts.as_slice());
        (len <= MAX_LEN).then_some(self)
    }

    /// Returns the value of the first record with this key.
    pub(super) fn value(&self, key: &[u8]) -> Option<String> {
        if key.contains(&0) {
            return None;
        }
        let mut rest = self.starts.iter().map(|start| self.from(*start));
        let rest = rest.find_map(|rest| rest.strip_prefix(key)?.strip_prefix(&[0]))?;
        fields(rest).next()
    }

    /// Returns the record at this position; `None` past the end.
    pub(super) fn at(&self, index: u32) -> Option<Record> {
        let start = self.starts.get(usize::try_from(index).ok()?)?;
        let mut fields = fields(self.from(*start));
        let (key, value) = (fields.next()?, fields.next()?);
        Some(Record { key, value })
    }

    fn from(&self, start: u32) -> &[u8] {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        self.text.get(start..).unwrap_or_default()
    }
}

/// Decodes the fields, each of which ends with a NUL.
fn fields(text: &[u8]) -> impl Iterator<Item = String> {
    let fields = text.split(|&byte| byte == 0);
    fields.map(|field| String::from_utf8_lossy(field).into_owned())
}

#[cfg(test)]
pub(in super::super) mod testing {
    use super::find;

    /// A directory whose pools are answered from memory; `None` if there is none here.
    pub(in super::super::super) fn directory() -> Option<tempfile::TempDir> {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let missing = directory.path().join("missing");
        assert!(!missing.exists());
        if find(&missing).is_err_and(|error| error == rustix::io::Errno::NOENT) {
            return Some(directory);
        }
        hyperv_needs::skip("needs Linux 5.12, and a local file system at /var/tmp");
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pools;
    use super::*;
    use crate::kvp::request::PoolId;

    #[test]
    fn old_records_are_read_again() {
        let Some(directory) = testing::directory() else {
            return;
        };
        let all = PoolId::ALL.map(|_| Memory::default());
        let memory = &all[0];
        let mut pools = Pools::new(directory.path()).with_memory(&all);
        pools.set(PoolId::External, "k", "v").unwrap();
        for _ in 0..2 {
            let begun = Instant::now();
            while memory.value("k").is_none() {
                assert!(begun.elapsed() < MAX_AGE, "they are never in memory");
                pools.get(PoolId::External, "k").unwrap();
            }
            memory.lock().as_mut().unwrap().read -= MAX_AGE;
            assert_eq!(memory.value("k"), None);
            let stamp = pools.stamp(PoolId::External).unwrap();
            assert!(!memory.is_of(stamp));
        }
    }
}
