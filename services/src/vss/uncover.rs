//! Uncovers a file system that no path leads to, since others are mounted over it.
//!
//! A thread can have its own mount namespace, a copy of the machine's. What is unmounted
//! in the copy stays mounted for everybody else, and the copy ends with the thread. What is
//! unmounted on the machine meanwhile is unmounted in the copy too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::device_number::DeviceNumber;
use super::mountinfo::{self, MountInfo};

/// The mounts of this thread.
pub(super) const LIST: &str = "proc/thread-self/mountinfo";

/// How many file systems are unmounted to uncover one.
const MAX_COVERS: usize = 64;

/// Why a file system cannot be uncovered.
#[derive(Debug, thiserror::Error)]
pub(super) enum UncoverError {
    #[error("cannot make a mount namespace to uncover it: {0}")]
    Namespace(Errno),
    #[error("cannot unmount {} in a mount namespace to uncover it: {source}", point.display())]
    Unmount { point: PathBuf, source: Errno },
    #[error("cannot read the mounts of a mount namespace to uncover it: {0}")]
    List(io::Error),
    #[error("it is not mounted any more, or too many others hide it")]
    NotFound,
}

/// Unmounts what hides the file system at `point`, for this thread only. The thread must
/// do nothing afterwards but open that file system.
pub(super) fn uncover(device: DeviceNumber, point: &Path) -> Result<(), UncoverError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(UncoverError::Namespace)?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    let none = None::<&str>;
    // Otherwise what is unmounted here would be unmounted everywhere.
    mount(none, "/", none, slave, none).map_err(UncoverError::Namespace)?;
    for _ in 0..MAX_COVERS {
        let list = fs::read(Path::new("/").join(LIST)).map_err(UncoverError::List)?;
        let mounted = mountinfo::parse(&list);
        let hidden = mountinfo::hidden(&mounted);
        let is_it = |it: &&MountInfo| it.device == device && it.point == point;
        let it = mounted.iter().find(is_it).ok_or(UncoverError::NotFound)?;
        let point = match hidden.get(&it.id) {
            None => return Ok(()),
            // Nothing would be left to this thread.
            Some(cover) if cover.point == Path::new("/") => break,
            Some(cover) => cover.point.clone(),
        };
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        umount2(&point, flags).map_err(|source| UncoverError::Unmount { point, source })?;
    }
    Err(UncoverError::NotFound)
}
