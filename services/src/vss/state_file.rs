//! The note of what is frozen, for an agent that is started after one that
//! could not thaw, and for an administrator who does it by hand.
//!
//! It is a file in the runtime directory, whole or absent, of a line for each
//! thing: `frozen MAJOR:MINOR MOUNT-POINT` for a file system, in the order in which
//! they were frozen, `guard PID` for the process that freezes them, `hook PATH` for
//! a program that waits for the end, `rehearsal` where no host asked for it, and
//! `rcu_expedited 0` where the guard may make that 1 while it freezes. In a
//! mount point a backslash and a newline are `\134` and `\012`, as the kernel writes
//! them. It is there for as long as the host may still ask for a thaw that nobody can
//! give it any more.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::device_number::DeviceNumber;
use super::open::Opened;
use crate::trusted::{make_runtime_directory, open_directory};

const NAME: &str = "vss-frozen";

/// What it is called until it is whole.
const NEW: &str = "vss-frozen.new";

/// Bytes that are read of it: more than of any number of file systems and hooks.
const MOST: u64 = 64 << 20;

/// Says that the kernel is not to hurry.
const HURRY: &[u8] = b"rcu_expedited 0";

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FreezeRecord {
    /// The file systems, in the order in which they were frozen.
    pub frozen: Vec<FrozenFileSystem>,
    /// The process that freezes and thaws them.
    pub guard: Option<u32>,
    /// The hooks that wait for the end, in the order in which they ran.
    pub hooks: Vec<PathBuf>,
    /// Whether it is a rehearsal.
    pub rehearsal: bool,
    /// Whether the guard may have the kernel hurry while it freezes, which it did not
    /// do before: `/sys/kernel/rcu_expedited` was 0.
    pub rcu_expedited: bool,
}

/// A file system that is noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenFileSystem {
    /// The kernel's number for it.
    pub device: DeviceNumber,
    /// Where it was mounted; empty where that is not known.
    pub mount_point: PathBuf,
}

impl From<&Opened> for FrozenFileSystem {
    fn from(opened: &Opened) -> Self {
        Self {
            device: opened.device,
            mount_point: opened.mount_point.clone(),
        }
    }
}

/// Writes `note` in `directory`, in place of what was there.
///
/// # Errors
///
/// Where the file cannot be written; what was there stays.
pub fn write(directory: &Path, note: &FreezeRecord) -> io::Result<()> {
    let directory = make_runtime_directory(directory)?;
    match unlinkat(&directory, NEW, AtFlags::empty()) {
        Err(Errno::NOENT) => {}
        gone => gone?,
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let new = openat(&directory, NEW, flags, Mode::from_raw_mode(0o644))?;
    File::from(new).write_all(&encode(note))?;
    Ok(renameat(&directory, NEW, &directory, NAME)?)
}

/// What the file is to say.
pub fn encode(note: &FreezeRecord) -> Vec<u8> {
    let mut text = Vec::new();
    for noted in &note.frozen {
        text.extend_from_slice(format!("frozen {} ", noted.device).as_bytes());
        for byte in noted.mount_point.as_os_str().as_bytes() {
            match byte {
                b'\n' => text.extend_from_slice(br"\012"),
                b'\\' => text.extend_from_slice(br"\134"),
                byte => text.push(*byte),
            }
        }
        text.push(b'\n');
    }
    if let Some(guard) = note.guard {
        text.extend_from_slice(format!("guard {guard}\n").as_bytes());
    }
    for hook in &note.hooks {
        text.extend_from_slice(b"hook ");
        text.extend_from_slice(hook.as_os_str().as_bytes());
        text.push(b'\n');
    }
    if note.rehearsal {
        text.extend_from_slice(b"rehearsal\n");
    }
    if note.rcu_expedited {
        text.extend_from_slice(HURRY);
        text.push(b'\n');
    }
    text
}

/// Reads what is noted in `directory`, if anything is.
///
/// # Errors
///
/// Where the file is there and cannot be read, or others may have written it.
pub fn read(directory: &Path) -> io::Result<Option<FreezeRecord>> {
    match open(directory) {
        Ok(file) => {
            let mut text = Vec::new();
            file.take(MOST).read_to_end(&mut text)?;
            Ok(Some(parse(&text)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the file, without a wait where it is a pipe.
fn open(directory: &Path) -> io::Result<File> {
    let directory = open_directory(directory)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(directory, NAME, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{NAME} is no file"))),
    }
}

/// What such a file says. A line that says nothing is passed over.
pub fn parse(text: &[u8]) -> FreezeRecord {
    let mut note = FreezeRecord::default();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(words) = line.strip_prefix(b"frozen ") {
            note.frozen.extend(noted(words));
        } else if let Some(number) = line.strip_prefix(b"guard ") {
            note.guard = std::str::from_utf8(number)
                .ok()
                .and_then(|it| it.parse().ok());
        } else if let Some(path) = line.strip_prefix(b"hook ") {
            note.hooks.push(OsStr::from_bytes(path).into());
        } else if line == b"rehearsal" {
            note.rehearsal = true;
        } else if line == HURRY {
            note.rcu_expedited = true;
        }
    }
    note
}

/// The file system of these words. An agent of an earlier version noted no mount
/// point.
fn noted(words: &[u8]) -> Option<FrozenFileSystem> {
    let mut words = words.splitn(2, |&byte| byte == b' ');
    let device = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let mut mount_point = Vec::new();
    let mut rest = words.next().unwrap_or_default();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'\\', b'0', b'1', b'2', after @ ..] => (b'\n', after),
            [b'\\', b'1', b'3', b'4', after @ ..] => (b'\\', after),
            _ => (byte, after),
        };
        mount_point.push(byte);
        rest = after;
    }
    let mount_point = OsStr::from_bytes(&mount_point).into();
    Some(FrozenFileSystem {
        device,
        mount_point,
    })
}

/// Removes the note, if there is one.
///
/// # Errors
///
/// Where it stays.
pub fn remove(directory: &Path) -> io::Result<()> {
    let removed = open_directory(directory)
        .and_then(|directory| Ok(unlinkat(directory, NAME, AtFlags::empty())?));
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    fn noted(major: u32, minor: u32, mount_point: &[u8]) -> FrozenFileSystem {
        FrozenFileSystem {
            device: DeviceNumber { major, minor },
            mount_point: OsStr::from_bytes(mount_point).into(),
        }
    }

    #[test]
    fn what_was_noted_is_read_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("run");
        assert_eq!(read(&directory).unwrap(), None);
        remove(&directory).unwrap();
        let note = FreezeRecord {
            frozen: vec![
                noted(8, 1, b"/"),
                noted(0, 57, b"/srv/a b/\\134\nfrozen 1:1 /\n\xff"),
            ],
            guard: Some(42),
            hooks: vec![
                "/etc/vss.d/10 first".into(),
                OsStr::from_bytes(b"/etc/\xff").into(),
            ],
            rehearsal: true,
            rcu_expedited: true,
        };
        for note in [note, FreezeRecord::default()] {
            write(&directory, &note).unwrap();
            assert_eq!(read(&directory).unwrap(), Some(note));
        }
        remove(&directory).unwrap();
        assert_eq!(read(&directory).unwrap(), None);
    }

    #[test]
    fn nothing_that_others_may_have_planted_is_followed_or_read() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("run");
        fs::create_dir(&directory).unwrap();
        let secret = home.path().join("secret");
        let text = "frozen 8:1 /\n";
        fs::write(&secret, text).unwrap();
        for name in [NAME, NEW] {
            symlink(&secret, directory.join(name)).unwrap();
        }
        read(&directory).unwrap_err();
        write(&directory, &FreezeRecord::default()).unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), text);
        assert_eq!(read(&directory).unwrap(), Some(FreezeRecord::default()));
        // A pipe would be waited for.
        remove(&directory).unwrap();
        let pipe = directory.join(NAME);
        mknodat(CWD, &pipe, FileType::Fifo, 0o600.into(), 0).unwrap();
        read(&directory).unwrap_err();
        remove(&directory).unwrap();

        // A directory that is not the agent's alone.
        fs::set_permissions(&directory, Permissions::from_mode(0o1777)).unwrap();
        let error = write(&directory, &FreezeRecord::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("mode 1777"), "{error}");
        fs::write(directory.join(NAME), text).unwrap();
        read(&directory).unwrap_err();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        read(&directory).unwrap();
    }

    #[test]
    fn what_says_nothing_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let text =
            "frozen 8\nfrozen x:1 /\n\nthawed 8:1 /\nfrozen 8:2\nfrozen 8:3 /x\nfrozen 9:\nguard x";
        fs::write(home.path().join(NAME), text).unwrap();
        let frozen = vec![noted(8, 2, b""), noted(8, 3, b"/x")];
        let note = FreezeRecord {
            frozen,
            ..FreezeRecord::default()
        };
        assert_eq!(read(home.path()).unwrap(), Some(note));
    }
}
