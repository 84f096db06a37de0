//! Which programs are hooks, and which of them may be run as root.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::config::MAX_HOOKS;
use super::error::{HookError, Refusal};
use crate::run::{EXECUTABLE, obstacle};

/// What package managers and editors leave beside a file, by the end of its
/// name.
const LEFTOVERS: [&[u8]; 6] = [
    b"bak", b"orig", b"rpmnew", b"rpmorig", b"rpmsave", b"sample",
];

/// The same, where more than one ending is in use.
const LEFTOVER_FAMILIES: [&[u8]; 2] = [b"dpkg-", b"ucf-"];

/// The bits that let the group and others write.
const OTHERS_WRITE: u32 = 0o022;

const STICKY: u32 = 0o1000;

/// What is in the directory of hooks.
#[derive(Debug, Default)]
pub struct Found {
    /// The hooks, in the order in which they are run.
    pub hooks: Vec<PathBuf>,
    /// What would be one, were it root's alone and could be started.
    pub refused: Vec<HookError>,
    /// Files that may have been meant to be hooks, and that nobody may execute.
    pub not_executable: Vec<PathBuf>,
}

/// Looks for hooks: the executable files of `directory`, in byte order of their
/// names, without backups and what package managers leave. A directory that is
/// not there has none.
///
/// # Errors
///
/// Where the directory cannot be read, is not root's alone, or has more than 100
/// hooks.
pub fn find(directory: &Path) -> Result<Found, HookError> {
    let unreadable = |source| HookError::Directory {
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(unreadable(error)),
    };
    trusted(directory)?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if !is_leftover(&entry.file_name()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut found = Found::default();
    for path in paths {
        match fs::metadata(&path) {
            Ok(file) if !file.is_file() => {}
            Ok(file) if file.mode() & EXECUTABLE == 0 => found.not_executable.push(path),
            _ => match trusted(&path) {
                Ok(program) => match obstacle(&program) {
                    None => found.hooks.push(path),
                    Some(source) => found.refused.push(HookError::Unfit { path, source }),
                },
                Err(refused) => found.refused.push(refused),
            },
        }
    }
    if found.hooks.len() > MAX_HOOKS {
        return Err(HookError::TooMany(directory.to_owned()));
    }
    Ok(found)
}

fn is_leftover(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let ending = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    name.starts_with(b".")
        || name.starts_with(b"#")
        || name.ends_with(b"~")
        || (ending.len() < name.len()
            && (LEFTOVERS.contains(&ending)
                || LEFTOVER_FAMILIES
                    .iter()
                    .any(|family| ending.starts_with(family))))
}

/// Where `path` leads to, if root alone decides what is found there: the place
/// itself and the directories above belong to root (or to the user that this
/// process is), and nobody else may write to them. Further up a sticky bit will
/// do: there others cannot take away what is not theirs.
///
/// What was looked at is what is to be run: the path given back has no symbolic
/// links on it.
pub(super) fn trusted(path: &Path) -> Result<PathBuf, HookError> {
    let refused = |source| HookError::Refused {
        path: path.to_owned(),
        source,
    };
    let unseen = |error| refused(Refusal::Unseen(error));
    let real = fs::canonicalize(path).map_err(unseen)?;
    // Of a file, its directory too: a link to any other of root's programs could
    // be put there under its name.
    let strictly = if real.is_dir() { 1 } else { 2 };
    let myself = rustix::process::geteuid().as_raw();
    for (above, place) in real.ancestors().enumerate() {
        let seen = fs::symlink_metadata(place).map_err(unseen)?;
        if ![0, myself].contains(&seen.uid()) {
            return Err(refused(Refusal::Owner {
                place: place.to_owned(),
                owner: seen.uid(),
            }));
        }
        let mode = seen.mode() & 0o7777;
        if mode & OTHERS_WRITE != 0 && (above < strictly || mode & STICKY == 0) {
            return Err(refused(Refusal::Writable {
                place: place.to_owned(),
                mode,
            }));
        }
    }
    Ok(real)
}
