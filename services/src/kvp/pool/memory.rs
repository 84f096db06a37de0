//! The records of a pool as they were last read, for a thread that must not wait.
//!
//! They are current while the stamps of the file and of its directory are the same: a change of
//! the content shows in the file's, also if it is made under another name. A file put in its
//! place and a journal beside it show in the directory's. So a look takes two system calls on
//! open descriptors, which use nothing but the kernel's memory. It does not show
//!
//! - that the path leads elsewhere, as after a mount, if the directory itself was not touched,
//! - a store to a mapping of the file, which may leave its stamp as it is,
//! - what a program writes without a lock a moment after the change of the stamp.
//!
//! So the file is looked up and read again after [`MAX_AGE`]. A file system that other machines
//! change is not trusted.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstatfs, open, statx};

use super::record::{RawRecord, Record};
use super::stamp::{Snapshot, Stamp};

/// Most bytes that the records of one pool take in memory.
const MAX_LEN: usize = 256 << 10;

/// How long records are kept: it limits the harm of a change that the stamps do not show.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The file systems that only this machine changes, and whose metadata are read without
/// waiting: ext4 and its ancestors, XFS, Btrfs, F2FS, overlayfs, tmpfs. In all of them, a
/// directory's times change with its entries and when it is renamed.
const LOCAL: [u32; 6] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x794c_7630,
    0x0102_1994,
];

/// The records of one pool. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Memory(Arc<Mutex<Option<Image>>>);

/// The records of a file with this stamp.
#[derive(Debug)]
struct Image {
    stamp: Stamp,
    /// When they were read.
    read: Instant,
    /// `None` if they take too much memory, or if the file system is none of [`LOCAL`].
    records: Option<Records>,
    /// `None` if only who holds the lock can tell that they are current.
    place: Option<Place>,
}

/// Where the file is.
#[derive(Debug)]
struct Place {
    file: OwnedFd,
    directory: OwnedFd,
    /// The stamp of the directory at a time when it had the file and no journal.
    stamp: Stamp,
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

    /// Answers from the records if they are those of the file with this stamp, which is locked.
    /// From now on they are current while nobody changes the file or its directory.
    pub(super) fn recall<T>(
        &self,
        path: &Path,
        journal: &Path,
        stamp: Stamp,
        answer: impl FnOnce(&Records) -> T,
    ) -> Option<T> {
        let mut image = self.lock();
        let image = image.as_mut().filter(|image| image.is_of(stamp))?;
        if image.records.is_some() && !image.is_current() {
            image.place = Place::find(path, journal, stamp).unwrap_or(None);
        }
        image.records.as_ref().map(answer)
    }

    /// Keeps the records of a file, which is locked.
    pub(super) fn put(&self, file: &File, stamp: Stamp, records: Option<Records>) {
        let is_local = |_: &Records| {
            let kind = fstatfs(file).map(|stat| stat.f_type);
            kind.is_ok_and(|kind| LOCAL.iter().any(|&local| kind == local as _))
        };
        *self.lock() = Some(Image {
            stamp,
            read: Instant::now(),
            records: records.filter(is_local),
            place: None,
        });
    }

    /// Makes the records too old.
    #[cfg(test)]
    pub(super) fn age(&self) {
        self.lock().as_mut().unwrap().read -= MAX_AGE;
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

    /// Whether nobody has changed the file or its directory, as far as that shows.
    fn is_current(&self) -> bool {
        self.place.as_ref().is_some_and(|place| {
            stamp(&place.file).is_ok_and(|stamp| self.is_of(stamp))
                && stamp(&place.directory).is_ok_and(|stamp| stamp == place.stamp)
        })
    }
}

impl Place {
    /// Finds the file with this stamp. `None` if the path leads to another one or is a link,
    /// there is a journal, or a later change of the directory might not show in its stamp.
    fn find(path: &Path, journal: &Path, of: Stamp) -> io::Result<Option<Self>> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let directory = open(parent, flags | OFlags::DIRECTORY, Mode::empty())?;
        let taken = Snapshot::take(|| stamp(&directory))?;
        // A change may show in the stamp a moment before it shows here. Reading the directory
        // waits until it does.
        fs::read_dir(parent)?.next();
        let file = open(path, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let is_there = taken.settled && stamp(&file)? == of && !journal.try_exists()?;
        Ok(is_there.then_some(Self {
            file,
            directory,
            stamp: taken.stamp,
        }))
    }
}

/// Returns the stamp of an open file, without waiting.
fn stamp(file: &OwnedFd) -> io::Result<Stamp> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::BASIC_STATS)?;
    Ok(Stamp::from(&stat))
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
    use super::{LOCAL, fstatfs};

    /// Directories whose pools are answered from memory, on a disk and on a tmpfs.
    pub(in super::super::super) fn directories() -> Vec<tempfile::TempDir> {
        let made = ["/var/tmp", "/dev/shm"].map(|parent| tempfile::tempdir_in(parent).ok());
        let is_local = |directory: &tempfile::TempDir| {
            let kind = fstatfs(std::fs::File::open(directory).unwrap())
                .unwrap()
                .f_type;
            LOCAL.iter().any(|&local| kind == local as _)
        };
        made.into_iter().flatten().filter(is_local).collect()
    }

    /// Such a directory; `None` if there is none here.
    pub(in super::super::super) fn directory() -> Option<tempfile::TempDir> {
        let directory = directories().pop();
        if directory.is_none() {
            hyperv_needs::skip("needs a local file system at /var/tmp or /dev/shm");
        }
        directory
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
            memory.age();
            assert_eq!(memory.value("k"), None);
            let stamp = pools.stamp(PoolId::External).unwrap();
            assert!(!memory.is_of(stamp));
        }
    }
}
