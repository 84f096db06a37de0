//! The directory of what lasts as long as the agent runs. Root reads there what is
//! frozen and which hooks to run: it is used only where nobody else can write to it.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat};

/// Makes the directory where it is missing, and opens it as [`open`] does.
///
/// # Errors
///
/// Where it cannot be made, and as [`open`].
pub fn make(directory: &Path) -> io::Result<OwnedFd> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    open(directory)
}

/// Opens the directory.
///
/// # Errors
///
/// Where it cannot be opened, is a symbolic link, belongs to another user than root or
/// the one that this process is, or can be written to by others.
pub fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())?;
    let stat = fstat(&opened)?;
    if ![0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid) {
        return Err(io::Error::other(format!(
            "it belongs to user {}, who could put anything there; see to it that it belongs to \
             root",
            stat.st_uid
        )));
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o022 != 0 {
        return Err(io::Error::other(format!(
            "users other than its owner can write to it (mode {mode:04o}); take that away with \
             chmod go-w"
        )));
    }
    Ok(opened)
}
