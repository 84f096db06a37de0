//! One pool's file: opened, locked, and still the one that the path names.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::contents::{Contents, Indexed};
use super::error::PoolError;
use super::index::{Seen, Stamp};
use super::lock::{Access, Deadline, Lock, PATIENCE};
use super::open::{Open, check_place};
use super::record::{MAX_SIZE, RECORD_LEN};
use super::{holder, journal, redo};
use crate::kvp::limit::Limit;
use crate::trusted;

/// Permission bits of a pool file that is made.
const MODE: u32 = 0o644;

/// Permission bits of the directory, if it is made.
const DIRECTORY_MODE: u32 = 0o755;

/// How long a file must have stood still to be read although others have it locked:
/// who writes a record does not rest in the middle of it.
const CALM: Duration = Duration::from_secs(1);

/// How long that is waited for.
const CALM_PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at a file that is locked.
const PAUSE: Duration = Duration::from_millis(10);

/// A pool's file. It is kept open between operations, and locked during them.
#[derive(Debug)]
pub(super) struct PoolFile {
    path: PathBuf,
    journal: PathBuf,
    /// Permission bits that the file is to have; `None` leaves them as they are.
    mode: Option<u32>,
    open: Option<Open>,
    index: Option<Indexed>,
    held: Option<Held>,
    /// It was said that others keep the file locked.
    said_held: bool,
    /// What the last operations met and nobody was told of yet.
    notice: Option<String>,
}

/// Others keep the file locked: since when it has looked like this.
#[derive(Debug, Clone, Copy)]
struct Held {
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
            held: None,
            said_held: false,
            notice: None,
        }
    }

    /// The file is to have these permission bits.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.mode = Some(mode);
    }

    /// Gives the file the permission bits that it is to have, if there is one.
    pub(super) fn restrict(&self) -> Result<(), PoolError> {
        match Open::new(&self.path, Access::Shared)? {
            Some(open) => open.restrict(self.mode),
            None => Ok(()),
        }
        .map_err(PoolError::file("change the permission bits of", &self.path))
    }

    /// What is to be said of the last operations, if anything is.
    pub(super) fn notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// Reads the file; `None` where there is none. Where others keep it locked, it is
    /// read without a lock, and again until nothing changed meanwhile.
    pub(super) fn read<T>(
        &mut self,
        limit: Option<&Limit>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        self.locked(Access::Shared, limit, operation)
    }

    /// Changes the file; `None` where there is none.
    pub(super) fn change<T>(
        &mut self,
        limit: Option<&Limit>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        self.locked(Access::Exclusive, limit, operation)
    }

    /// Changes the file, which is made where there is none.
    pub(super) fn change_or_make<T>(
        &mut self,
        limit: Option<&Limit>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        if let Some(done) = self.change(limit, &operation)? {
            return Ok(done);
        }
        self.make()?;
        // Others may have taken it away again.
        self.change(limit, &operation)?
            .ok_or_else(|| PoolError::file("open", &self.path)(io::ErrorKind::NotFound.into()))
    }

    fn make(&mut self) -> Result<(), PoolError> {
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
        check_place(&self.path)?;
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

    fn locked<T>(
        &mut self,
        access: Access,
        limit: Option<&Limit>,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        let began = Instant::now();
        let deadline = match (access, self.held) {
            // It was waited for in vain before.
            (Access::Shared, Some(_)) => Deadline::now(),
            _ => Deadline::start(limit.map(Limit::end)),
        };
        loop {
            let Some(open) = self.opened(access)? else {
                return Ok(None);
            };
            let Some(lock) = Lock::take(&open.file, &self.path, access, deadline)? else {
                if limit.is_some_and(Limit::is_over) {
                    return Err(PoolError::Late(self.path.clone()));
                }
                return match access {
                    Access::Shared => self.read_unlocked(open, limit, began, operation),
                    Access::Exclusive => Err(self.is_locked(&open, access, began)),
                };
            };
            self.held = None;
            self.said_held = false;
            if limit.is_some_and(Limit::is_over) {
                return Err(PoolError::Late(self.path.clone()));
            }
            let Some(seen) = self.look(&open)? else {
                drop(lock);
                if began.elapsed() >= PATIENCE {
                    return Err(PoolError::Changing(self.path.clone()));
                }
                continue;
            };
            if self.has_journal()? {
                if access == Access::Shared {
                    drop(lock);
                    self.recover(limit)?;
                } else {
                    check_place(&self.path)?;
                    if !redo::recover(&open.file, &self.path, &self.journal)? {
                        journal::recover(&open.file, &self.path, &self.journal)?;
                    }
                    drop(lock);
                    self.open = Some(open);
                }
                if began.elapsed() >= PATIENCE {
                    return Err(PoolError::Changing(self.path.clone()));
                }
                continue;
            }
            let result = self.carry_out(&open, seen, seen.stamp.size, operation);
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
        mut open: Open,
        limit: Option<&Limit>,
        began: Instant,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        let patience = Instant::now() + CALM_PATIENCE;
        let patience = limit.map_or(patience, |limit| limit.end().min(patience));
        loop {
            if let Some(seen) = self.look(&open)? {
                if self.is_calm(seen) && !self.has_journal()? {
                    let whole = seen.stamp.size - seen.stamp.size % RECORD_LEN;
                    let result = self.carry_out(&open, seen, whole, &operation);
                    let after = self.look(&open)?;
                    if after.is_some_and(|after| after.stamp == seen.stamp)
                        && !self.has_journal()?
                    {
                        if whole != seen.stamp.size {
                            self.index = None;
                        }
                        if !self.said_held {
                            self.said_held = true;
                            self.notice = Some(format!(
                                "{} has been locked for {:.0} s by {}; it was read all the same",
                                self.path.display(),
                                began.elapsed().as_secs_f64(),
                                holder::in_words(&open.file, Access::Shared)
                            ));
                        }
                        self.open = Some(open);
                        return result.map(Some);
                    }
                    self.index = None;
                }
            } else {
                open = match Open::new(&self.path, Access::Shared)? {
                    Some(open) => open,
                    None => return Ok(None),
                };
            }
            if Instant::now() >= patience {
                return Err(self.is_locked(&open, Access::Shared, began));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Whether a file that others keep locked has looked the same for a while, and every
    /// later change would show.
    fn is_calm(&mut self, seen: Seen) -> bool {
        let now = Instant::now();
        match self.held {
            Some(held) if held.stamp == seen.stamp => {
                seen.settled && now.duration_since(held.since) >= CALM
            }
            _ => {
                self.held = Some(Held {
                    stamp: seen.stamp,
                    since: now,
                });
                false
            }
        }
    }

    fn carry_out<T>(
        &mut self,
        open: &Open,
        seen: Seen,
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
            seen,
            index: &mut self.index,
        })
    }

    /// The file that was open before, or that is there now; `None` where there is none.
    fn opened(&mut self, access: Access) -> Result<Option<Open>, PoolError> {
        match self.open.take() {
            Some(open) if open.writable || access == Access::Shared => Ok(Some(open)),
            _ => {
                let open = Open::new(&self.path, access)?;
                if let Some(open) = &open {
                    // Others may have made it anew. Who may only read it cannot do it.
                    let _ = open.restrict(self.mode);
                }
                Ok(open)
            }
        }
    }

    /// How the file looks; `None` where others removed it, or put another in its place.
    fn look(&self, open: &Open) -> Result<Option<Seen>, PoolError> {
        match Seen::look(|| fs::metadata(&self.path)) {
            Ok((seen, metadata)) => Ok(open.is(&metadata).then_some(seen)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PoolError::file("look at", &self.path)(error)),
        }
    }

    fn is_locked(&self, open: &Open, access: Access, began: Instant) -> PoolError {
        PoolError::Locked {
            path: self.path.clone(),
            waited: began.elapsed(),
            holder: holder::in_words(&open.file, access),
        }
    }

    /// Ends an interrupted change, for which a reader's lock is not enough.
    fn recover(&mut self, limit: Option<&Limit>) -> Result<(), PoolError> {
        self.locked(Access::Exclusive, limit, |_| Ok(())).map(drop)
    }

    fn has_journal(&self) -> Result<bool, PoolError> {
        self.journal
            .try_exists()
            .map_err(PoolError::file("look at", &self.journal))
    }
}
