//! Name and version of the operating system.

use std::path::Path;

use crate::kvp::{assignments, files};

/// Returns NAME of os-release, or the default that its specification names.
pub(super) fn name(root: &Path) -> String {
    field(root, "NAME").unwrap_or_else(|| "Linux".to_owned())
}

/// Returns VERSION_ID of os-release, which rolling distributions do not have.
pub(super) fn version_id(root: &Path) -> String {
    field(root, "VERSION_ID").unwrap_or_default()
}

/// Reads a field of the first of the two files that exists.
fn field(root: &Path, key: &str) -> Option<String> {
    let text = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| files::text(&root.join(path)))?;
    assignments::last(&text, key).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn etc_comes_before_usr() {
        let usr = ("usr/lib/os-release", "NAME=Vendor\nVERSION_ID=1\n");
        let vendor = root(&[usr]);
        assert_eq!(name(vendor.path()), "Vendor");
        let both = root(&[usr, ("etc/os-release", "NAME='Site OS'\n")]);
        assert_eq!(name(both.path()), "Site OS");
        assert_eq!(version_id(both.path()), "");
    }

    #[test]
    fn what_is_missing_has_its_default() {
        assert_eq!(name(Path::new("/nowhere")), "Linux");
        let empty = root(&[("etc/os-release", "NAME=\"\"\nVERSION_ID=13\n")]);
        assert_eq!(name(empty.path()), "Linux");
        assert_eq!(version_id(empty.path()), "13");
    }
}
