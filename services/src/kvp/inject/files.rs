//! Files that are replaced as a whole, and put back when that was for nothing.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::error::InjectError;
use super::plan::NewFile;
use crate::trusted;

/// Bytes that a file which is replaced may have.
const MAX_PREVIOUS: u64 = 1 << 20;

const DEFAULT_MODE: u32 = 0o644;

/// Permission bits of a directory that is made.
const DIRECTORY_MODE: u32 = 0o755;

/// Files that are replaced, in order.
pub(super) struct Backups<'a> {
    root: &'a Path,
    /// Copies of what is replaced lie below it, for the administrator and for an
    /// agent that finds the work half done.
    kept: &'a Path,
    files: Vec<Kept>,
}

struct Kept {
    path: PathBuf,
    previous: Option<Previous>,
    replaced: bool,
}

struct Previous {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
}

impl<'a> Backups<'a> {
    pub(super) fn new(root: &'a Path, kept: &'a Path) -> Self {
        Self {
            root,
            kept,
            files: Vec::new(),
        }
    }

    /// Keeps a copy of what stands at the path now.
    pub(super) fn keep(&mut self, path: &Path) -> Result<(), InjectError> {
        let previous = previous(path)?;
        self.copy(path, previous.as_ref())?;
        self.files.push(Kept {
            path: path.to_owned(),
            previous,
            replaced: false,
        });
        Ok(())
    }

    /// The files of which copies are kept, and whether there was one.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&Path, bool)> {
        let files = self.files.iter();
        files.map(|file| (file.path.as_path(), file.previous.is_some()))
    }

    /// Puts a file in place of one that was kept, whole or not at all, and on its
    /// disk.
    pub(super) fn write(&mut self, new: &NewFile) -> Result<(), InjectError> {
        let mut files = self.files.iter_mut();
        let Some(kept) = files.find(|file| file.path == new.path) else {
            return Err(InjectError::NotAFile(new.path.clone()));
        };
        let previous = kept.previous.as_ref();
        let mode = new.mode.or(previous.map(|previous| previous.mode));
        // A file of our own is root's; one that we change stays its owner's.
        let owner = match new.mode {
            Some(_) => None,
            None => previous.map(|previous| previous.owner),
        };
        put(
            &new.path,
            new.text.as_bytes(),
            mode.unwrap_or(DEFAULT_MODE),
            owner,
        )?;
        kept.replaced = true;
        Ok(())
    }

    /// Puts back what was there, last first. Every file is tried.
    pub(super) fn restore(&mut self) -> Result<(), InjectError> {
        let mut result = Ok(());
        while let Some(Kept {
            path,
            previous,
            replaced,
        }) = self.files.pop()
        {
            if replaced {
                result = result.and(bring_back(&path, previous));
            }
        }
        result
    }

    /// Puts back what an agent before had replaced, of which it kept a copy if
    /// there was anything.
    pub(super) fn restore_from_copy(&self, path: &Path, existed: bool) -> Result<(), InjectError> {
        let copy = self.copy_of(path);
        let kept = match existed {
            true => Some(
                previous(&copy)?
                    .ok_or_else(|| error("read", &copy)(io::ErrorKind::NotFound.into()))?,
            ),
            false => None,
        };
        bring_back(path, kept)
    }

    fn copy_of(&self, path: &Path) -> PathBuf {
        let inside = path
            .strip_prefix(self.root)
            .or_else(|_| path.strip_prefix("/"));
        self.kept.join(inside.unwrap_or(path))
    }

    fn copy(&self, path: &Path, previous: Option<&Previous>) -> Result<(), InjectError> {
        let copy = self.copy_of(path);
        if let Some(Previous { bytes, mode, owner }) = previous {
            if let Some(directory) = copy.parent() {
                let mut builder = DirBuilder::new();
                builder
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)
                    .map_err(error("make the directory", directory))?;
            }
            return put(&copy, bytes, *mode, Some(*owner));
        }
        match fs::remove_file(&copy) {
            Err(cause)
                if cause.kind() != io::ErrorKind::NotFound
                    && cause.kind() != io::ErrorKind::NotADirectory =>
            {
                Err(error("remove", &copy)(cause))
            }
            _ => Ok(()),
        }
    }
}

fn bring_back(path: &Path, previous: Option<Previous>) -> Result<(), InjectError> {
    if let Some(Previous { bytes, mode, owner }) = previous {
        return put(path, &bytes, mode, Some(owner));
    }
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(error("remove", path)(cause)),
        _ => Ok(()),
    }
}

/// What makes a failed call on `path` an error.
pub(super) fn error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> InjectError {
    let path = path.to_owned();
    move |source| InjectError::File {
        doing,
        path: path.clone(),
        source,
    }
}

/// Whether nobody else can put files into this directory: what stands there is read and
/// replaced as root's, and root's programs go by it.
fn check_directory(directory: &Path) -> Result<(), InjectError> {
    let refused = |source| InjectError::Untrusted {
        path: directory.to_owned(),
        source,
    };
    trusted::trusted(directory).map(drop).map_err(refused)
}

/// What stands at the path now.
fn previous(path: &Path) -> Result<Option<Previous>, InjectError> {
    if let Some(directory) = path.parent() {
        if directory.is_dir() {
            check_directory(directory)?;
        }
    }
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(error("look at", path)(cause)),
    };
    if !metadata.is_file() || metadata.len() > MAX_PREVIOUS {
        return Err(InjectError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PREVIOUS + 1).read_to_end(&mut bytes))
        .map_err(error("read", path))?;
    Ok(Some(Previous {
        bytes,
        mode: metadata.permissions().mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
    }))
}

/// Puts a file in place by way of a hidden one beside it, which every manager
/// ignores.
pub(super) fn put(
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
    } else {
        trusted::make(directory, DIRECTORY_MODE).map_err(error("make the directory", directory))?;
    }
    let temporary = directory.join(format!(".{}.hyperv-agent", name.to_string_lossy()));
    let written = write_new(&temporary, bytes, mode, owner)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|cause| {
        let _ = fs::remove_file(&temporary);
        error("write", path)(cause)
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    // What a killed agent left would be in the way.
    let _ = fs::remove_file(path);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(path: PathBuf, text: &str, mode: Option<u32>) -> NewFile {
        NewFile {
            path,
            text: text.to_owned(),
            mode,
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
    fn what_is_restored_is_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let (root, kept) = (root.path(), root.path().join("kept"));
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

        let mut replaced = Backups::new(root, &kept);
        for path in [&old, &fresh, &changed] {
            replaced.keep(path).unwrap();
        }
        replaced
            .write(&new(old.clone(), "new", Some(0o600)))
            .unwrap();
        replaced
            .write(&new(fresh.clone(), "new", Some(0o640)))
            .unwrap();
        replaced.write(&new(changed.clone(), "new", None)).unwrap();
        // The same file again: what was there at first counts.
        replaced
            .write(&new(old.clone(), "newer", Some(0o600)))
            .unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "newer");
        assert_eq!(
            (mode(&old), mode(&fresh), mode(&changed)),
            (0o600, 0o640, 0o606)
        );
        assert_eq!(
            fs::read_to_string(kept.join("etc/changed")).unwrap(),
            "changed"
        );
        assert_eq!(mode(&kept), 0o700);

        replaced.restore().unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "old");
        assert_eq!(fs::read_to_string(&changed).unwrap(), "changed");
        assert_eq!((mode(&old), mode(&changed)), (0o604, 0o606));
        assert!(!fresh.exists());
        assert_eq!(names(&root.join("etc/d")), [""; 0]);
    }

    #[test]
    fn a_kept_copy_of_long_ago_does_not_stay() {
        let root = tempfile::tempdir().unwrap();
        let (root, kept) = (root.path(), root.path().join("kept"));
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("f"), "stale").unwrap();
        let mut replaced = Backups::new(root, &kept);
        replaced.keep(&root.join("f")).unwrap();
        replaced.write(&new(root.join("f"), "new", None)).unwrap();
        assert!(!kept.join("f").exists());
        assert_eq!(mode(&root.join("f")), DEFAULT_MODE);
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let root = &place.path().join("root");
        fs::create_dir(root).unwrap();
        let link = root.join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let kept = root.join("kept");
        let mut replaced = Backups::new(root, &kept);
        for path in [link.clone(), root.to_owned()] {
            let error = replaced.keep(&path).unwrap_err();
            assert!(matches!(error, InjectError::NotAFile(_)), "{error}");
            // What was not kept is not replaced.
            replaced.write(&new(path, "new", None)).unwrap_err();
        }
        assert!(link.is_symlink());
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // The directory's place is taken by a file.
        fs::write(root.join("etc"), "").unwrap();
        let kept = root.join("kept");
        let mut replaced = Backups::new(root, &kept);
        assert!(replaced.keep(&root.join("etc/f")).is_err());
        fs::remove_file(root.join("etc")).unwrap();
        replaced.keep(&root.join("etc/f")).unwrap();
        fs::write(root.join("etc"), "").unwrap();
        assert!(
            replaced
                .write(&new(root.join("etc/f"), "new", None))
                .is_err()
        );
        replaced.restore().unwrap();
        assert_eq!(names(root), ["etc"]);
    }
}
