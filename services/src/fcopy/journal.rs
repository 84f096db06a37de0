//! JournalFile, in the state directory, of what a killed agent would leave behind:
//! temporary files that have a name, and directories made for a copy. The next
//! start reads them and cleans up.
//!
//! A copy has one file of notes, made when there is something to note, locked
//! while the copy runs and removed at its end. An entry is a letter, an absolute
//! path and a NUL. That of a file is written before the file is made. That of a
//! directory is written after, with inode number and time of birth between letter
//! and path: another directory of the same name is somebody else's. Where the file
//! system keeps no time of birth, a directory is not noted.
//!
//! Nothing is noted in, or read from, a state directory in which others may write.

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

/// Bytes of notes that are read, at most: a path for each component of a path,
/// with room to spare.
const MAX_JOURNAL: u64 = 1 << 20;

/// The notes of one copy.
pub(super) struct Journal {
    state_directory: PathBuf,
    log: Logger,
    file: JournalFile,
}

enum JournalFile {
    /// Nothing to note so far.
    None,
    Open {
        directory: OwnedFd,
        name: String,
        file: File,
    },
    /// They could not be written, which was logged.
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

    /// JournalFile a temporary file that is about to be made.
    pub(super) fn add_file(&mut self, directory: BorrowedFd<'_>, name: &OsStr) {
        self.append(&[FILE], directory, name);
    }

    /// JournalFile a directory that was made, of which this was `found`.
    pub(super) fn add_directory(&mut self, parent: BorrowedFd<'_>, name: &OsStr, found: &Statx) {
        if let Some(identity) = identity(found) {
            let mut entry = vec![DIRECTORY];
            entry.extend_from_slice(identity.as_bytes());
            self.append(&entry, parent, name);
        }
    }

    /// A copy goes on without notes: they matter only where the agent is killed.
    fn append(&mut self, what: &[u8], directory: BorrowedFd<'_>, name: &OsStr) {
        if let Err(error) = self.try_append(what, directory, name) {
            if !matches!(self.file, JournalFile::Failed) {
                warn!(self.log, "cannot note an unfinished copy; were the agent killed now, a \
                    temporary file could stay behind";
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
            // JournalFile that stay name what is gone: the next start drops them.
            let _ = unlinkat(directory, &**name, AtFlags::empty());
        }
    }
}

/// Removes what copies left behind whose agent was killed. JournalFile that another
/// process holds belong to a copy that runs, and are left alone.
pub(super) fn clean(state_directory: &Path, log: &Logger) {
    let directory = match open_directory(state_directory) {
        Ok(directory) => directory,
        // Nothing was ever noted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            // What others could have written there would name files to remove.
            warn!(log, "notes of interrupted copies are not read";
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
            "others could have written these notes; remove them",
        ));
    }
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let mut notes = Vec::new();
    file.take(MAX_JOURNAL).read_to_end(&mut notes)?;
    for note in notes.rsplit(|&byte| byte == 0) {
        let Some((kind, identity, left)) = parse(note) else {
            continue;
        };
        match remove(kind, identity, left) {
            Ok(true) => info!(log, "removed what an interrupted copy left"; "path" => ?left),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Somebody else uses the directory by now.
            Err(_) if kind == DIRECTORY => {}
            Err(error) => return Err(error),
        }
    }
    Ok(unlinkat(directory, name, AtFlags::empty())?)
}

/// What was noted, the identity, and the path.
fn parse(note: &[u8]) -> Option<(u8, &[u8], &Path)> {
    let (&kind, rest) = note.split_first()?;
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    let (identity, path) = rest.split_at(slash);
    Some((kind, identity, Path::new(OsStr::from_bytes(path))))
}

/// Removes what was noted, where it is still that; `false` where it is not, or
/// where a symbolic link has come into its way since.
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

/// What a directory is known by, without a slash; `None` where its file system does
/// not keep when it was made.
fn identity(found: &Statx) -> Option<String> {
    let born = found.stx_btime;
    StatxFlags::from_bits_retain(found.stx_mask)
        .contains(StatxFlags::BTIME)
        .then(|| format!("{} {}.{:09} ", found.stx_ino, born.tv_sec, born.tv_nsec))
}

/// A new name for a temporary file.
pub(super) fn temporary_name() -> OsString {
    format!("{TEMPORARY_PREFIX}{:016x}{TEMPORARY_SUFFIX}", random()).into()
}

/// Whether `name` is one that [`temporary_name`] gives.
fn is_temporary(name: &OsStr) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix(TEMPORARY_PREFIX))
        .and_then(|name| name.strip_suffix(TEMPORARY_SUFFIX))
        .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Enough to make names differ; where one is taken, another is tried.
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

    /// JournalFile as a killed agent leaves them.
    fn leave(state: &Path, entries: &[(u8, &Path)]) -> PathBuf {
        let notes = state.join("fcopy-0123456789abcdef.pending");
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
        fs::write(&notes, bytes).unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o600)).unwrap();
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
    fn a_directory_of_somebody_else_stays() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let (again, link) = (place.path().join("again"), place.path().join("link/again"));
        fs::create_dir_all(&again).unwrap();
        symlink(place.path(), place.path().join("link")).unwrap();
        // As they were noted before directories had an identity.
        let old = [b"d", again.as_os_str().as_bytes(), b"\0"].concat();
        fs::write(leave(state.path(), &[]), old).unwrap();
        clean(state.path(), &log());
        assert!(again.exists() && names(state.path()).is_empty());

        // By way of a link that was not there then.
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
    fn notes_that_others_could_have_written_are_not_believed() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let part = place.path().join(temporary_name());
        fs::write(&part, "half").unwrap();
        let notes = leave(state.path(), &[(b'f', &part)]);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&notes, 0o622);
        clean(state.path(), &log());
        mode(&notes, 0o600);
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
    fn notes_of_a_running_copy_are_left_alone() {
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
    fn a_state_directory_that_cannot_be_is_survived() {
        let place = tempfile::tempdir().unwrap();
        let directory = File::open(place.path()).unwrap();
        let mut journal = Journal::new(Path::new("/proc/nothing/here"), &log());
        journal.add_file(directory.as_fd(), &temporary_name());
        assert!(matches!(journal.file, JournalFile::Failed));
        clean(Path::new("/proc/nothing/here"), &log());
    }
}
