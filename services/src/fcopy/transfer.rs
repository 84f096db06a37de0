//! A copy in progress, from START to COMPLETE.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags, fchmod, fsync, ftruncate, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec, pwrite, retry_on_intr};
use slog::Logger;

use super::config::Config;
use super::directories::CreatedDirectories;
use super::entry::stat;
use super::error::Error;
use super::extents::Extents;
use super::journal::Journal;
use super::metadata;
use super::request::Start;
use super::room::{Room, RoomFor};
use super::staging::{self, Staging};
use super::target::{self, Existing, Target};
use crate::progress::OperationGuard;
use crate::sys::write_out;

/// Bytes that are written back at a time. Not much more than twice as many are ever waiting
/// for the disk, so that neither a WRITE nor COMPLETE takes longer than a host waits.
const WRITE_BACK: u64 = 8 << 20;

/// The largest page size of any system. Write-back leaves out the last page, to which the
/// next part writes again.
const PAGE: u64 = 64 << 10;

/// How often putting the file in place is retried because another file of its name appeared
/// or vanished meanwhile.
const RACE_RETRIES: u32 = 8;

/// A copy in progress. Dropping it removes everything that it created.
pub(super) struct Transfer {
    staging: Staging,
    // Dropped after `staging`: only empty directories are removed.
    created: CreatedDirectories,
    // Dropped last: until then a killed agent would leave something behind.
    journal: Journal,
    target: Target,
    start: Start,
    /// The path that [`target::path`] built from `start`.
    requested: PathBuf,
    room: Room,
    extents: Extents,
    /// Bytes whose write-back was started.
    written_back: u64,
    /// The last write-back.
    write_back: Option<JoinHandle<Result<(), Errno>>>,
    started: Instant,
    /// When the host last sent data.
    last_data: Instant,
    operation: OperationGuard,
}

impl Transfer {
    /// Opens the target, checks an existing file, and reserves disk space.
    ///
    /// `path` is what [`target::path`] built from `start`.
    pub(super) fn start(
        start: &Start,
        path: &Path,
        operation: OperationGuard,
        config: &Config,
        log: &Logger,
    ) -> Result<Self, Error> {
        check_size(start.size, config)?;
        let mut journal = Journal::new(&config.environment.state_dir, log);
        let mut created = CreatedDirectories::default();
        let target = target::resolve(start, path, &config.directories, &mut created, &mut journal)?;
        let staging = fcntl_dupfd_cloexec(&target.directory, 0)
            .and_then(|directory| Staging::new(directory, &mut journal))
            .map_err(|source| {
                target.failed("create a temporary file in the directory of", source)
            })?;
        let room = Room::announced(&room_for(&staging, &target, config), start.size)?;
        let now = Instant::now();
        Ok(Self {
            staging,
            created,
            journal,
            target,
            start: start.clone(),
            requested: path.to_owned(),
            room,
            extents: Extents::default(),
            written_back: 0,
            write_back: None,
            started: now,
            last_data: now,
            operation,
        })
    }

    /// Path of the target.
    pub(super) fn path(&self) -> &Path {
        &self.target.path
    }

    /// When the copy fails unless the host sends data.
    pub(super) fn deadline(&self, config: &Config) -> Option<Instant> {
        self.last_data.checked_add(config.idle_limit)
    }

    /// Checks that the copy could begin with this configuration, too.
    pub(super) fn check(&self, config: &Config, log: &Logger) -> Result<(), Error> {
        let size = self.start.size.max(self.extents.end());
        check_size(size, config)?;
        room_for(&self.staging, &self.target, config).check(0, size)?;
        let start = Start {
            create_path: false,
            ..self.start.clone()
        };
        let mut journal = Journal::new(&config.environment.state_dir, log);
        let mut created = CreatedDirectories::default();
        let (path, allowed) = (&self.requested, &config.directories);
        let again = target::resolve(&start, path, allowed, &mut created, &mut journal)?;
        match again.is_at(&self.target) {
            true => Ok(()),
            false => Err(Error::NotAllowed(path.clone())),
        }
    }

    /// Writes a part. The copy must be dropped after an error: the file has a hole that the
    /// host does not know of.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], config: &Config) -> Result<(), Error> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(Error::Size(u64::MAX))?;
        check_size(end, config)?;
        self.extents
            .insert(offset..end)
            .map_err(|_| Error::TooManyParts)?;
        let room = room_for(&self.staging, &self.target, config);
        self.room.grow(&room, end, data.len() as u64)?;
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let written = match pwrite(self.staging.file(), data, offset) {
                Ok(0) => return Err(self.target.failed("write to", Errno::IO)),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(source) => return Err(self.no_room(end, "write to", source)),
            };
            offset = offset.saturating_add(written as u64);
            data = data.get(written..).unwrap_or_default();
        }
        self.operation.set_done(self.extents.head());
        if config.sync {
            self.write_back()?;
        }
        // The host sends the next part after the reply to this one.
        self.last_data = Instant::now();
        Ok(())
    }

    /// Starts write-back of the data since the last time, and waits for the last one before:
    /// a host that is faster than the disk gets its replies at the disk's pace.
    fn write_back(&mut self) -> Result<(), Error> {
        let ready = self.extents.head() / PAGE * PAGE;
        let from = self.written_back;
        let new = ready.saturating_sub(from);
        if new < WRITE_BACK {
            return Ok(());
        }
        self.finish_write_back()?;
        // Without descriptor or thread, all is left to the sync at the end.
        if let Ok(file) = self.staging.file().try_clone_to_owned() {
            let thread = thread::Builder::new().name("write-back".to_owned());
            let started = thread.spawn(move || write_out(file, from, new));
            self.write_back = started.ok();
        }
        self.written_back = ready;
        Ok(())
    }

    /// Waits for the last write-back. Its error must not get lost: the sync at the end does
    /// not report it again.
    fn finish_write_back(&mut self) -> Result<(), Error> {
        let Some(thread) = self.write_back.take() else {
            return Ok(());
        };
        match thread.join().unwrap_or(Err(Errno::IO)) {
            // The sync at the end does it all.
            Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
            Err(source) => Err(self.no_room(self.extents.head(), "sync", source)),
        }
    }

    /// Puts the file in place.
    pub(super) fn complete(&mut self, config: &Config) -> Result<Finished, Error> {
        if let Some(hole) = self.extents.hole() {
            return Err(Error::Hole {
                start: hole.start,
                end: hole.end,
            });
        }
        let size = self.extents.head();
        let file = self.staging.file();
        if size < self.room.reserved() {
            retry_on_intr(|| ftruncate(file, size))
                .map_err(|source| self.target.failed("free reserved space of", source))?;
        }
        self.put_in_place(config)?;
        if config.sync {
            staging::sync_directory(self.staging.directory())
                .map_err(|source| self.target.failed("sync the directory of", source))?;
        }
        self.created
            .keep(config.sync)
            .map_err(|source| self.target.failed("sync the new directories above", source))?;
        Ok(Finished {
            path: self.target.path.clone(),
            size,
            announced: self.start.size,
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }

    fn put_in_place(&mut self, config: &Config) -> Result<(), Error> {
        let failed = |target: &Target, source| target.failed("put in place", source);
        for _ in 0..RACE_RETRIES {
            let found = if self.start.overwrite {
                self.target.existing()?
            } else {
                Existing::None
            };
            match found {
                Existing::None => {
                    let mode = Mode::from_raw_mode(config.mode);
                    match fchmod(self.staging.file(), mode) {
                        // The file belongs to this process, so its file system does not
                        // support the mode.
                        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                        Err(source) => return Err(self.target.failed("set the mode of", source)),
                    }
                    self.sync(config)?;
                    match self.staging.put(&self.target.name) {
                        Ok(()) => return Ok(()),
                        Err(Errno::EXIST) if self.start.overwrite => {}
                        Err(Errno::EXIST) => return Err(Error::Exists(self.target.path.clone())),
                        Err(source) => return Err(failed(&self.target, source)),
                    }
                }
                Existing::File => {
                    if !self.keep_metadata()? {
                        continue;
                    }
                    self.sync(config)?;
                    return self
                        .staging
                        .replace(&self.target.name, &mut self.journal)
                        .map_err(|source| failed(&self.target, source));
                }
                // At START it was none, or was followed.
                Existing::Link(_) => return Err(self.target.refused("now a symbolic link")),
            }
        }
        Err(failed(&self.target, Errno::BUSY))
    }

    /// Copies the metadata of the file that is about to be replaced; `false` if it is gone.
    fn keep_metadata(&self) -> Result<bool, Error> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let name = self.target.name.as_os_str();
        let old = match retry_on_intr(|| openat(&self.target.directory, name, flags, Mode::empty()))
        {
            Ok(old) => old,
            Err(Errno::NOENT) => return Ok(false),
            Err(source) => {
                return Err(self
                    .target
                    .failed("open, to preserve its owner and mode,", source));
            }
        };
        // The checks must apply to the same file as the metadata.
        let found =
            stat(old.as_fd()).map_err(|source| self.target.failed("read the status of", source))?;
        if FileType::from_raw_mode(found.stx_mode.into()) != FileType::RegularFile {
            return Err(self.target.refused("not a regular file any more"));
        }
        self.target.may_replace(&found)?;
        metadata::copy(old.as_fd(), self.staging.file()).map_err(|(what, source)| Error::Keep {
            what,
            path: self.target.path.clone(),
            source,
        })?;
        Ok(true)
    }

    fn sync(&mut self, config: &Config) -> Result<(), Error> {
        if !config.sync {
            return Ok(());
        }
        self.finish_write_back()?;
        let file = self.staging.file();
        retry_on_intr(|| fsync(file))
            .map_err(|source| self.no_room(self.extents.head(), "sync", source))
    }

    fn no_room(&self, size: u64, doing: &'static str, source: Errno) -> Error {
        match source {
            Errno::NOSPC | Errno::DQUOT => Error::NoRoom {
                path: self.target.path.clone(),
                size,
                source,
            },
            source => self.target.failed(doing, source),
        }
    }
}

/// A successful copy.
pub(super) struct Finished {
    pub(super) path: PathBuf,
    /// Size of the file in bytes.
    pub(super) size: u64,
    /// Size that START announced, in bytes.
    pub(super) announced: u64,
    pub(super) seconds: f64,
}

fn check_size(size: u64, config: &Config) -> Result<(), Error> {
    if i64::try_from(size).is_err() {
        return Err(Error::Size(size));
    }
    match config.max_size {
        Some(limit) if size > limit => Err(Error::OverLimit { size, limit }),
        _ => Ok(()),
    }
}

fn room_for<'a>(staging: &'a Staging, target: &'a Target, config: &Config) -> RoomFor<'a> {
    RoomFor {
        file: staging.file(),
        path: &target.path,
        keep_free: config.keep_free,
    }
}
