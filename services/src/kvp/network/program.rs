//! Finds programs of the machine.

use std::path::{Path, PathBuf};

/// The directories of programs, below the root.
const DIRECTORIES: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// Finds a program. `root` stands for `/`.
pub(super) fn find(root: &Path, name: &str) -> Option<PathBuf> {
    DIRECTORIES
        .iter()
        .map(|directory| root.join(directory).join(name))
        .find(|path| is_executable(path))
}

/// Returns whether this is a file that may be run.
pub(super) fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
