//! Whether netplan has files.

use std::fs::{self, DirEntry};
use std::path::Path;

use crate::program;

/// Returns whether netplan has a file to read: many machines have netplan without any.
pub(super) fn has_files(root: &Path) -> bool {
    let is_yaml = |entry: DirEntry| entry.path().extension() == Some("yaml".as_ref());
    program::find(root, "netplan").is_ok()
        && fs::read_dir(root.join("etc/netplan"))
            .is_ok_and(|entries| entries.flatten().any(is_yaml))
}
