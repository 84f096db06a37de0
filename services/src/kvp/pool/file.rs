//! One pool's file: opened, locked, and still the one that the path names.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::MAX_SIZE;
use super::contents::{Contents, Indexed};
use super::error::PoolError;
use super::index::Seen;
use super::journal;
use super::lock::{Access, Deadline, Lock};

/// Permission bits of a pool file that is made.
const MODE: u32 = 0o644;

/// Permission bits of the directory, if it is made.
const DIRECTORY_MODE: u32 = 0o755;

/// A pool's file. It is kept open between operations, and locked during them.
#[derive(Debug)]
pub(super) struct PoolFile {
    path: PathBuf,
    journal: PathBuf,
    open: Option<Open>,
    index: Option<Indexed>,
}

#[derive(Debug)]
struct Open {
    file: File,
    writable: bool,
    device: u64,
    inode: u64,
}

impl PoolFile {
    pub(super) fn new(directory: &Path, name: &str) -> Self {
        Self {
            path: directory.join(name),
            journal: directory.join(format!("{name}.journal")),
            open: None,
            index: None,
        }
    }

    /// Reads the file; `None` where there is none.
    pub(super) fn read<T>(
        &mut self,
        operation: impl FnOnce(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        self.locked(Access::Shared, operation)
    }

    /// Changes the file; `None` where there is none.
    pub(super) fn change<T>(
        &mut self,
        operation: impl FnOnce(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        self.locked(Access::Exclusive, operation)
    }

    /// Changes the file, which is made where there is none.
    pub(super) fn change_or_make<T>(
        &mut self,
        operation: impl Fn(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        if let Some(done) = self.change(&operation)? {
            return Ok(done);
        }
        self.make()?;
        // A link that leads nowhere is there and is not.
        self.change(&operation)?
            .ok_or_else(|| PoolError::file("open", &self.path)(io::ErrorKind::NotFound.into()))
    }

    fn make(&mut self) -> Result<(), PoolError> {
        if let Some(directory) = self.path.parent()
            && !directory.exists()
        {
            DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(directory)
                // Whatever the umask is: others are to read the pools.
                .and_then(|()| {
                    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
                })
                .map_err(PoolError::file("make the directory", directory))?;
        }
        let created = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&self.path)
            .and_then(|file| file.set_permissions(Permissions::from_mode(MODE)));
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
        operation: impl FnOnce(&mut Contents<'_>) -> Result<T, PoolError>,
    ) -> Result<Option<T>, PoolError> {
        let deadline = Deadline::start();
        loop {
            let open = match self.open.take() {
                Some(open) if open.writable || access == Access::Shared => open,
                _ => match Open::new(&self.path, access)? {
                    Some(open) => open,
                    None => return Ok(None),
                },
            };
            let lock = Lock::take(&open.file, &self.path, access, deadline)?;
            let seen = match Seen::look(|| fs::metadata(&self.path)) {
                Ok((seen, metadata)) if open.is(&metadata) => seen,
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(PoolError::file("look at", &self.path)(error));
                }
                // Others removed the file, or put another in its place.
                _ => {
                    deadline.check(&self.path)?;
                    continue;
                }
            };
            if self.has_journal()? {
                if access == Access::Shared {
                    drop(lock);
                    self.recover()?;
                } else {
                    journal::recover(&open.file, &self.path, &self.journal)?;
                    drop(lock);
                    self.open = Some(open);
                }
                deadline.check(&self.path)?;
                continue;
            }
            let size = seen.stamp.size;
            if size > MAX_SIZE {
                return Err(PoolError::TooLarge {
                    path: self.path.clone(),
                    size,
                    limit: MAX_SIZE,
                });
            }
            let result = operation(&mut Contents {
                file: &open.file,
                path: &self.path,
                journal: &self.journal,
                size,
                seen,
                index: &mut self.index,
            });
            drop(lock);
            self.open = Some(open);
            return result.map(Some);
        }
    }

    /// Ends an interrupted change, for which a reader's lock is not enough.
    fn recover(&mut self) -> Result<(), PoolError> {
        self.locked(Access::Exclusive, |_| Ok(())).map(drop)
    }

    fn has_journal(&self) -> Result<bool, PoolError> {
        self.journal
            .try_exists()
            .map_err(PoolError::file("look at", &self.journal))
    }
}

impl Open {
    fn new(path: &Path, access: Access) -> Result<Option<Self>, PoolError> {
        let writable = access == Access::Exclusive;
        let opened = File::options()
            .read(true)
            .write(writable)
            // Whatever stands there, opening it does not wait.
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PoolError::file("open", path)(error)),
        };
        let metadata = file.metadata().map_err(PoolError::file("look at", path))?;
        if !metadata.is_file() {
            return Err(PoolError::NotAFile(path.to_owned()));
        }
        Ok(Some(Self {
            writable,
            device: metadata.dev(),
            inode: metadata.ino(),
            file,
        }))
    }

    fn is(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }
}
