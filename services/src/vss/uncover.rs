//! A way to a file system that is mounted where no path leads to: others are
//! mounted over it.
//!
//! A thread can have a mount namespace of its own, a copy of the machine's. What
//! is unmounted there stays mounted for everybody else, and the copy goes with the
//! thread. What is unmounted on the machine meanwhile goes from the copy too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::device_number::DeviceNumber;
use super::mountinfo::{self, MountInfo};

/// What this thread has mounted.
pub(super) const LIST: &str = "proc/thread-self/mountinfo";

/// How many may be mounted one over the other.
const MOST: usize = 64;

/// Why no way was found.
#[derive(Debug, thiserror::Error)]
pub(super) enum UncoverError {
    #[error("a mount namespace to uncover it in cannot be made ({0})")]
    Namespace(Errno),
    #[error("{} cannot be unmounted in a mount namespace for that ({source})", point.display())]
    Unmount { point: PathBuf, source: Errno },
    #[error("it cannot be told what is mounted in a mount namespace for that ({0})")]
    List(io::Error),
    #[error("it is not mounted any more, or below too many others")]
    NotFound,
}

/// Takes away whatever hides the file system that is mounted at `point`, for this
/// thread alone, which is not to do anything else afterwards than to open that.
pub(super) fn uncover(device: DeviceNumber, point: &Path) -> Result<(), UncoverError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(UncoverError::Namespace)?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    let none = None::<&str>;
    // Without this the machine would see what is unmounted here.
    mount(none, "/", none, slave, none).map_err(UncoverError::Namespace)?;
    for _ in 0..MOST {
        let list = fs::read(Path::new("/").join(LIST)).map_err(UncoverError::List)?;
        let mounted = mountinfo::parse(&list);
        let hidden = mountinfo::hidden(&mounted);
        let is_it = |it: &&MountInfo| it.device == device && it.point == point;
        let it = mounted.iter().find(is_it).ok_or(UncoverError::NotFound)?;
        let point = match hidden.get(&it.id) {
            None => return Ok(()),
            // That would be all that this thread has.
            Some(cover) if cover.point == Path::new("/") => break,
            Some(cover) => cover.point.clone(),
        };
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        umount2(&point, flags).map_err(|source| UncoverError::Unmount { point, source })?;
    }
    Err(UncoverError::NotFound)
}
