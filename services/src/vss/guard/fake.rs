//! File systems for tests, which freeze and thaw when the test lets them.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rustix::io::Errno;

use super::threads::FileSystemCalls;

/// How long a guard may take for what it does on its own.
pub(in super::super) const SETTLE_TIME: Duration = Duration::from_secs(60);

/// What one of them does.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Behaviour {
    /// `FIFREEZE` does not come back for as long as this is so, nor does `FITHAW` of
    /// the same file system then.
    pub(in super::super) freeze_hangs: bool,
    pub(in super::super) thaw_hangs: bool,
    pub(in super::super) freeze_fails: Option<Errno>,
    pub(in super::super) thaw_fails: Option<Errno>,
    pub(in super::super) dead: Option<Errno>,
    frozen: bool,
    /// `FIFREEZE` has begun.
    freezing: bool,
    /// `FITHAW` has begun.
    thawing: bool,
}

/// All of them, by their inode.
#[derive(Debug, Default)]
pub(in super::super) struct Fake {
    each: Mutex<HashMap<u64, Behaviour>>,
    changed: Condvar,
}

fn inode(fd: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

impl Fake {
    /// Makes so many.
    pub(in super::super) fn make(count: usize, directory: &Path) -> Vec<OwnedFd> {
        let file = |index| File::create(directory.join(format!("{index}"))).unwrap();
        (0..count).map(|index| file(index).into()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Behaviour>> {
        self.each.lock().unwrap()
    }

    /// Changes what one does.
    pub(in super::super) fn change(&self, of: &OwnedFd, change: impl FnOnce(&mut Behaviour)) {
        change(self.lock().entry(inode(of.as_fd())).or_default());
        self.changed.notify_all();
    }

    fn wait(
        &self,
        of: BorrowedFd<'_>,
        until: impl Fn(Behaviour) -> bool,
    ) -> MutexGuard<'_, HashMap<u64, Behaviour>> {
        let mut each = self.lock();
        while !until(*each.entry(inode(of)).or_default()) {
            each = self.changed.wait(each).unwrap();
        }
        each
    }

    /// Waits until one is being frozen.
    pub(in super::super) fn wait_freezing(&self, of: &OwnedFd) {
        self.expect(of, |it| it.freezing);
    }

    /// Waits until one is being thawed.
    pub(in super::super) fn wait_thawing(&self, of: &OwnedFd) {
        self.expect(of, |it| it.thawing);
    }

    /// Waits until one is frozen, or thawed.
    pub(in super::super) fn wait_frozen(&self, of: &OwnedFd, frozen: bool) {
        self.expect(of, |it| it.frozen == frozen && !it.freezing);
    }

    fn expect(&self, of: &OwnedFd, what: impl Fn(Behaviour) -> bool) {
        let not_yet =
            |each: &mut HashMap<_, Behaviour>| !what(*each.entry(inode(of.as_fd())).or_default());
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), SETTLE_TIME, not_yet);
        assert!(!waited.unwrap().1.timed_out(), "nothing happens");
    }

    /// Which of these are frozen.
    pub(in super::super) fn frozen(&self, each: &[OwnedFd]) -> Vec<bool> {
        let all = self.lock();
        let frozen = |fd: &OwnedFd| all.get(&inode(fd.as_fd())).is_some_and(|it| it.frozen);
        each.iter().map(frozen).collect()
    }
}

impl FileSystemCalls for Fake {
    fn freeze(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.lock().entry(inode(fd)).or_default().freezing = true;
        self.changed.notify_all();
        let mut each = self.wait(fd, |it| !it.freeze_hangs);
        let its = each.entry(inode(fd)).or_default();
        its.freezing = false;
        let said = match its.freeze_fails {
            Some(errno) => Err(errno),
            None if its.frozen => Err(Errno::BUSY),
            None => {
                its.frozen = true;
                Ok(())
            }
        };
        drop(each);
        self.changed.notify_all();
        said
    }

    fn thaw(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.lock().entry(inode(fd)).or_default().thawing = true;
        self.changed.notify_all();
        let mut each = self.wait(fd, |it| !it.freezing && !it.thaw_hangs);
        let its = each.entry(inode(fd)).or_default();
        its.thawing = false;
        let said = match its.thaw_fails {
            Some(errno) => Err(errno),
            None if !its.frozen => Err(Errno::INVAL),
            None => {
                its.frozen = false;
                Ok(())
            }
        };
        drop(each);
        self.changed.notify_all();
        said
    }

    fn dead(&self, fd: BorrowedFd<'_>) -> Option<Errno> {
        self.lock().entry(inode(fd)).or_default().dead
    }
}
