//! Notes, in the state directory, of what a killed agent would leave behind:
//! temporary files that have a name, and directories made for a copy. The next
//! start reads them and cleans up.
//!
//! A copy has one file of notes, made when there is something to note, locked
//! while the copy runs and removed at its end. An entry is a letter, an absolute
//! path and a NUL. It is written before what it names is made.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use slog::{Logger, info, warn};

use crate::make_state_directory;

const PREFIX: &str = "fcopy-";
const SUFFIX: &str = ".pending";

const TEMPORARY_PREFIX: &str = ".hyperv-agent-";
const TEMPORARY_SUFFIX: &str = ".part";

const FILE: u8 = b'f';
const DIRECTORY: u8 = b'd';

/// Bytes of notes that are read, at most: a path for each component of a path,
/// with room to spare.
const MAX_NOTES: u64 = 1 << 20;

/// The notes of one copy.
pub(super) struct Record {
    state_directory: PathBuf,
    log: Logger,
    notes: Notes,
}

enum Notes {
    /// Nothing to note so far.
    None,
    Open(PathBuf, File),
    /// They could not be written, which was logged.
    Failed,
}

impl Record {
    pub(super) fn new(state_directory: &Path, log: &Logger) -> Self {
        Self {
            state_directory: state_directory.to_owned(),
            log: log.clone(),
            notes: Notes::None,
        }
    }

    /// Notes a temporary file that is about to be made.
    pub(super) fn temporary(&mut self, directory: BorrowedFd<'_>, name: &OsStr) {
        self.note(FILE, directory, name);
    }

    /// Notes a directory that is about to be made.
    pub(super) fn directory(&mut self, parent: BorrowedFd<'_>, name: &OsStr) {
        self.note(DIRECTORY, parent, name);
    }

    /// A copy goes on without notes: they matter only where the agent is killed.
    fn note(&mut self, kind: u8, directory: BorrowedFd<'_>, name: &OsStr) {
        if let Err(error) = self.try_note(kind, directory, name) {
            if !matches!(self.notes, Notes::Failed) {
                warn!(self.log, "cannot note an unfinished copy; were the agent killed now, a \
                    temporary file could stay behind";
                    "state_directory" => ?self.state_directory, "reason" => %error);
            }
            self.notes = Notes::Failed;
        }
    }

    fn try_note(&mut self, kind: u8, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let directory = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        if let Notes::None = self.notes {
            make_state_directory(&self.state_directory)?;
            let path = self
                .state_directory
                .join(format!("{PREFIX}{:016x}{SUFFIX}", random()));
            let file = File::options()
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            self.notes = Notes::Open(path, file);
        }
        if let Notes::Open(_, file) = &mut self.notes {
            let mut entry = vec![kind];
            entry.extend_from_slice(directory.join(name).as_os_str().as_bytes());
            entry.push(0);
            file.write_all(&entry)?;
            file.sync_data()?;
        }
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Notes::Open(path, _) = &self.notes {
            // Notes that stay name what is gone: the next start drops them.
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes what copies left behind whose agent was killed. Notes that another
/// process holds belong to a copy that runs, and are left alone.
pub(super) fn clean(state_directory: &Path, log: &Logger) {
    let Ok(entries) = fs::read_dir(state_directory) else {
        // Nothing was ever noted, or nothing can be read that could be.
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_bytes();
        if !(name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())) {
            continue;
        }
        let path = entry.path();
        if let Err(error) = clean_one(&path, log) {
            warn!(log, "cannot clean up after an interrupted copy";
                "notes" => ?path, "reason" => %error);
        }
    }
}

fn clean_one(path: &Path, log: &Logger) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let mut notes = Vec::new();
    file.take(MAX_NOTES).read_to_end(&mut notes)?;
    for note in notes.rsplit(|&byte| byte == 0) {
        let Some((&kind, left)) = note.split_first() else {
            continue;
        };
        let left = Path::new(OsStr::from_bytes(left));
        let done = match kind {
            FILE if is_temporary(left) => fs::remove_file(left),
            DIRECTORY => fs::remove_dir(left),
            _ => continue,
        };
        match done {
            Ok(()) => info!(log, "removed what an interrupted copy left"; "path" => ?left),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Somebody else uses the directory by now.
            Err(_) if kind == DIRECTORY => {}
            Err(error) => return Err(error),
        }
    }
    fs::remove_file(path)
}

/// A new name for a temporary file.
pub(super) fn temporary_name() -> OsString {
    format!("{TEMPORARY_PREFIX}{:016x}{TEMPORARY_SUFFIX}", random()).into()
}

/// Whether `path` is a regular file with a name that [`temporary_name`] gives.
fn is_temporary(path: &Path) -> bool {
    let named = path
        .file_name()
        .and_then(OsStr::to_str)
        .and_then(|name| name.strip_prefix(TEMPORARY_PREFIX))
        .and_then(|name| name.strip_suffix(TEMPORARY_SUFFIX))
        .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    named && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Enough to make names differ; where one is taken, another is tried.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use slog::{Discard, o};

    use super::*;

    fn log() -> Logger {
        Logger::root(Discard, o!())
    }

    /// Notes as a killed agent leaves them.
    fn leave(state: &Path, entries: &[(u8, &Path)]) -> PathBuf {
        let notes = state.join("fcopy-0123456789abcdef.pending");
        let mut bytes = Vec::new();
        for (kind, path) in entries {
            bytes.push(*kind);
            bytes.extend_from_slice(path.as_os_str().as_bytes());
            bytes.push(0);
        }
        fs::write(&notes, bytes).unwrap();
        notes
    }

    #[test]
    fn what_was_noted_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let (outer, inner) = (place.path().join("a"), place.path().join("a/b"));
        let part = inner.join(temporary_name());
        fs::create_dir_all(&inner).unwrap();
        fs::write(&part, "half").unwrap();
        let notes = leave(
            state.path(),
            &[(b'd', &outer), (b'd', &inner), (b'f', &part)],
        );
        clean(state.path(), &log());
        assert!(!outer.exists());
        assert!(!notes.exists());
    }

    #[test]
    fn what_was_not_ours_stays() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let precious = place.path().join("precious");
        let link = place.path().join(temporary_name());
        let used = place.path().join("used");
        fs::write(&precious, "x").unwrap();
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        fs::create_dir(&used).unwrap();
        fs::write(used.join("file"), "x").unwrap();
        let entries = [
            (b'f', &*precious),
            (b'f', &*link),
            (b'd', &*used),
            (b'x', &*precious),
        ];
        let notes = leave(state.path(), &entries);
        clean(state.path(), &log());
        assert!(precious.exists() && link.is_symlink() && used.join("file").exists());
        assert!(!notes.exists());
    }

    #[test]
    fn notes_of_a_running_copy_are_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let directory = File::open(place.path()).unwrap();
        let name = temporary_name();
        let mut record = Record::new(state.path(), &log());
        record.temporary(directory.as_fd(), &name);
        let part = place.path().join(&name);
        fs::write(&part, "half").unwrap();
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);

        clean(state.path(), &log());
        assert!(part.exists());

        drop(record);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_survived() {
        let place = tempfile::tempdir().unwrap();
        let directory = File::open(place.path()).unwrap();
        let mut record = Record::new(Path::new("/proc/nothing/here"), &log());
        record.temporary(directory.as_fd(), &temporary_name());
        assert!(matches!(record.notes, Notes::Failed));
        clean(Path::new("/proc/nothing/here"), &log());
    }
}
