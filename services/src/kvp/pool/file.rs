//! One pool's file: opened, locked, and still the one that the path names.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::contents::{CachedIndex, Contents};
use super::error::PoolError;
use super::index::{Snapshot, Stamp};
use super::lock::{Access, Deadline, LOCK_TIMEOUT, Lock};
use super::open::{OpenFile, check_trusted};
use super::record::{MAX_SIZE, RECORD_LEN};
use super::{holder, journal, redo};
use crate::kvp::cancel::CancelToken;
use crate::trusted;

/// Permission bits of a pool file that is made.
const MODE: u32 = 0o644;

/// Permission bits of the directory, if it is made.
const DIRECTORY_MODE: u32 = 0o755;

/// How long a file must have stood still to be read although others have it locked:
/// who writes a record does not rest in the middle of it.
const STABLE_FOR: Duration = Duration::from_secs(1);

/// How long that is waited for.
const STABLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks at a file that is locked.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A pool's file. It is kept open between operations, and locked during them.
#[derive(Debug)]
pub(super) struct PoolFile {
    path: PathBuf,
    journal: PathBuf,
    /// Permission bits that the file is to have; `None` leaves them as they are.
    mode: Option<u32>,
    open: Option<OpenFile>,
    index: Option<CachedIndex>,
    contended: Option<Unchanged>,
    /// It was said that others keep the file locked.
    lock_reported: bool,
    /// What the last operations met and nobody was told of yet.
    warning: Option<String>,
}

/// Others keep the file locked: since when it has looked like this.
#[derive(Debug, Clone, Copy)]
struct Unchanged {
    stamp: Stamp,
    since: Instant,
}

impl PoolFile {
    pub(super) fn new(directory: &Path, name: &str) -> Self {
        Self {
            path: directory.join(name),
            journal: directory.join(format!("{name}.journal")),
            mode: None,
            open: None,
            index: None,
            contended: None,
            lock_reported: false,
            warning: None,
        }
    }

    /// The file is to have these permission bits.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.mode = Some(mode);
    }

    /// Gives the file the permission bits that it is to have, if there is one.
    pub(super) fn apply_mode(&self) -> Result<(), PoolError> {
        match OpenFile::new(&self.path, Access::Shared)? {
            Some(open) => open.apply_mode(self.mode),
            None => Ok(()),
        }
        .map_err(PoolError::file("change the permission bits of", &self.path))
    }

    /// What is to be said of the last operations, if anything is.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// Reads the file; `None` where there is none. Where others keep it locked, it is
    /// read without a lock, and again until nothing changed meanwhile.
    pub(super) fn read<T>(
        &mut self,
        token: Option<&CancelToken>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        self.with_lock(Access::Shared, token, operation)
    }

    /// Changes the file; `None` where there is none.
    pub(super) fn write<T>(
        &mut self,
        token: Option<&CancelToken>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        self.with_lock(Access::Exclusive, token, operation)
    }

    /// Changes the file, which is made where there is none.
    pub(super) fn write_or_create<T>(
        &mut self,
        token: Option<&CancelToken>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        if let Some(done) = self.write(token, &operation)? {
            return Ok(done);
        }
        self.create()?;
        // Others may have taken it away again.
        self.write(token, &operation)?
            .ok_or_else(|| PoolError::file("open", &self.path)(io::ErrorKind::NotFound.into()))
    }

    fn create(&mut self) -> Result<(), PoolError> {
        if let Some(directory) = self.path.parent()
            && !directory.exists()
        {
            trusted::make(directory, DIRECTORY_MODE)
                // Whatever the umask is: others are to read the pools.
                .and_then(|made| {
                    File::from(made).set_permissions(Permissions::from_mode(DIRECTORY_MODE))
                })
                .map_err(PoolError::file("make the directory", directory))?;
        }
        check_trusted(&self.path)?;
        let mode = self.mode.unwrap_or(MODE);
        let created = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&self.path)
            .and_then(|file| file.set_permissions(Permissions::from_mode(mode)));
        match created {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(PoolError::file("make", &self.path)(error))
            }
            _ => Ok(()),
        }
    }

    fn with_lock<T>(
        &mut self,
        access: Access,
        token: Option<&CancelToken>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        let started = Instant::now();
        let deadline = match (access, self.contended) {
            // It was waited for in vain before.
            (Access::Shared, Some(_)) => Deadline::now(),
            _ => Deadline::start(token.map(CancelToken::deadline)),
        };
        loop {
            let Some(open) = self.opened(access)? else {
                return Ok(None);
            };
            let Some(lock) = Lock::take(&open.file, &self.path, access, deadline)? else {
                if token.is_some_and(CancelToken::is_expired) {
                    return Err(PoolError::Cancelled(self.path.clone()));
                }
                return match access {
                    Access::Shared => self.read_unlocked(open, token, started, operation),
                    Access::Exclusive => Err(self.locked_error(&open, access, started)),
                };
            };
            self.contended = None;
            self.lock_reported = false;
            if token.is_some_and(CancelToken::is_expired) {
                return Err(PoolError::Cancelled(self.path.clone()));
            }
            let Some(snapshot) = self.snapshot(&open)? else {
                drop(lock);
                if started.elapsed() >= LOCK_TIMEOUT {
                    return Err(PoolError::Changing(self.path.clone()));
                }
                continue;
            };
            if self.has_journal()? {
                if access == Access::Shared {
                    drop(lock);
                    self.recover(token)?;
                } else {
                    check_trusted(&self.path)?;
                    if !redo::recover(&open.file, &self.path, &self.journal)? {
                        journal::recover(&open.file, &self.path, &self.journal)?;
                    }
                    drop(lock);
                    self.open = Some(open);
                }
                if started.elapsed() >= LOCK_TIMEOUT {
                    return Err(PoolError::Changing(self.path.clone()));
                }
                continue;
            }
            let result = self.with_contents(&open, snapshot, snapshot.stamp.size, operation);
            drop(lock);
            self.open = Some(open);
            return result.map(Some);
        }
    }

    /// Reads although others keep the file locked. Anybody who may read the file may
    /// lock it, and to do so must not keep the host from reading. What is told is
    /// whole: the file has stood still for a while, is the same after the reading as
    /// before it, and no journal tells of records that are being moved. A record that
    /// is not whole at the end of the file is left out.
    fn read_unlocked<T>(
        &mut self,
        mut open: OpenFile,
        token: Option<&CancelToken>,
        started: Instant,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        let patience = Instant::now() + STABLE_TIMEOUT;
        let patience = token.map_or(patience, |token| token.deadline().min(patience));
        loop {
            if let Some(snapshot) = self.snapshot(&open)? {
                if self.is_stable(snapshot) && !self.has_journal()? {
                    let whole = snapshot.stamp.size - snapshot.stamp.size % RECORD_LEN;
                    let result = self.with_contents(&open, snapshot, whole, &operation);
                    let after = self.snapshot(&open)?;
                    if after.is_some_and(|after| after.stamp == snapshot.stamp)
                        && !self.has_journal()?
                    {
                        if whole != snapshot.stamp.size {
                            self.index = None;
                        }
                        if !self.lock_reported {
                            self.lock_reported = true;
                            self.warning = Some(format!(
                                "{} has been locked for {:.0} s by {}; it was read all the same",
                                self.path.display(),
                                started.elapsed().as_secs_f64(),
                                holder::describe(&open.file, Access::Shared)
                            ));
                        }
                        self.open = Some(open);
                        return result.map(Some);
                    }
                    self.index = None;
                }
            } else {
                open = match OpenFile::new(&self.path, Access::Shared)? {
                    Some(open) => open,
                    None => return Ok(None),
                };
            }
            if Instant::now() >= patience {
                return Err(self.locked_error(&open, Access::Shared, started));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether a file that others keep locked has looked the same for a while, and every
    /// later change would show.
    fn is_stable(&mut self, snapshot: Snapshot) -> bool {
        let now = Instant::now();
        match self.contended {
            Some(contended) if contended.stamp == snapshot.stamp => {
                snapshot.settled && now.duration_since(contended.since) >= STABLE_FOR
            }
            _ => {
                self.contended = Some(Unchanged {
                    stamp: snapshot.stamp,
                    since: now,
                });
                false
            }
        }
    }

    fn with_contents<T>(
        &mut self,
        open: &OpenFile,
        snapshot: Snapshot,
        size: u64,
        operation: impl FnOnce(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        if size > MAX_SIZE {
            return Err(PoolError::TooLarge {
                path: self.path.clone(),
                size,
                limit: MAX_SIZE,
            });
        }
        operation(&mut Contents {
            file: &open.file,
            path: &self.path,
            journal: &self.journal,
            size,
            snapshot,
            index: &mut self.index,
        })
    }

    /// The file that was open before, or that is there now; `None` where there is none.
    fn opened(&mut self, access: Access) -> Result<Option<OpenFile>, PoolError> {
        match self.open.take() {
            Some(open) if open.writable || access == Access::Shared => Ok(Some(open)),
            _ => {
                let open = OpenFile::new(&self.path, access)?;
                if let Some(open) = &open {
                    // Others may have made it anew. Who may only read it cannot do it.
                    let _ = open.apply_mode(self.mode);
                }
                Ok(open)
            }
        }
    }

    /// How the file looks; `None` where others removed it, or put another in its place.
    fn snapshot(&self, open: &OpenFile) -> Result<Option<Snapshot>, PoolError> {
        match Snapshot::take(|| fs::metadata(&self.path)) {
            Ok((snapshot, metadata)) => Ok(open.is(&metadata).then_some(snapshot)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PoolError::file("look at", &self.path)(error)),
        }
    }

    fn locked_error(&self, open: &OpenFile, access: Access, started: Instant) -> PoolError {
        PoolError::Locked {
            path: self.path.clone(),
            waited: started.elapsed(),
            holder: holder::describe(&open.file, access),
        }
    }

    /// Ends an interrupted change, for which a reader's lock is not enough.
    fn recover(&mut self, token: Option<&CancelToken>) -> Result<(), PoolError> {
        self.with_lock(Access::Exclusive, token, |_| Ok(()))
            .map(drop)
    }

    fn has_journal(&self) -> Result<bool, PoolError> {
        self.journal
            .try_exists()
            .map_err(PoolError::file("look at", &self.journal))
    }
}
