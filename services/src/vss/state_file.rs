//! The state file: the record of a freeze for the agent that is started after one that was
//! killed, and for `hyperv-agent thaw`.
//!
//! The file is in the runtime directory, complete or absent. It has these lines:
//!
//! - `frozen MAJOR:MINOR MOUNT-POINT` for each file system, in freeze order
//! - `guard PID` for the guard's process
//! - `hook PATH` for each hook that ran with `freeze`
//! - `rehearsal` if an administrator asked for the freeze
//! - `rcu_expedited 0` if the guard may have set that to 1
//!
//! A backslash and a newline in a mount point are `\134` and `\012`, as in `mountinfo`. An
//! empty file means that nothing is frozen, but the host's next THAW has to fail.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::device_number::DeviceNumber;
use super::mountinfo;
use super::open::Opened;
use crate::replace::NewFile;
use crate::trusted::{make_runtime_directory, open_directory};

const NAME: &str = "vss-frozen";

/// How many bytes of it are read: more than the agent ever writes.
const MAX_LEN: u64 = 64 << 20;

/// The line for `rcu_expedited`.
const RCU_EXPEDITED: &[u8] = b"rcu_expedited 0";

/// The record of a freeze.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FreezeRecord {
    /// The file systems, in freeze order.
    pub frozen: Vec<FrozenFileSystem>,
    /// The process ID of the guard.
    pub guard: Option<u32>,
    /// The hooks that have to be run with `thaw`, in the order in which they ran.
    pub hooks: Vec<PathBuf>,
    /// Whether this is a rehearsal.
    pub rehearsal: bool,
    /// Whether the guard may have set `/sys/kernel/rcu_expedited`, which was 0 before.
    pub rcu_expedited: bool,
}

/// A frozen file system in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenFileSystem {
    /// Its device number.
    pub device: DeviceNumber,
    /// Its mount point; empty if that is not known.
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

/// Replaces the record in `directory`.
///
/// # Errors
///
/// If the file cannot be written; the record before stays.
pub fn write(directory: &Path, record: &FreezeRecord) -> io::Result<()> {
    let file = NewFile {
        name: NAME.as_ref(),
        bytes: &encode(record),
        mode: 0o644,
        owner: None,
        sync: false,
    };
    file.write(&make_runtime_directory(directory)?)
}

/// Returns whether there is a record in `directory`.
pub fn exists(directory: &Path) -> bool {
    directory.join(NAME).exists()
}

/// Returns the content of the file.
pub fn encode(record: &FreezeRecord) -> Vec<u8> {
    let mut text = Vec::new();
    for frozen in &record.frozen {
        text.extend_from_slice(format!("frozen {} ", frozen.device).as_bytes());
        for byte in frozen.mount_point.as_os_str().as_bytes() {
            match byte {
                b'\n' => text.extend_from_slice(br"\012"),
                b'\\' => text.extend_from_slice(br"\134"),
                byte => text.push(*byte),
            }
        }
        text.push(b'\n');
    }
    if let Some(guard) = record.guard {
        text.extend_from_slice(format!("guard {guard}\n").as_bytes());
    }
    for hook in &record.hooks {
        text.extend([b"hook ", hook.as_os_str().as_bytes(), b"\n"].concat());
    }
    if record.rehearsal {
        text.extend_from_slice(b"rehearsal\n");
    }
    if record.rcu_expedited {
        text.extend_from_slice(RCU_EXPEDITED);
        text.push(b'\n');
    }
    text
}

/// Reads the record in `directory`, if there is one.
///
/// # Errors
///
/// If the file cannot be read, or others may have written it.
pub fn read(directory: &Path) -> io::Result<Option<FreezeRecord>> {
    match open(directory) {
        Ok(file) => {
            let mut text = Vec::new();
            file.take(MAX_LEN).read_to_end(&mut text)?;
            Ok(Some(parse(&text)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the file; does not block on a pipe.
fn open(directory: &Path) -> io::Result<File> {
    let directory = open_directory(directory)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(directory, NAME, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{NAME} is not a regular file"))),
    }
}

/// Parses the content of the file. Skips invalid lines.
pub fn parse(text: &[u8]) -> FreezeRecord {
    let mut record = FreezeRecord::default();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(words) = line.strip_prefix(b"frozen ") {
            record.frozen.extend(frozen(words));
        } else if let Some(number) = line.strip_prefix(b"guard ") {
            let number = std::str::from_utf8(number).ok();
            record.guard = number.and_then(|it| it.parse().ok());
        } else if let Some(path) = line.strip_prefix(b"hook ") {
            record.hooks.push(OsStr::from_bytes(path).into());
        } else if line == b"rehearsal" {
            record.rehearsal = true;
        } else if line == RCU_EXPEDITED {
            record.rcu_expedited = true;
        }
    }
    record
}

/// Parses what follows `frozen`. Early versions of the agent wrote no mount point.
fn frozen(words: &[u8]) -> Option<FrozenFileSystem> {
    let mut words = words.splitn(2, |&byte| byte == b' ');
    let device = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    Some(FrozenFileSystem {
        device,
        mount_point: mountinfo::decode(words.next().unwrap_or_default()).into(),
    })
}

/// Removes the record, if there is one.
///
/// # Errors
///
/// If it cannot be removed.
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

    fn frozen(major: u32, minor: u32, mount_point: &[u8]) -> FrozenFileSystem {
        FrozenFileSystem {
            device: DeviceNumber { major, minor },
            mount_point: OsStr::from_bytes(mount_point).into(),
        }
    }

    #[test]
    fn a_record_is_read_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("run");
        assert_eq!(read(&directory).unwrap(), None);
        remove(&directory).unwrap();
        let record = FreezeRecord {
            frozen: vec![
                frozen(8, 1, b"/"),
                frozen(0, 57, b"/srv/a b/\\134\nfrozen 1:1 /\n\xff"),
            ],
            guard: Some(42),
            hooks: vec![
                "/etc/vss.d/10 first".into(),
                OsStr::from_bytes(b"/etc/\xff").into(),
            ],
            rehearsal: true,
            rcu_expedited: true,
        };
        for record in [record, FreezeRecord::default()] {
            write(&directory, &record).unwrap();
            assert_eq!(read(&directory).unwrap(), Some(record));
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
        for name in [NAME, ".vss-frozen.hyperv-agent"] {
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

        // A directory that others can write to.
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
    fn invalid_lines_are_skipped() {
        let home = tempfile::tempdir().unwrap();
        let text =
            "frozen 8\nfrozen x:1 /\n\nthawed 8:1 /\nfrozen 8:2\nfrozen 8:3 /x\nfrozen 9:\nguard x";
        fs::write(home.path().join(NAME), text).unwrap();
        let frozen = vec![frozen(8, 2, b""), frozen(8, 3, b"/x")];
        let record = FreezeRecord {
            frozen,
            ..FreezeRecord::default()
        };
        assert_eq!(read(home.path()).unwrap(), Some(record));
    }
}
