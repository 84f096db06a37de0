//! What a service is doing at the moment, for whoever asks from another thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Work that takes longer than a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A file comes from the host.
    Copying {
        /// Where it goes; the host's words.
        path: PathBuf,
        /// Bytes that were announced.
        size: u64,
    },
    /// Applications are brought to rest, and file systems frozen.
    Freezing,
    /// File systems are frozen, or applications at rest for a rehearsal.
    Frozen {
        /// How many.
        file_systems: usize,
        /// Where the first of them are mounted.
        mount_points: Vec<PathBuf>,
        /// Whether it is for a rehearsal.
        rehearsal: bool,
    },
    /// An interface gets an IP configuration.
    Configuring {
        /// The GUID of its VMBus device; the host's words.
        adapter: String,
    },
}

/// What a service is doing at the moment. The service says so, anybody may look.
#[derive(Debug, Default)]
pub struct Activity {
    current: Mutex<Option<(Work, SystemTime)>>,
    done: AtomicU64,
    waits_for: Mutex<Option<PathBuf>>,
}

/// What was seen of an [`Activity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What is being done.
    pub work: Work,
    /// Since when.
    pub since: SystemTime,
    /// How far it is; of a copy, the bytes from the file's start without a hole.
    pub done: u64,
    /// Where the file system is mounted that is waited for, once that takes long.
    pub waits_for: Option<PathBuf>,
}

impl Activity {
    /// Says that `work` has begun; it lasts until what is given back is dropped.
    /// A service does one thing at a time: what it did before is over.
    #[must_use = "dropped, it ends the work"]
    pub fn begin(self: &Arc<Self>, work: Work) -> Underway {
        let underway = Underway(Arc::clone(self));
        underway.becomes(work);
        underway
    }

    /// What is being done, if anything is.
    pub fn look(&self) -> Option<Seen> {
        let current = lock(&self.current);
        let (work, since) = current.clone()?;
        Some(Seen {
            work,
            since,
            done: self.done.load(Ordering::Relaxed),
            waits_for: lock(&self.waits_for).clone(),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work that is under way.
#[derive(Debug)]
pub struct Underway(Arc<Activity>);

impl Underway {
    /// Says that it has become other work.
    pub fn becomes(&self, work: Work) {
        self.0.done.store(0, Ordering::Relaxed);
        *lock(&self.0.waits_for) = None;
        *lock(&self.0.current) = Some((work, SystemTime::now()));
    }

    /// Says how far it is. It costs one store: a copy says so at each part.
    pub fn set_done(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// Says that it waits for the file system that is mounted there.
    pub fn waits_for(&self, mount_point: &Path) {
        *lock(&self.0.waits_for) = Some(mount_point.to_owned());
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        *lock(&self.0.current) = None;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frozen(file_systems: usize) -> Work {
        Work::Frozen {
            file_systems,
            mount_points: Vec::new(),
            rehearsal: false,
        }
    }

    #[test]
    fn work_shows_from_its_beginning_to_its_end() {
        let activity = Arc::new(Activity::default());
        assert_eq!(activity.look(), None);
        let before = SystemTime::now();
        let frozen = frozen(3);
        let underway = activity.begin(frozen.clone());
        underway.set_done(2);
        let seen = activity.look().unwrap();
        assert_eq!((seen.work, seen.done), (frozen, 2));
        assert!(seen.since >= before && seen.since <= SystemTime::now());
        drop(underway);
        assert_eq!(activity.look(), None);
    }

    #[test]
    fn new_work_has_nothing_done_and_waits_for_nothing() {
        let activity = Arc::new(Activity::default());
        let underway = activity.begin(frozen(1));
        underway.set_done(1);
        underway.becomes(frozen(2));
        assert_eq!(activity.look().unwrap().done, 0);
        underway.waits_for(Path::new("/x"));
        assert_eq!(activity.look().unwrap().waits_for, Some("/x".into()));
        underway.set_done(1);
        let _underway = activity.begin(Work::Freezing);
        let seen = activity.look().unwrap();
        assert_eq!((seen.work, seen.done), (Work::Freezing, 0));
        assert_eq!(seen.waits_for, None);
    }
}
