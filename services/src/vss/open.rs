//! Opens the file systems that are to be frozen.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::blocking::Lookups;
use super::device_number::DeviceNumber;
use super::file_system::FileSystem;
use super::mount_namespaces;
use super::mountinfo::{self, MountInfo};
use super::sysfs::under;
use super::uncover::{self, UncoverError};

/// An open file system.
#[derive(Debug)]
pub struct Opened {
    /// The descriptor by which it is frozen and thawed.
    pub fd: OwnedFd,
    /// The mount point at which it was opened.
    pub mount_point: PathBuf,
    /// Its device number.
    pub device: DeviceNumber,
    /// The file systems that must be frozen before this one.
    pub after: Vec<DeviceNumber>,
}

/// Why a file system cannot be opened, with its type and source.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was unmounted meanwhile.
    #[error("the {0} is not mounted any more")]
    Gone(String),
    /// It was shut down after an error: nothing can be read or written any more.
    #[error("the {0} was shut down after an error")]
    ShutDown(String),
    /// It is mounted and cannot be opened at any mount point.
    #[error("the {name} cannot be opened ({problems})")]
    Failed {
        /// Its type and the source that it was mounted from.
        name: String,
        /// The problem at each mount point.
        problems: String,
    },
}

/// Why a file system cannot be opened at one of its mount points.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Errno(#[from] Errno),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("another file system, {0}, is mounted there")]
    OtherFileSystem(DeviceNumber),
    #[error("not a directory or a regular file")]
    NoFile,
    #[error("it does not answer")]
    NotResponding,
    #[error(transparent)]
    Covered(#[from] UncoverError),
}

/// Flags to look at a path before it is opened: opening a device or a FIFO has side
/// effects.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How many problems an error lists.
const MAX_PROBLEMS: usize = 3;

/// Opens a file system at the first of its mounts where that is possible. Never opens
/// another one, not even if it was unmounted meanwhile. `root` stands for `/`. Skips a
/// mount that does not answer within seconds.
///
/// # Errors
///
/// Any [`OpenError`].
pub fn open(file_system: &FileSystem, root: &Path) -> Result<Opened, OpenError> {
    open_within(file_system, root, &Lookups::new())
}

/// Does the same with the time that is left for look-ups.
pub(super) fn open_within(
    file_system: &FileSystem,
    root: &Path,
    lookups: &Lookups,
) -> Result<Opened, OpenError> {
    let mut problems = String::new();
    let mut shut_down = false;
    let mut hidden = 0;
    for (tried, mount) in file_system.mounts.iter().enumerate() {
        let (point, device, root) = (mount.point.clone(), file_system.device, root.to_owned());
        let is_hidden = mount.hidden_under.is_some();
        let process = mount.process;
        let opened = lookups.run(&mount.point, move || match (process, is_hidden) {
            (None, false) => {
                let place = rustix::fs::open(under(&root, &point), PATH_ONLY, Mode::empty())?;
                open_if(device, &place, &root.join(mountinfo::LIST))
            }
            (None, true) => open_hidden(&point, device, &root),
            (Some(process), _) => open_in_namespace(&point, process, device, &root),
        });
        let opened = opened.unwrap_or(Err(Problem::NotResponding));
        shut_down |= matches!(opened, Err(Problem::Errno(Errno::IO)));
        match opened {
            Ok(fd) => {
                return Ok(Opened {
                    fd,
                    mount_point: mount.point.clone(),
                    device: file_system.device,
                    after: file_system.after.clone(),
                });
            }
            Err(problem) if tried < MAX_PROBLEMS => {
                let gap = if tried == 0 { "" } else { "; " };
                // Writing to a string does not fail.
                let _ = write!(problems, "{gap}{}: ", mount.point.display());
                if let Some(cover) = &mount.hidden_under {
                    let cover = cover.display();
                    let _ = write!(problems, "hidden under {cover}: ");
                }
                let _ = write!(problems, "{problem}");
            }
            Err(_) => {}
        }
        // Each takes a copy of the mount namespace.
        hidden += usize::from(is_hidden);
        if hidden == MAX_PROBLEMS {
            break;
        }
    }
    let name = format!("{} file system of {}", file_system.kind, file_system.source);
    if !is_mounted(file_system, root) {
        return Err(OpenError::Gone(name));
    }
    if shut_down {
        return Err(OpenError::ShutDown(name));
    }
    let more = file_system.mounts.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        let _ = write!(problems, "; and {more} more");
    }
    Err(OpenError::Failed { name, problems })
}

/// Returns whether it is still mounted, or that is not known.
fn is_mounted(file_system: &FileSystem, root: &Path) -> bool {
    let has = |mounted: Vec<MountInfo>| mounted.iter().any(|it| it.device == file_system.device);
    let processes: BTreeSet<_> = file_system.mounts.iter().map(|it| it.process).collect();
    processes.into_iter().any(|process| match process {
        None => mountinfo::read(root).map_or(true, has),
        // A process that has ended has no mounts.
        Some(process) => mount_namespaces::mounted(root, process).is_ok_and(has),
    })
}

/// Opens a file system that only another mount namespace has. Follows no links, since
/// users in that namespace may have planted some.
fn open_in_namespace(
    point: &Path,
    process: u32,
    device: DeviceNumber,
    root: &Path,
) -> Result<OwnedFd, Problem> {
    let its_root = mount_namespaces::root_of(process);
    let below = point.strip_prefix(&its_root).unwrap_or(point);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let its_root = rustix::fs::open(under(root, &its_root), flags, Mode::empty())?;
    let no_links = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    // An empty path is invalid.
    let below = Path::new(".").join(below);
    let place = rustix::fs::openat2(&its_root, below, PATH_ONLY, Mode::empty(), no_links)?;
    open_if(
        device,
        &place,
        &root.join(format!("proc/{process}/mountinfo")),
    )
}

/// Opens a file system that others hide. The thread must do nothing else afterwards.
fn open_hidden(point: &Path, device: DeviceNumber, root: &Path) -> Result<OwnedFd, Problem> {
    uncover::uncover(device, point)?;
    let place = rustix::fs::open(under(root, point), PATH_ONLY, Mode::empty())?;
    open_if(device, &place, &root.join(uncover::LIST))
}

/// Opens for reading what `place` refers to, if that is in the file system. `list` is the
/// list of mounts that has the mount of `place`.
fn open_if(device: DeviceNumber, place: &OwnedFd, list: &Path) -> Result<OwnedFd, Problem> {
    let found = file_system_of(place, device, list)?;
    if found != device {
        return Err(Problem::OtherFileSystem(found));
    }
    let stat = rustix::fs::fstat(place)?;
    if !matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::Directory | FileType::RegularFile
    ) {
        return Err(Problem::NoFile);
    }
    // This opens what `place` refers to, even if it was moved.
    let place = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(place, flags, Mode::empty())?)
}

/// Returns the number of the file system that `fd` is on, as `mountinfo` has it.
fn file_system_of(
    fd: impl AsFd,
    expected: DeviceNumber,
    list: &Path,
) -> Result<DeviceNumber, Problem> {
    let device = DeviceNumber::from_raw(rustix::fs::fstat(&fd)?.st_dev);
    if device == expected {
        return Ok(device);
    }
    // stat returns another number for each subvolume of btrfs.
    let id = mountinfo::id(fd)?;
    let mounted = mountinfo::parse(&fs::read(list)?);
    let mount = mounted.iter().find(|mounted| mounted.id == id);
    Ok(mount.map_or(device, |mount| mount.device))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::file_system::Mount;
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
    fn what_another_process_has_is_opened_through_its_root_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let its = root.path().join("proc/7/root");
        fs::create_dir_all(its.join("real/data")).unwrap();
        std::os::unix::fs::symlink("real", its.join("link")).unwrap();
        let device = DeviceNumber::of(root.path()).unwrap();
        let list = format!("1 1 {device} / /real/data rw - xfs /dev/sdb rw\n");
        fs::write(root.path().join("proc/7/mountinfo"), list).unwrap();
        let opened = |point: &str| {
            let mut file_system = file_system(device, &[point]);
            file_system.mounts[0].process = Some(7);
            open(&file_system, root.path())
        };
        for point in ["/proc/7/root/real/data", "/proc/7/root"] {
            assert_eq!(opened(point).unwrap().mount_point, Path::new(point));
        }
        for (point, words) in [
            (
                "/proc/7/root/link/data",
                "Too many levels of symbolic links",
            ),
            ("/proc/7/root/gone", "No such file or directory"),
        ] {
            let error = opened(point).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        // It has ended.
        fs::remove_dir_all(root.path().join("proc/7")).unwrap();
        let error = opened("/proc/7/root/real/data").unwrap_err();
        assert!(matches!(error, OpenError::Gone { .. }), "{error}");
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
            &format!("; /proc: another file system, {here}, is mounted there; /c: "),
            "; and 2 more)",
        ] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!error.contains("/d:"), "{error}");
    }
}
