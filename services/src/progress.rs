//! What a service does at the moment, published for other threads.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock;

/// An operation that outlasts a single request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Operation {
    /// The host copies a file into the guest.
    Copying {
        /// Destination of the copy, chosen by the host.
        path: String,
        /// Bytes of the file up to the first hole.
        done: u64,
        /// Size in bytes, as the host announced it.
        size: u64,
    },
    /// Hooks run with `freeze` and file systems are being frozen.
    Freezing,
    /// File systems are frozen, or applications are quiesced for a rehearsal.
    Frozen {
        /// Number of frozen file systems.
        file_systems: usize,
        /// Mount points of the first of them.
        mount_points: Vec<String>,
        /// Whether this is a rehearsal.
        rehearsal: bool,
    },
    /// An IP configuration is being applied to an interface.
    Configuring {
        /// GUID of the VMBus device of the interface, as the host sent it.
        adapter: String,
    },
}

/// The shared cell in which a service publishes its current operation. The service
/// writes it; any thread may take a [`Snapshot`].
#[derive(Debug, Default)]
pub struct Progress {
    current: Mutex<Option<Snapshot>>,
    done: AtomicU64,
}

/// A [`Progress`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the operation began.
    #[serde(with = "clock::rfc3339")]
    pub since: SystemTime,
    /// The operation.
    #[serde(flatten)]
    pub operation: Operation,
    /// Mount point of the file system that the operation waits for, once it waits long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

impl Progress {
    /// Begins an operation, which lasts until the returned guard is dropped. A service
    /// has one operation at a time: a new one replaces the one before.
    #[must_use = "dropping the guard ends the operation"]
    pub fn begin(self: &Arc<Self>, operation: Operation) -> OperationGuard {
        let guard = OperationGuard(Arc::clone(self));
        guard.change_to(operation);
        guard
    }

    /// Returns the current operation, if there is one.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let mut snapshot = self.lock().clone()?;
        if let Operation::Copying { done, .. } = &mut snapshot.operation {
            *done = self.done.load(Ordering::Relaxed);
        }
        Some(snapshot)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends its operation when dropped.
#[derive(Debug)]
pub struct OperationGuard(Arc<Progress>);

impl OperationGuard {
    /// Replaces the operation by the one that follows it.
    pub fn change_to(&self, operation: Operation) {
        self.0.done.store(0, Ordering::Relaxed);
        *self.0.lock() = Some(Snapshot {
            since: SystemTime::now(),
            operation,
            waits_for: None,
        });
    }

    /// Sets how much of a copy is done. This costs one store: it is called for each
    /// fragment.
    pub fn set_done(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// Sets the mount point of the file system that the operation waits for.
    pub fn set_waits_for(&self, mount_point: &Path) {
        if let Some(current) = &mut *self.0.lock() {
            current.waits_for = Some(mount_point.display().to_string());
        }
    }
}

impl Drop for OperationGuard {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copying(done: u64) -> Operation {
        Operation::Copying {
            path: "/file".to_owned(),
            done,
            size: 9,
        }
    }

    #[test]
    fn an_operation_shows_until_its_guard_is_dropped() {
        let progress = Arc::new(Progress::default());
        assert_eq!(progress.snapshot(), None);
        let before = SystemTime::now();
        let guard = progress.begin(copying(0));
        guard.set_done(2);
        let snapshot = progress.snapshot().unwrap();
        assert_eq!(snapshot.operation, copying(2));
        assert!(snapshot.since >= before && snapshot.since <= SystemTime::now());
        drop(guard);
        assert_eq!(progress.snapshot(), None);
    }

    #[test]
    fn a_new_operation_has_nothing_done_and_waits_for_nothing() {
        let progress = Arc::new(Progress::default());
        let guard = progress.begin(copying(0));
        guard.set_done(1);
        guard.set_waits_for(Path::new("/x"));
        assert_eq!(progress.snapshot().unwrap().waits_for, Some("/x".into()));
        guard.change_to(copying(0));
        let snapshot = progress.snapshot().unwrap();
        assert_eq!(snapshot.operation, copying(0));
        assert_eq!(snapshot.waits_for, None);
        guard.set_done(1);
        let _guard = progress.begin(copying(0));
        assert_eq!(progress.snapshot().unwrap().operation, copying(0));
    }
}
