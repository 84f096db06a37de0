//! Descriptors of the file systems that are to be frozen.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::mounts;
use super::plan::{DeviceNumber, FileSystem};
use super::stack::under;

/// A file system that is open.
#[derive(Debug)]
pub struct Opened {
    /// What it is frozen and thawed by.
    pub fd: OwnedFd,
    /// Where it was opened.
    pub mount_point: PathBuf,
    /// The kernel's number for it.
    pub device: DeviceNumber,
}

/// Why a file system cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was unmounted meanwhile.
    #[error("the {kind} file system of {source_name} is not mounted any more")]
    Gone {
        /// Its type.
        kind: String,
        /// What it had been mounted from.
        source_name: String,
    },
    /// It is mounted, and nowhere can it be opened.
    #[error("the {kind} file system of {source_name} cannot be opened ({obstacles})")]
    Nowhere {
        /// Its type.
        kind: String,
        /// What it was mounted from.
        source_name: String,
        /// What is in the way where it is mounted.
        obstacles: String,
    },
}

/// What keeps a file system from being opened at one of the places where it is
/// mounted.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("{0}")]
    Errno(#[from] Errno),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("another file system, {0}, is seen there")]
    Other(DeviceNumber),
    #[error("neither a directory nor a file is there")]
    NoFile,
}

/// Obstacles that are told.
const TOLD: usize = 3;

/// Opens a file system at the first of its mounts where that is possible. What
/// is opened is never another one, not even when it was unmounted meanwhile.
/// `root` stands for `/`.
///
/// # Errors
///
/// Any [`OpenError`].
pub fn open(file_system: &FileSystem, root: &Path) -> Result<Opened, OpenError> {
    let mut obstacles = String::new();
    for (tried, mount) in file_system.mounts.iter().enumerate() {
        match open_at(&mount.point, file_system.device, root) {
            Ok(fd) => {
                return Ok(Opened {
                    fd,
                    mount_point: mount.point.clone(),
                    device: file_system.device,
                });
            }
            Err(obstacle) if tried < TOLD => {
                let gap = if tried == 0 { "" } else { "; " };
                // Writing to a string does not fail.
                let _ = write!(obstacles, "{gap}{}: {obstacle}", mount.point.display());
            }
            Err(_) => {}
        }
    }
    let kind = file_system.kind.clone();
    let source_name = file_system.source.clone();
    // Where it cannot be told whether it is still mounted, it is.
    if let Ok(mounted) = mounts::read(root)
        && mounted.iter().all(|it| it.device != file_system.device)
    {
        return Err(OpenError::Gone { kind, source_name });
    }
    match file_system.mounts.len().saturating_sub(TOLD) {
        0 => {}
        more => {
            let _ = write!(obstacles, "; and {more} more");
        }
    }
    Err(OpenError::Nowhere {
        kind,
        source_name,
        obstacles,
    })
}

fn open_at(point: &Path, device: DeviceNumber, root: &Path) -> Result<OwnedFd, Obstacle> {
    // Looked at before it is opened: to open a device or a FIFO does something.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(under(root, point), flags, Mode::empty())?;
    let found = file_system_of(&place, device, root)?;
    if found != device {
        return Err(Obstacle::Other(found));
    }
    let stat = rustix::fs::fstat(&place)?;
    if !matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::Directory | FileType::RegularFile
    ) {
        return Err(Obstacle::NoFile);
    }
    // This opens what `place` is, wherever it may be by now.
    let place = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(place, flags, Mode::empty())?)
}

/// The number of the file system that `fd` is on: `expected` if it is that one.
fn file_system_of(
    fd: impl AsFd,
    expected: DeviceNumber,
    root: &Path,
) -> Result<DeviceNumber, Obstacle> {
    let device = DeviceNumber::from_raw(rustix::fs::fstat(&fd)?.st_dev);
    if device == expected {
        return Ok(device);
    }
    // Each subvolume of btrfs has a number of its own there.
    let id = mounts::id(fd)?;
    let mounted = mounts::read(root)?;
    let mount = mounted.iter().find(|mounted| mounted.id == id);
    Ok(mount.map_or(device, |mount| mount.device))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::super::plan::Mount;
    use super::*;

    fn file_system(device: DeviceNumber, points: &[&str]) -> FileSystem {
        let mount = |point: &&str| Mount {
            point: point.into(),
            ..Mount::default()
        };
        FileSystem {
            device,
            kind: "xfs".into(),
            source: "/dev/sdb".into(),
            mounts: points.iter().map(mount).collect(),
            ..FileSystem::default()
        }
    }

    #[test]
    fn the_first_that_is_a_directory_or_a_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let metadata = fs::metadata(root.path()).unwrap();
        let device = DeviceNumber::from_raw(metadata.dev());
        fs::create_dir(root.path().join("directory")).unwrap();
        std::os::unix::fs::symlink("directory", root.path().join("link")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        for (points, expected) in [
            (&["/missing", "/link", "/file", "/directory"][..], "/file"),
            (&["/directory/x", "/directory"], "/directory"),
        ] {
            let opened = open(&file_system(device, points), root.path()).unwrap();
            assert_eq!(opened.mount_point, Path::new(expected));
            assert_eq!(opened.device, device);
            let metadata = fs::File::from(opened.fd).metadata().unwrap();
            let path = root.path().join(expected.trim_start_matches('/'));
            assert_eq!(metadata.ino(), fs::metadata(path).unwrap().ino());
        }
    }

    #[test]
    fn another_file_system_is_not_opened_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path().join("proc/self");
        fs::create_dir_all(&proc).unwrap();
        let device = DeviceNumber::from_raw(fs::metadata("/proc").unwrap().dev());
        let points = ["/a", "/proc", "/c", "/d", "/e"];
        let file_system = file_system(device, &points);
        fs::write(proc.join("mountinfo"), "").unwrap();
        let error = open(&file_system, root.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the xfs file system of /dev/sdb is not mounted any more"
        );

        let list = format!("1 1 {device} / /a rw - xfs /dev/sdb rw\n");
        fs::write(proc.join("mountinfo"), list).unwrap();
        let error = open(&file_system, root.path()).unwrap_err().to_string();
        let here = DeviceNumber::from_raw(fs::metadata(root.path()).unwrap().dev());
        for words in [
            "the xfs file system of /dev/sdb cannot be opened (/a: No such file or directory",
            &format!("; /proc: another file system, {here}, is seen there; /c: "),
            "; and 2 more)",
        ] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!error.contains("/d:"), "{error}");
    }
}
