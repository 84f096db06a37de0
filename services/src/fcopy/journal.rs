//! Records, in the state directory, what a killed agent would leave behind: temporary files
//! that have a name, and directories that a copy created. The next start cleans up by it.
//!
//! A copy has one journal file, created when there is something to record, locked during the
//! copy and removed after it. An entry is a letter, an absolute path and a NUL. It is
//! written before a file, and after a directory, is created. That of a directory has inode
//! number and birth time between letter and path: another directory of the same name belongs
//! to somebody else. If the file system has no birth times, directories are not recorded.
//!
//! A state directory to which others may write is not used.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Statx, StatxFlags, flock, openat, unlinkat,
};
use slog::{Logger, info, warn};

use super::confine::Walk;
use super::entry::{Entry, ownership, stat};
use crate::trusted::{make_state_directory, open_directory};

const PREFIX: &str = "fcopy-";
const SUFFIX: &str = ".pending";

const TEMPORARY_PREFIX: &str = ".hyperv-agent-";
const TEMPORARY_SUFFIX: &str = ".part";

const FILE: u8 = b'f';
const DIRECTORY: u8 = b'd';

/// Most bytes of a journal that are read: more than one path for each component of a path.
const MAX_JOURNAL: u64 = 1 << 20;

/// The journal of a copy.
pub(super) struct Journal {
    state_directory: PathBuf,
    log: Logger,
    file: JournalFile,
}

enum JournalFile {
    /// Nothing was recorded yet.
    None,
    Open {
        directory: OwnedFd,
        name: String,
        file: File,
    },
    /// It could not be written, which was logged.
    Failed,
}

impl Journal {
    pub(super) fn new(state_directory: &Path, log: &Logger) -> Self {
        Self {
            state_directory: state_directory.to_owned(),
            log: log.clone(),
            file: JournalFile::None,
        }
    }

    /// Records a temporary file that is about to be created.
    pub(super) fn add_file(&mut self, directory: BorrowedFd<'_>, name: &OsStr) {
        self.append(&[FILE], directory, name);
    }

    /// Records a directory that was created and has this status.
    pub(super) fn add_directory(&mut self, parent: BorrowedFd<'_>, name: &OsStr, found: &Statx) {
        if let Some(identity) = identity(found) {
            let mut entry = vec![DIRECTORY];
            entry.extend_from_slice(identity.as_bytes());
            self.append(&entry, parent, name);
        }
    }

    /// A copy continues without a journal, which matters only if the agent is killed.
    fn append(&mut self, what: &[u8], directory: BorrowedFd<'_>, name: &OsStr) {
        if let Err(error) = self.try_append(what, directory, name) {
            if !matches!(self.file, JournalFile::Failed) {
                warn!(self.log, "cannot write the journal of a copy; a temporary file may \
                    stay behind if the agent is killed";
                    "state_directory" => ?self.state_directory, "reason" => %error);
            }
            self.file = JournalFile::Failed;
        }
    }

    fn try_append(
        &mut self,
        what: &[u8],
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<()> {
        let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        if let JournalFile::None = self.file {
            let directory = make_state_directory(&self.state_directory)?;
            let name = format!("{PREFIX}{:016x}{SUFFIX}", random());
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::APPEND;
            let flags = flags | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = File::from(openat(&directory, &*name, flags, mode)?);
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            self.file = JournalFile::Open {
                directory,
                name,
                file,
            };
        }
        if let JournalFile::Open { file, .. } = &mut self.file {
            let mut entry = what.to_vec();
            entry.extend_from_slice(path.join(name).as_os_str().as_bytes());
            entry.push(0);
            file.write_all(&entry)?;
            file.sync_data()?;
        }
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let JournalFile::Open {
            directory, name, ..
        } = &self.file
        {
            // If it stays, its files are gone, and the next start removes it.
            let _ = unlinkat(directory, &**name, AtFlags::empty());
        }
    }
}

/// Removes what copies of a killed agent left behind. A journal that another process has
/// locked belongs to a copy in progress and is skipped.
pub(super) fn clean(state_directory: &Path, log: &Logger) {
    let directory = match open_directory(state_directory) {
        Ok(directory) => directory,
        // Nothing was ever recorded.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            // A journal that others wrote could name any file to remove.
            warn!(log, "ignoring the journals of interrupted copies";
                "state_directory" => ?state_directory, "reason" => %error);
            return;
        }
    };
    let Ok(entries) = fs::read_dir(state_directory) else {
        return;
    };
    for name in entries.flatten().map(|entry| entry.file_name()) {
        let bytes = name.as_bytes();
        if !(bytes.starts_with(PREFIX.as_bytes()) && bytes.ends_with(SUFFIX.as_bytes())) {
            continue;
        }
        if let Err(error) = clean_one(directory.as_fd(), &name, log) {
            warn!(log, "cannot clean up after an interrupted copy";
                "journal" => ?state_directory.join(name), "reason" => %error);
        }
    }
}

fn clean_one(directory: BorrowedFd<'_>, name: &OsStr, log: &Logger) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let found = stat(file.as_fd())?;
    let regular = FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile;
    if !(regular && ownership(&found).is_private()) {
        return Err(io::Error::other(
            "other users could have written this journal; remove it",
        ));
    }
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let mut journal = Vec::new();
    file.take(MAX_JOURNAL).read_to_end(&mut journal)?;
    for entry in journal.rsplit(|&byte| byte == 0) {
        let Some((kind, identity, left)) = parse(entry) else {
            continue;
        };
        match remove(kind, identity, left) {
            Ok(true) => info!(log, "removed a leftover of an interrupted copy"; "path" => ?left),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Another program uses the directory.
            Err(_) if kind == DIRECTORY => {}
            Err(error) => return Err(error),
        }
    }
    Ok(unlinkat(directory, name, AtFlags::empty())?)
}

/// Parses an entry into its letter, identity and path.
fn parse(entry: &[u8]) -> Option<(u8, &[u8], &Path)> {
    let (&kind, rest) = entry.split_first()?;
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    let (identity, path) = rest.split_at(slash);
    Some((kind, identity, Path::new(OsStr::from_bytes(path))))
}

/// Removes a recorded file or directory; `false` if it is another one now, or its path has a
/// symbolic link now.
fn remove(kind: u8, recorded: &[u8], path: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(false);
    };
    let walk = Walk::from_root(None).map(Walk::without_links);
    let Ok(walk) = walk.and_then(|mut walk| walk.follow(parent).map(|()| walk)) else {
        return Ok(false);
    };
    let Ok((parent, _)) = walk.here() else {
        return Ok(false);
    };
    let entry = Entry::look(parent, name)?;
    let flags = match (kind, entry.kind()) {
        (FILE, FileType::RegularFile) if is_temporary(name) => AtFlags::empty(),
        (DIRECTORY, FileType::Directory)
            if identity(&entry.found).is_some_and(|now| now.as_bytes() == recorded) =>
        {
            AtFlags::REMOVEDIR
        }
        _ => return Ok(false),
    };
    unlinkat(parent, name, flags)?;
    Ok(true)
}

/// Formats inode number and birth time of a directory; `None` if its file system has no
/// birth times.
fn identity(found: &Statx) -> Option<String> {
    let born = found.stx_btime;
    StatxFlags::from_bits_retain(found.stx_mask)
        .contains(StatxFlags::BTIME)
        .then(|| format!("{} {}.{:09} ", found.stx_ino, born.tv_sec, born.tv_nsec))
}

/// Returns a random name for a temporary file.
pub(super) fn temporary_name() -> OsString {
    format!("{TEMPORARY_PREFIX}{:016x}{TEMPORARY_SUFFIX}", random()).into()
}

/// Whether [`temporary_name`] could have returned `name`.
fn is_temporary(name: &OsStr) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix(TEMPORARY_PREFIX))
        .and_then(|name| name.strip_suffix(TEMPORARY_SUFFIX))
        .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Random enough for names: if one exists, another is tried.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use slog::{Discard, o};

    use super::*;

    fn log() -> Logger {
        Logger::root(Discard, o!())
    }

    /// Writes a journal as a killed agent leaves it.
    fn leave(state: &Path, entries: &[(u8, &Path)]) -> PathBuf {
        let journal = state.join("fcopy-0123456789abcdef.pending");
        let mut bytes = Vec::new();
        for (kind, path) in entries {
            bytes.push(*kind);
            if *kind == DIRECTORY {
                let found = stat(File::open(path).unwrap().as_fd()).unwrap();
                bytes.extend(identity(&found).unwrap().into_bytes());
            }
            bytes.extend_from_slice(path.as_os_str().as_bytes());
            bytes.push(0);
        }
        fs::write(&journal, bytes).unwrap();
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o600)).unwrap();
        journal
    }

    #[test]
    fn recorded_files_and_directories_are_removed() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let (outer, inner) = (place.path().join("a"), place.path().join("a/b"));
        let part = inner.join(temporary_name());
        fs::create_dir_all(&inner).unwrap();
        fs::write(&part, "half").unwrap();
        let journal = leave(
            state.path(),
            &[(b'd', &outer), (b'd', &inner), (b'f', &part)],
        );
        clean(state.path(), &log());
        assert!(!outer.exists());
        assert!(!journal.exists());
    }

    #[test]
    fn files_of_others_stay() {
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
        let journal = leave(state.path(), &entries);
        clean(state.path(), &log());
        assert!(precious.exists() && link.is_symlink() && used.join("file").exists());
        assert!(!journal.exists());
    }

    #[test]
    fn a_directory_of_another_program_stays() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let (again, link) = (place.path().join("again"), place.path().join("link/again"));
        fs::create_dir_all(&again).unwrap();
        symlink(place.path(), place.path().join("link")).unwrap();
        // An entry without an identity.
        let old = [b"d", again.as_os_str().as_bytes(), b"\0"].concat();
        fs::write(leave(state.path(), &[]), old).unwrap();
        clean(state.path(), &log());
        assert!(again.exists() && names(state.path()).is_empty());

        // The path has a link that is new.
        leave(state.path(), &[(b'd', &link)]);
        clean(state.path(), &log());
        assert!(again.exists() && names(state.path()).is_empty());

        leave(state.path(), &[(b'd', &again)]);
        fs::remove_dir(&again).unwrap();
        // Its inode may be the same.
        fs::create_dir(&again).unwrap();
        clean(state.path(), &log());
        assert!(again.exists() && names(state.path()).is_empty());

        leave(state.path(), &[(b'd', &again)]);
        clean(state.path(), &log());
        assert!(!again.exists());
    }

    #[test]
    fn a_journal_that_others_could_have_written_is_not_read() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let part = place.path().join(temporary_name());
        fs::write(&part, "half").unwrap();
        let journal = leave(state.path(), &[(b'f', &part)]);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&journal, 0o622);
        clean(state.path(), &log());
        mode(&journal, 0o600);
        mode(state.path(), 0o777);
        clean(state.path(), &log());
        let directory = File::open(place.path()).unwrap();
        let mut journal = Journal::new(state.path(), &log());
        journal.add_file(directory.as_fd(), &temporary_name());
        assert!(matches!(journal.file, JournalFile::Failed));
        assert!(part.exists());
        assert_eq!(names(state.path()).len(), 1);
        mode(state.path(), 0o700);
        clean(state.path(), &log());
        assert!(!part.exists());
    }

    fn names(directory: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn the_journal_of_a_running_copy_is_skipped() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let directory = File::open(place.path()).unwrap();
        let name = temporary_name();
        let mut journal = Journal::new(state.path(), &log());
        journal.add_file(directory.as_fd(), &name);
        let part = place.path().join(&name);
        fs::write(&part, "half").unwrap();
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);

        clean(state.path(), &log());
        assert!(part.exists());

        drop(journal);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_survives_an_unusable_state_directory() {
        let place = tempfile::tempdir().unwrap();
        let directory = File::open(place.path()).unwrap();
        let mut journal = Journal::new(Path::new("/proc/nothing/here"), &log());
        journal.add_file(directory.as_fd(), &temporary_name());
        assert!(matches!(journal.file, JournalFile::Failed));
        clean(Path::new("/proc/nothing/here"), &log());
    }
}
