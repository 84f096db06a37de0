//! One pool's file: opens it, locks it, checks that the path still names it, and
//! recovers from its journal.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::contents::Contents;
use super::error::PoolError;
use super::lock::{Access, Lock};
use super::memory::Memory;
use super::open::{OpenFile, check_trusted};
use super::record::{MAX_SIZE, RECORD_LEN};
use super::redo::{self, Redo};
use super::stamp::{Snapshot, Stamp};
use super::{holder, journal};
use crate::kvp::cancel::CancelToken;
use crate::timeouts::{POOL_LOCK, POOL_READ_LOCKED, POOL_STABLE};
use crate::trusted;

/// Mode of a pool file that is created.
const MODE: u32 = 0o644;

/// Mode of the directory if it is created.
const DIRECTORY_MODE: u32 = 0o755;

/// How often a locked file is checked for changes.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A pool's file, kept open between operations and locked during them.
#[derive(Debug)]
pub(super) struct PoolFile {
    path: PathBuf,
    journal: PathBuf,
    /// The configured mode; `None` leaves existing files as they are.
    pub(super) mode: Option<u32>,
    open: Option<OpenFile>,
    /// Where the records are kept that are read under the lock.
    pub(super) memory: Option<Memory>,
    /// Set while another program holds the lock: a stamp, and since when the file has had it.
    contended: Option<(Stamp, Instant)>,
    /// The warning about that lock was issued.
    lock_reported: bool,
    /// The warning that the caller has not taken yet.
    pub(super) warning: Option<String>,
}

/// The journal of a pool that is read without the lock.
#[derive(PartialEq, Eq)]
enum JournalState {
    /// There is no journal.
    Absent,
    /// The journal holds the record that a killed program was writing.
    Redo(Box<Redo>),
    /// Records are being moved, or the journal is damaged or of another pool.
    Unusable,
}

/// What a pool's file looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its path.
    pub path: PathBuf,
    /// User ID of its owner.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Bytes of an incomplete record at its end: a program is writing it now, or was killed.
    pub torn: u64,
}

impl PoolFile {
    pub(super) fn new(directory: &Path, name: &str) -> Self {
        Self {
            path: directory.join(name),
            journal: directory.join(format!("{name}.journal")),
            mode: None,
            open: None,
            memory: None,
            contended: None,
            lock_reported: false,
            warning: None,
        }
    }

    /// Returns whether the file exists, or cannot be looked for.
    pub(super) fn exists(&self) -> bool {
        !matches!(self.path.try_exists(), Ok(false))
    }

    /// Looks at the file without its lock; `None` if it does not exist.
    pub(super) fn examine(&self) -> Result<Option<Examined>, PoolError> {
        let Some(open) = OpenFile::new(&self.path, Access::Shared)? else {
            return Ok(None);
        };
        let metadata = open.file.metadata();
        let metadata = metadata.map_err(PoolError::file("stat", &self.path))?;
        check_size(&self.path, metadata.len())?;
        Ok(Some(Examined {
            path: self.path.clone(),
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            torn: metadata.len() % RECORD_LEN,
        }))
    }

    /// Applies the configured mode to the file if it exists.
    pub(super) fn apply_mode(&self) -> Result<(), PoolError> {
        match OpenFile::new(&self.path, Access::Shared)? {
            Some(open) => open.apply_mode(self.mode),
            None => Ok(()),
        }
        .map_err(PoolError::file("change the mode of", &self.path))
    }

    /// Returns the stamp of the file that the path names; `None` if there is none.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::metadata(&self.path).ok()?;
        Some(Stamp::from(&metadata))
    }

    /// Changes the file, which is created if it does not exist.
    pub(super) fn write_or_create<T>(
        &mut self,
        token: Option<&CancelToken>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        if let Some(done) = self.with_lock(Access::Exclusive, token, &operation)? {
            return Ok(done);
        }
        self.create()?;
        // Another program may have removed it again.
        self.with_lock(Access::Exclusive, token, &operation)?
            .ok_or_else(|| PoolError::file("open", &self.path)(io::ErrorKind::NotFound.into()))
    }

    /// Creates the file if nothing has its name. It opens nothing that exists, which
    /// might wait for a disk.
    pub(super) fn create_if_missing(&self) -> Result<(), PoolError> {
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(),
            Err(error) => Err(PoolError::file("stat", &self.path)(error)),
            Ok(_) => Ok(()),
        }
    }

    fn create(&self) -> Result<(), PoolError> {
        if let Some(directory) = self.path.parent() {
            if !directory.exists() {
                trusted::make(directory, DIRECTORY_MODE)
                    // Whatever the umask is: other programs are to read the pools.
                    .and_then(|made| {
                        File::from(made).set_permissions(Permissions::from_mode(DIRECTORY_MODE))
                    })
                    .map_err(PoolError::file("create the directory", directory))?;
            }
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
                Err(PoolError::file("create", &self.path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Reads or changes the file; returns `None` if it does not exist. While another program
    /// holds the lock, reads without it and repeats that until nothing changed meanwhile.
    pub(super) fn with_lock<T>(
        &mut self,
        access: Access,
        token: Option<&CancelToken>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        let started = Instant::now();
        let deadline = match (access, self.contended) {
            // An earlier operation waited in vain.
            (Access::Shared, Some(_)) => started,
            _ => earliest(started + POOL_LOCK, token),
        };
        loop {
            let Some(open) = self.opened(access)? else {
                return Ok(None);
            };
            let Some(lock) = Lock::take(&open.file, &self.path, access, deadline)? else {
                self.check_cancelled(token)?;
                return match access {
                    Access::Shared => self.read_unlocked(open, token, started, operation),
                    Access::Exclusive => Err(self.locked_error(&open, access, started)),
                };
            };
            self.contended = None;
            self.lock_reported = false;
            self.check_cancelled(token)?;
            if let Some(snapshot) = self.snapshot(&open)? {
                if !self.has_journal()? {
                    let size = snapshot.stamp.size;
                    let memory = self.memory.as_ref();
                    let result = self.with_contents(&open, snapshot, size, None, memory, operation);
                    drop(lock);
                    self.open = Some(open);
                    return result.map(Some);
                }
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
            }
            if started.elapsed() >= POOL_LOCK {
                return Err(PoolError::Changing(self.path.clone()));
            }
        }
    }

    /// Reads although another program holds the lock: anybody who may read the file may
    /// lock it, and must not be able to keep the host from reading it.
    ///
    /// The result is consistent: the file was unchanged for a while, it is the same after
    /// the read as before it, and its journal is absent or holds one record, which is read
    /// as if it were in the file already. An incomplete record at the end is left out.
    fn read_unlocked<T>(
        &mut self,
        mut open: OpenFile,
        token: Option<&CancelToken>,
        started: Instant,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        let deadline = earliest(Instant::now() + POOL_READ_LOCKED, token);
        loop {
            if let Some(snapshot) = self.snapshot(&open)? {
                if let Some(done) = self.read_stable(&open, snapshot, &operation)? {
                    if !self.lock_reported {
                        self.lock_reported = true;
                        self.warning = Some(format!(
                            "{} has been locked for {:.0} s by {}; it was read without the lock",
                            self.path.display(),
                            started.elapsed().as_secs_f64(),
                            holder::describe(&open.file, Access::Shared)
                        ));
                    }
                    self.open = Some(open);
                    return Ok(Some(done));
                }
            } else {
                open = match OpenFile::new(&self.path, Access::Shared)? {
                    Some(open) => open,
                    None => return Ok(None),
                };
            }
            if Instant::now() >= deadline {
                return Err(self.locked_error(&open, Access::Shared, started));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Reads the file without the lock; returns `None` if it is changing, or its journal
    /// cannot be used.
    fn read_stable<T>(
        &mut self,
        open: &OpenFile,
        snapshot: Snapshot,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        if !self.is_stable(snapshot) {
            return Ok(None);
        }
        let whole = snapshot.stamp.size - snapshot.stamp.size % RECORD_LEN;
        let journal = self.journal_state(open, whole)?;
        let redo = match &journal {
            JournalState::Absent => None,
            JournalState::Redo(redo) => Some(redo.as_ref()),
            JournalState::Unusable => return Ok(None),
        };
        let result = self.with_contents(open, snapshot, whole, redo, None, operation);
        let after = self.snapshot(open)?;
        let unchanged = after.is_some_and(|after| after.stamp == snapshot.stamp)
            && self.journal_state(open, whole)? == journal;
        unchanged.then_some(result).transpose()
    }

    /// Whether a locked file has been unchanged for long enough, and every later change
    /// would show in its stamp.
    fn is_stable(&mut self, snapshot: Snapshot) -> bool {
        let now = Instant::now();
        match self.contended {
            Some((stamp, since)) if stamp == snapshot.stamp => {
                snapshot.settled && now.duration_since(since) >= POOL_STABLE
            }
            _ => {
                self.contended = Some((snapshot.stamp, now));
                false
            }
        }
    }

    /// Runs the operation on the first `size` bytes, with the record of the journal in
    /// its place.
    fn with_contents<T>(
        &self,
        open: &OpenFile,
        snapshot: Snapshot,
        size: u64,
        redo: Option<&Redo>,
        memory: Option<&Memory>,
        operation: impl FnOnce(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        check_size(&self.path, size)?;
        operation(&mut Contents {
            file: &open.file,
            path: &self.path,
            journal: &self.journal,
            size: redo.map_or(size, |redo| redo.end().max(size)),
            snapshot,
            memory,
            redo,
        })
    }

    /// Returns the open file, or opens the one at the path; `None` if there is none.
    fn opened(&mut self, access: Access) -> Result<Option<OpenFile>, PoolError> {
        match self.open.take() {
            Some(open) if open.writable || access == Access::Shared => Ok(Some(open)),
            _ => {
                let open = OpenFile::new(&self.path, access)?;
                if let Some(open) = &open {
                    // Another program may have created it. An unprivileged reader cannot
                    // change the mode.
                    let _ = open.apply_mode(self.mode);
                }
                Ok(open)
            }
        }
    }

    /// Returns the state of the file; `None` if the path no longer names it.
    fn snapshot(&self, open: &OpenFile) -> Result<Option<Snapshot>, PoolError> {
        let stat = || fs::metadata(&self.path).map(|metadata| Stamp::from(&metadata));
        match Snapshot::take(stat) {
            Ok(snapshot) => Ok(open.is(snapshot.stamp).then_some(snapshot)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PoolError::file("stat", &self.path)(error)),
        }
    }

    /// Recovers from the journal, which needs the exclusive lock.
    fn recover(&mut self, token: Option<&CancelToken>) -> Result<(), PoolError> {
        self.with_lock(Access::Exclusive, token, |_| Ok(()))
            .map(drop)
    }

    fn check_cancelled(&self, token: Option<&CancelToken>) -> Result<(), PoolError> {
        match token.is_some_and(CancelToken::is_expired) {
            true => Err(PoolError::Cancelled(self.path.clone())),
            false => Ok(()),
        }
    }

    fn locked_error(&self, open: &OpenFile, access: Access, started: Instant) -> PoolError {
        PoolError::Locked {
            path: self.path.clone(),
            waited: started.elapsed(),
            holder: holder::describe(&open.file, access),
        }
    }

    /// Reads the journal of a pool that has `whole` bytes of complete records.
    fn journal_state(&self, open: &OpenFile, whole: u64) -> Result<JournalState, PoolError> {
        if !self.has_journal()? {
            return Ok(JournalState::Absent);
        }
        check_trusted(&self.path)?;
        Ok(match redo::read(&open.file, &self.journal) {
            // A record behind an incomplete one is not used: that one is left out.
            Ok(Some(redo)) if redo.end() <= whole + RECORD_LEN => {
                JournalState::Redo(Box::new(redo))
            }
            _ => JournalState::Unusable,
        })
    }

    fn has_journal(&self) -> Result<bool, PoolError> {
        self.journal
            .try_exists()
            .map_err(PoolError::file("stat", &self.journal))
    }
}

fn check_size(path: &Path, size: u64) -> Result<(), PoolError> {
    if size <= MAX_SIZE {
        return Ok(());
    }
    Err(PoolError::TooLarge {
        path: path.to_owned(),
        size,
        limit: MAX_SIZE,
    })
}

/// The end of a wait that began by itself or for a request.
fn earliest(own: Instant, token: Option<&CancelToken>) -> Instant {
    token.map_or(own, |token| token.deadline().min(own))
}
