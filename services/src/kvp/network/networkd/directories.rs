//! Where `.network` files and their drop-ins are.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::kvp::files;

/// Directories of `.network` files and their drop-ins. A later one overrides files of the same
/// name in an earlier one.
const DIRECTORIES: [&str; 5] = [
    "lib/systemd/network",
    "usr/lib/systemd/network",
    "usr/local/lib/systemd/network",
    "run/systemd/network",
    "etc/systemd/network",
];

/// Returns the `.network` files in the order in which systemd-networkd tries them.
pub(super) fn network_files(root: &Path) -> Vec<PathBuf> {
    let directories = DIRECTORIES.iter().map(|directory| root.join(directory));
    by_name(directories, "network")
}

/// Returns whether this is the path of a `.network` file.
pub(super) fn is_network_file(root: &Path, path: &Path) -> bool {
    let mut directories = DIRECTORIES.iter().map(|directory| root.join(directory));
    directories.any(|directory| path.parent() == Some(&directory))
        && path.extension() == Some(OsStr::new("network"))
}

/// Returns the drop-ins of the file of that name, in order.
pub(super) fn drop_ins(root: &Path, name: &OsStr) -> Vec<PathBuf> {
    let mut directory = name.to_owned();
    directory.push(".d");
    let places = DIRECTORIES
        .iter()
        .map(|place| root.join(place).join(&directory));
    by_name(places, "conf")
}

fn by_name(directories: impl Iterator<Item = PathBuf>, extension: &str) -> Vec<PathBuf> {
    let mut by_name = BTreeMap::new();
    for path in directories.flat_map(|directory| files::in_directory(&directory)) {
        if path.extension() == Some(OsStr::new(extension)) {
            by_name.insert(path.file_name().map(OsStr::to_owned), path);
        }
    }
    by_name.into_values().collect()
}
