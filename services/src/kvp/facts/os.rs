//! Name and version of the operating system.

use std::path::Path;

use crate::kvp::{assignments, files};

/// What the system calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Os {
    /// NAME of os-release, or the default that its specification names.
    pub(super) name: String,
    /// VERSION_ID of os-release, which rolling distributions do not have.
    pub(super) version_id: String,
}

impl Os {
    /// Reads the first of the two files that exists.
    pub(super) fn read(root: &Path) -> Self {
        let text = ["etc/os-release", "usr/lib/os-release"]
            .iter()
            .find_map(|path| files::text(&root.join(path)))
            .unwrap_or_default();
        let field = |key| assignments::last(&text, key).filter(|value| !value.is_empty());
        Self {
            name: field("NAME").unwrap_or_else(|| "Linux".to_owned()),
            version_id: field("VERSION_ID").unwrap_or_default(),
        }
    }
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
        assert_eq!(Os::read(vendor.path()).name, "Vendor");
        let both = root(&[usr, ("etc/os-release", "NAME='Site OS'\n")]);
        assert_eq!(Os::read(both.path()).name, "Site OS");
        assert_eq!(Os::read(both.path()).version_id, "");
    }

    #[test]
    fn what_is_missing_has_its_default() {
        assert_eq!(Os::read(Path::new("/nowhere")).name, "Linux");
        let empty = root(&[("etc/os-release", "NAME=\"\"\nVERSION_ID=13\n")]);
        assert_eq!(Os::read(empty.path()).name, "Linux");
        assert_eq!(Os::read(empty.path()).version_id, "13");
    }
}
