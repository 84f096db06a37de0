//! Writing a small file atomically.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

/// A file that takes the place of whatever has its name.
pub(crate) struct NewFile<'a> {
    pub(crate) name: &'a OsStr,
    pub(crate) bytes: &'a [u8],
    /// Permission bits, whatever the umask is.
    pub(crate) mode: u32,
    /// User and group; those of this process if `None`.
    pub(crate) owner: Option<(u32, u32)>,
    /// Whether the file is synced to its disk.
    pub(crate) sync: bool,
}

impl NewFile<'_> {
    /// Writes the file to `directory` by way of a hidden one, `.NAME.hyperv-agent`, which
    /// a killed agent may leave behind.
    ///
    /// # Errors
    ///
    /// Returns the error of the call that failed; the file of that name is unchanged
    /// unless only the sync of its directory failed.
    pub(crate) fn write(&self, directory: &OwnedFd) -> io::Result<()> {
        let mut temporary = OsString::from(".");
        temporary.push(self.name);
        temporary.push(".hyperv-agent");
        match unlinkat(directory, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let written = self
            .write_temporary(directory, &temporary)
            .and_then(|()| Ok(renameat(directory, &temporary, directory, self.name)?));
        if let Err(error) = written {
            let _ = unlinkat(directory, &temporary, AtFlags::empty());
            return Err(error);
        }
        match self.sync {
            true => Ok(fsync(directory)?),
            false => Ok(()),
        }
    }

    fn write_temporary(&self, directory: &OwnedFd, temporary: &OsStr) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(directory, temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(self.bytes)?;
        if let Some((uid, gid)) = self.owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        fchmod(&file, Mode::from_raw_mode(self.mode))?;
        match self.sync {
            true => file.sync_all(),
            false => Ok(()),
        }
    }
}
