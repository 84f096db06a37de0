//! Replaces files atomically, and restores the previous ones.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::NewFile;
use crate::{replace, trusted};

/// Longest file that is replaced, in bytes.
const MAX_LEN: u64 = 1 << 20;

/// Permission bits of a new file, unless the plan says otherwise.
const FILE_MODE: u32 = 0o644;

/// Permission bits of a new directory.
const DIRECTORY_MODE: u32 = 0o755;

/// Permission bits of the directories of copies.
const COPIES_MODE: u32 = 0o700;

/// What the files of a transaction were before it.
pub(in crate::kvp::network) struct Backups<'a> {
    root: &'a Path,
    /// The directory of copies on disk, for the administrator and for an agent that finds an
    /// undo log.
    copies: &'a Path,
    files: Vec<Backup>,
}

struct Backup {
    path: PathBuf,
    /// `None` if there was no file.
    previous: Option<Content>,
    replaced: bool,
}

#[derive(PartialEq, Eq)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
}

impl<'a> Backups<'a> {
    pub(in crate::kvp::network) fn new(root: &'a Path, copies: &'a Path) -> Self {
        Self {
            root,
            copies,
            files: Vec::new(),
        }
    }

    /// Reads the file at `path` and copies it.
    pub(in crate::kvp::network) fn add(&mut self, path: &Path) -> Result<(), InjectError> {
        let previous = read(path)?;
        self.copy(path, previous.as_ref())?;
        self.files.push(Backup {
            path: path.to_owned(),
            previous,
            replaced: false,
        });
        Ok(())
    }

    /// Returns the paths that were added, and whether there was a file.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&Path, bool)> {
        let files = self.files.iter();
        files.map(|file| (file.path.as_path(), file.previous.is_some()))
    }

    /// Replaces or removes one of the files that were added, atomically and durably.
    pub(super) fn replace(&mut self, new: &NewFile) -> Result<(), InjectError> {
        let mut files = self.files.iter_mut();
        let Some(backup) = files.find(|file| file.path == new.path) else {
            return Err(InjectError::NotAFile(new.path.clone()));
        };
        let Some(text) = &new.text else {
            backup.replaced = true;
            return remove(&new.path);
        };
        let previous = backup.previous.as_ref();
        let mode = new.mode.or(previous.map(|previous| previous.mode));
        // A file of the agent's own belongs to root; another keeps its owner.
        let replaced = previous.filter(|_| new.mode.is_none());
        let owner = new.owner.or(replaced.map(|previous| previous.owner));
        let mode = mode.unwrap_or(FILE_MODE);
        write(&new.path, text.as_bytes(), mode, owner)?;
        backup.replaced = true;
        Ok(())
    }

    /// Restores the files that were replaced, last first. An error does not keep it from
    /// restoring the others.
    pub(super) fn restore(&mut self) -> Result<(), InjectError> {
        let mut result = Ok(());
        while let Some(file) = self.files.pop() {
            if file.replaced {
                result = result.and(restore(&file.path, file.previous));
            }
        }
        result
    }

    /// Restores a file from the copy on disk, or removes it if it did not exist before.
    pub(super) fn restore_from_copy(&self, path: &Path, existed: bool) -> Result<(), InjectError> {
        let copy = self.copy_of(path);
        let previous =
            match existed {
                true => Some(read(&copy)?.ok_or_else(|| {
                    InjectError::file("read", &copy)(io::ErrorKind::NotFound.into())
                })?),
                false => None,
            };
        restore(path, previous)
    }

    /// Returns whether a file is already as [`restore_from_copy`](Self::restore_from_copy) leaves
    /// it.
    pub(in crate::kvp::network) fn is_restored(
        &self,
        path: &Path,
        existed: bool,
    ) -> Result<bool, InjectError> {
        let previous = match existed {
            true => read(&self.copy_of(path))?,
            false => None,
        };
        Ok(read(path)? == previous)
    }

    /// Copies the copy on disk of a file to the copies of `other`.
    pub(in crate::kvp::network) fn pass_on(
        &self,
        path: &Path,
        other: &Backups<'_>,
    ) -> Result<(), InjectError> {
        other.copy(path, read(&self.copy_of(path))?.as_ref())
    }

    fn copy_of(&self, path: &Path) -> PathBuf {
        let inside = path
            .strip_prefix(self.root)
            .or_else(|_| path.strip_prefix("/"));
        self.copies.join(inside.unwrap_or(path))
    }

    fn copy(&self, path: &Path, previous: Option<&Content>) -> Result<(), InjectError> {
        let copy = self.copy_of(path);
        let Some(Content { bytes, mode, owner }) = previous else {
            return remove(&copy);
        };
        if let Some(directory) = copy.parent() {
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .mode(COPIES_MODE)
                .create(directory)
                .map_err(InjectError::file("make the directory", directory))?;
        }
        write(&copy, bytes, *mode, Some(*owner))
    }
}

fn restore(path: &Path, previous: Option<Content>) -> Result<(), InjectError> {
    match previous {
        Some(Content { bytes, mode, owner }) => write(path, &bytes, mode, Some(owner)),
        None => remove(path),
    }
}

/// Removes a file durably, which need not exist.
pub(in crate::kvp::network) fn remove(path: &Path) -> Result<(), InjectError> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match fs::remove_file(path) {
        Err(cause) if !matches!(cause.kind(), NotFound | NotADirectory) => {
            Err(InjectError::file("remove", path)(cause))
        }
        Err(_) => Ok(()),
        Ok(()) => {
            let directory = path.parent().unwrap_or(path);
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(InjectError::file("sync", directory))
        }
    }
}

/// Checks that only root can put files into this directory: root's programs act on what is
/// there.
fn check_directory(directory: &Path) -> Result<(), InjectError> {
    let untrusted = |source| InjectError::Untrusted {
        path: directory.to_owned(),
        source,
    };
    trusted::trusted(directory).map(drop).map_err(untrusted)
}

fn read(path: &Path) -> Result<Option<Content>, InjectError> {
    if let Some(directory) = path.parent().filter(|directory| directory.is_dir()) {
        check_directory(directory)?;
    }
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(InjectError::file("read", path)(cause)),
    };
    if !metadata.is_file() || metadata.len() > MAX_LEN {
        return Err(InjectError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes))
        .map_err(InjectError::file("read", path))?;
    Ok(Some(Content {
        bytes,
        mode: metadata.permissions().mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
    }))
}

/// Writes a file atomically, and creates its directory where it is missing. Network managers
/// ignore the hidden file from which it is renamed.
pub(in crate::kvp::network) fn write(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(), InjectError> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(InjectError::NotAFile(path.to_owned()));
    };
    if directory.is_dir() {
        check_directory(directory)?;
    }
    let directory = trusted::make(directory, DIRECTORY_MODE)
        .map_err(InjectError::file("make the directory", directory))?;
    let file = replace::NewFile {
        name,
        bytes,
        mode,
        owner,
        sync: true,
    };
    file.write(&directory)
        .map_err(InjectError::file("write", path))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn new(path: PathBuf, text: &str, mode: Option<u32>) -> NewFile {
        NewFile {
            path,
            text: Some(text.to_owned()),
            mode,
            owner: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn restored_files_are_as_they_were() {
        let root = tempfile::tempdir().unwrap();
        let (root, copies) = (root.path(), root.path().join("copies"));
        let (old, fresh, changed) = (
            root.join("etc/old"),
            root.join("etc/d/fresh"),
            root.join("etc/changed"),
        );
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(&old, "old").unwrap();
        fs::write(&changed, "changed").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o604)).unwrap();
        fs::set_permissions(&changed, Permissions::from_mode(0o606)).unwrap();

        let mut backups = Backups::new(root, &copies);
        for path in [&old, &fresh, &changed] {
            backups.add(path).unwrap();
        }
        backups
            .replace(&new(old.clone(), "new", Some(0o600)))
            .unwrap();
        backups
            .replace(&new(fresh.clone(), "new", Some(0o640)))
            .unwrap();
        backups.replace(&new(changed.clone(), "new", None)).unwrap();
        // The same file again: the first content is restored.
        backups
            .replace(&new(old.clone(), "newer", Some(0o600)))
            .unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "newer");
        assert_eq!(
            (mode(&old), mode(&fresh), mode(&changed)),
            (0o600, 0o640, 0o606)
        );
        assert_eq!(
            fs::read_to_string(copies.join("etc/changed")).unwrap(),
            "changed"
        );
        assert_eq!(mode(&copies), 0o700);

        backups.restore().unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "old");
        assert_eq!(fs::read_to_string(&changed).unwrap(), "changed");
        assert_eq!((mode(&old), mode(&changed)), (0o604, 0o606));
        assert!(!fresh.exists());
        assert_eq!(names(&root.join("etc/d")), [""; 0]);
    }

    #[test]
    fn a_stale_copy_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let (root, copies) = (root.path(), root.path().join("copies"));
        fs::create_dir(&copies).unwrap();
        fs::write(copies.join("f"), "stale").unwrap();
        let mut backups = Backups::new(root, &copies);
        backups.add(&root.join("f")).unwrap();
        backups.replace(&new(root.join("f"), "new", None)).unwrap();
        assert!(!copies.join("f").exists());
        assert_eq!(mode(&root.join("f")), FILE_MODE);
    }

    #[test]
    fn removed_files_come_back() {
        let root = tempfile::tempdir().unwrap();
        let (root, copies) = (root.path(), root.path().join("copies"));
        let (old, absent) = (root.join("old"), root.join("absent"));
        let text = b"one\r\n\xff\0";
        for from_copy in [false, true] {
            fs::write(&old, text).unwrap();
            fs::set_permissions(&old, Permissions::from_mode(0o640)).unwrap();
            let mut backups = Backups::new(root, &copies);
            for path in [&old, &absent] {
                backups.add(path).unwrap();
                backups.replace(&NewFile::removed(path.clone())).unwrap();
            }
            assert_eq!(names(root), ["copies"]);
            let existed: Vec<_> = backups.paths().map(|(_, existed)| existed).collect();
            assert_eq!(existed, [true, false]);
            match from_copy {
                true => {
                    backups.restore_from_copy(&old, true).unwrap();
                    backups.restore_from_copy(&absent, false).unwrap();
                }
                false => backups.restore().unwrap(),
            }
            assert_eq!(
                (fs::read(&old).unwrap(), mode(&old)),
                (text.to_vec(), 0o640)
            );
            assert!(!absent.exists());
        }
    }

    /// As root, for a manager that does not run as root.
    #[test]
    fn a_new_file_may_have_an_owner() {
        if !rustix::process::geteuid().is_root() {
            hyperv_needs::skip("not root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (root, copies) = (root.path(), root.path().join("copies"));
        let mut backups = Backups::new(root, &copies);
        let file = NewFile {
            owner: Some((0, 7)),
            ..NewFile::new(root.join("f"), "new".to_owned(), 0o640)
        };
        backups.add(&file.path).unwrap();
        backups.replace(&file).unwrap();
        let metadata = fs::metadata(&file.path).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), mode(&file.path)),
            (0, 7, 0o640)
        );
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let place = tempfile::tempdir().unwrap();
        let root = &place.path().join("root");
        fs::create_dir(root).unwrap();
        let link = root.join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let copies = root.join("copies");
        let mut backups = Backups::new(root, &copies);
        for path in [link.clone(), root.to_owned()] {
            let error = backups.add(&path).unwrap_err();
            assert!(matches!(error, InjectError::NotAFile(_)), "{error}");
            // A file that was not added is not replaced.
            backups.replace(&new(path, "new", None)).unwrap_err();
        }
        assert!(link.is_symlink());
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // A file is where the directory should be.
        fs::write(root.join("etc"), "").unwrap();
        let copies = root.join("copies");
        let mut backups = Backups::new(root, &copies);
        assert!(backups.add(&root.join("etc/f")).is_err());
        fs::remove_file(root.join("etc")).unwrap();
        backups.add(&root.join("etc/f")).unwrap();
        fs::write(root.join("etc"), "").unwrap();
        assert!(
            backups
                .replace(&new(root.join("etc/f"), "new", None))
                .is_err()
        );
        backups.restore().unwrap();
        assert_eq!(names(root), ["etc"]);
    }
}
