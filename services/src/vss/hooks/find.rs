//! Which programs are hooks, and which of them may be run as root.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::config::MAX_HOOKS;
use super::error::HookError;
use crate::subprocess::{EXECUTABLE, obstacle};
use crate::trusted;

/// What package managers and editors leave beside a file, by the end of its
/// name.
const LEFTOVERS: [&[u8]; 6] = [
    b"bak", b"orig", b"rpmnew", b"rpmorig", b"rpmsave", b"sample",
];

/// The same, where more than one ending is in use.
const LEFTOVER_FAMILIES: [&[u8]; 2] = [b"dpkg-", b"ucf-"];

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

/// Where the hook or the directory of hooks is, if it is root's alone.
pub(super) fn trusted(path: &Path) -> Result<PathBuf, HookError> {
    trusted::trusted(path).map_err(|source| HookError::Refused {
        path: path.to_owned(),
        source,
    })
}
