//! Lists the interfaces, and keeps the list while the kernel announces no change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::changes::Changes;
use super::interface::Interface;
use super::{decode, device, netlink};

/// How long a list is kept: it limits the harm of a change that the kernel does not announce.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Returns all interfaces, by index. `root` stands for `/`.
///
/// # Errors
///
/// Any error of netlink; `TimedOut` if the kernel does not reply within two seconds.
pub fn list(root: &Path) -> io::Result<Vec<Interface>> {
    let mut interfaces = decode::interfaces(&netlink::dump()?);
    for interface in &mut interfaces {
        interface.vmbus_device = device::vmbus_device(root, &interface.name);
    }
    Ok(interfaces)
}

/// The interfaces of the machine, in memory. An idle machine causes no work: the kernel collects
/// its announcements in a socket, which is looked at before each answer. Whatever they say, the
/// list is made anew.
pub struct Interfaces {
    root: PathBuf,
    known: Mutex<Option<Known>>,
}

struct Known {
    interfaces: Arc<[Interface]>,
    changes: Changes,
    made: Instant,
}

impl Interfaces {
    /// Nothing is known yet. `root` stands for `/`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            known: Mutex::new(None),
        }
    }

    /// Returns all interfaces, by index, if they are in memory and nothing has changed. Never
    /// blocks: that takes one system call.
    pub fn current(&self) -> Option<Arc<[Interface]>> {
        let mut known = self.lock();
        let is_current = |known: &Known| known.made.elapsed() < MAX_AGE && !known.changes.any();
        // A stale list is forgotten with its socket, and what is still in that.
        *known = known.take().filter(is_current);
        known.as_ref().map(|known| Arc::clone(&known.interfaces))
    }

    /// Returns all interfaces, by index: those in memory, or else those of [`list`].
    ///
    /// # Errors
    ///
    /// Those of [`list`].
    pub fn list(&self) -> io::Result<Arc<[Interface]>> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        // First, so that no change is missed in between. Without a subscription, nothing is kept.
        let changes = Changes::subscribe().ok();
        let made = Instant::now();
        let interfaces: Arc<[Interface]> = list(&self.root)?.into();
        *self.lock() = changes.map(|changes| Known {
            interfaces: Arc::clone(&interfaces),
            changes,
            made,
        });
        Ok(interfaces)
    }

    /// Whoever holds the lock makes no call that blocks.
    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists the interfaces, and makes the list older.
    fn aged(by: Duration) -> Interfaces {
        let interfaces = Interfaces::new(Path::new("/"));
        interfaces.list().unwrap();
        if let Some(known) = &mut *interfaces.lock() {
            known.made -= by;
        }
        interfaces
    }

    #[test]
    fn an_old_list_is_made_anew() {
        assert!(aged(MAX_AGE).current().is_none());
    }
}
