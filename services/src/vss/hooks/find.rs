//! Finds the hooks that may be run as root.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::config::MAX_HOOKS;
use super::error::HookError;
use crate::subprocess::{EXECUTABLE, find_problem};
use crate::trusted;

/// Suffixes of files that package managers and editors leave.
const IGNORED_SUFFIXES: [&[u8]; 6] = [
    b"bak", b"orig", b"rpmnew", b"rpmorig", b"rpmsave", b"sample",
];

/// The content of the hook directory.
#[derive(Debug, Default)]
pub struct Found {
    /// The hooks, in the order in which they are run with `freeze`.
    pub hooks: Vec<PathBuf>,
    /// Files that are not run, since others can write to them or they cannot be started.
    pub refused: Vec<HookError>,
    /// Files that may be meant as hooks and are not executable.
    pub not_executable: Vec<PathBuf>,
}

/// Finds the hooks: the executable files of `directory`, in byte order of their names,
/// without backup files and those that package managers leave. A missing directory has none.
///
/// # Errors
///
/// If the directory cannot be read, others than root can write to it, or it has too many
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
        if !is_ignored(&entry.file_name()) {
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
                Ok(program) => match find_problem(&program) {
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

fn is_ignored(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let ending = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    name.starts_with(b".")
        || name.starts_with(b"#")
        || name.ends_with(b"~")
        || ending.len() < name.len()
            && (IGNORED_SUFFIXES.contains(&ending)
                || ending.starts_with(b"dpkg-")
                || ending.starts_with(b"ucf-"))
}

/// Returns the real path of a hook or of the hook directory, if only root can write to it.
pub(super) fn trusted(path: &Path) -> Result<PathBuf, HookError> {
    trusted::trusted(path).map_err(|source| HookError::Refused {
        path: path.to_owned(),
        source,
    })
}
