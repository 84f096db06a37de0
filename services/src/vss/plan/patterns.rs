//! The patterns of `[vss.include]` and `[vss.exclude]`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use crate::vss::block_devices;
use crate::vss::config::Patterns;
use crate::vss::file_system::FileSystem;
use crate::vss::sysfs::{self, under};

const MOUNT_POINTS: &str = "mount-points";
const TYPES: &str = "types";
const DEVICES: &str = "devices";

/// A pattern that matches no file system that is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnmatchedPattern {
    /// Its table, such as `vss.include`.
    pub table: &'static str,
    /// Its list in the table, such as `mount-points`.
    pub list: &'static str,
    /// The pattern.
    pub pattern: String,
}

impl fmt::Display for UnmatchedPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, list, pattern) = (self.table, self.list, &self.pattern);
        let what = match list {
            TYPES => "type of file system that the kernel knows",
            _ => "file system",
        };
        write!(f, "{pattern:?} in {list} of [{table}] matches no {what}")
    }
}

/// The patterns of a table.
pub(super) struct Globs {
    table: &'static str,
    mount_points: Vec<Glob>,
    types: Vec<Glob>,
    devices: Vec<Glob>,
}

struct Glob {
    pattern: WildMatch,
    /// The path that a path without wildcards leads to, if that is another one.
    target: Option<String>,
}

impl Glob {
    fn new(pattern: &str) -> Self {
        Self {
            pattern: WildMatch::new(pattern),
            target: None,
        }
    }

    fn matches(&self, text: &str) -> bool {
        self.pattern.matches(text) || self.target.as_deref() == Some(text)
    }
}

impl Globs {
    /// Compiles the patterns. `target` returns where a path among the mount points leads, if
    /// not to itself.
    pub(super) fn new(
        table: &'static str,
        patterns: &Patterns,
        target: impl Fn(&Path) -> Option<PathBuf>,
    ) -> Self {
        let globs = |patterns: &[String]| patterns.iter().map(|it| Glob::new(it)).collect();
        let mount_point = |pattern: &String| {
            let is_path = !pattern.contains(['*', '?']);
            let target = is_path.then(|| target(Path::new(pattern))).flatten();
            Glob {
                target: target.map(|path| path.to_string_lossy().into_owned()),
                ..Glob::new(pattern)
            }
        };
        Self {
            table,
            mount_points: patterns.mount_points.iter().map(mount_point).collect(),
            types: globs(&patterns.types),
            devices: globs(&patterns.devices),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mount_points.is_empty() && self.types.is_empty() && self.devices.is_empty()
    }

    pub(super) fn name_devices(&self) -> bool {
        !self.devices.is_empty()
    }

    /// Returns the lists by name, each with the texts of a file system to match.
    fn lists(
        &self,
        file_system: &FileSystem,
        links: &Links,
    ) -> [(&'static str, &[Glob], Vec<String>); 3] {
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        // A bind mount of a directory does not stand for its file system, unless there is no
        // mount of the whole.
        let mounts = &file_system.mounts;
        let some_whole = mounts.iter().any(|mount| mount.whole);
        let mounts = mounts.iter().filter(|mount| mount.whole || !some_whole);
        let points = mounts.map(|mount| lossy(&mount.point)).collect();

        let mut devices = vec![file_system.source.clone()];
        devices.extend(file_system.external.iter().map(|path| lossy(path)));
        for node in &file_system.nodes {
            devices.push(lossy(node));
            devices.extend(links.0.get(node).into_iter().flatten().cloned());
        }
        [
            (MOUNT_POINTS, &self.mount_points, points),
            (TYPES, &self.types, vec![file_system.kind.clone()]),
            (DEVICES, &self.devices, devices),
        ]
    }

    /// Returns the first pattern that matches the file system, and its list.
    pub(super) fn first_match(
        &self,
        file_system: &FileSystem,
        links: &Links,
    ) -> Option<(&'static str, String)> {
        let lists = self.lists(file_system, links).into_iter();
        lists.into_iter().find_map(|(list, globs, texts)| {
            let mut globs = globs.iter();
            let glob = globs.find(|glob| texts.iter().any(|text| glob.matches(text)))?;
            Some((list, glob.pattern.pattern()))
        })
    }

    /// Returns the patterns that match none of these file systems; of those for types, the
    /// ones that match no type of the kernel either.
    pub(super) fn unmatched(
        &self,
        file_systems: &[&FileSystem],
        types: &[String],
        links: &Links,
    ) -> Vec<UnmatchedPattern> {
        let mut unmatched: Vec<(&'static str, &Glob)> = Vec::new();
        let all = [
            (MOUNT_POINTS, &self.mount_points),
            (TYPES, &self.types),
            (DEVICES, &self.devices),
        ];
        for (list, globs) in all {
            unmatched.extend(globs.iter().map(|glob| (list, glob)));
        }
        unmatched.retain(|(list, glob)| *list != TYPES || !types.iter().any(|it| glob.matches(it)));
        for file_system in file_systems {
            if unmatched.is_empty() {
                break;
            }
            let lists = self.lists(file_system, links);
            unmatched.retain(|(list, glob)| {
                let mut texts = lists.iter().filter(|(name, ..)| name == list);
                !texts.any(|(.., texts)| texts.iter().any(|text| glob.matches(text)))
            });
        }
        let unmatched = unmatched.into_iter().map(|(list, glob)| UnmatchedPattern {
            table: self.table,
            list,
            pattern: glob.pattern.pattern(),
        });
        unmatched.collect()
    }
}

/// Names of devices below `/dev` other than the kernel's, such as `/dev/group/volume` and
/// `/dev/disk/by-uuid/…`, by the kernel's name.
#[derive(Default)]
pub(super) struct Links(HashMap<PathBuf, Vec<String>>);

impl Links {
    /// How many entries of `/dev` are read.
    const MAX_ENTRIES: usize = 1 << 15;

    /// Reads the links and nodes of `/dev`, without what is mounted there.
    pub(super) fn read(root: &Path) -> Self {
        let mut links = Self::default();
        let dev = Path::new("/dev");
        let Ok(own) = fs::symlink_metadata(under(root, dev)) else {
            return links;
        };
        let mut next = vec![dev.to_owned()];
        let mut left = Self::MAX_ENTRIES;
        while let Some(directory) = next.pop() {
            let entries = fs::read_dir(under(root, &directory)).into_iter().flatten();
            for entry in entries.flatten() {
                if left == 0 {
                    return links;
                }
                left -= 1;
                let path = directory.join(entry.file_name());
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                let kind = metadata.file_type();
                if kind.is_dir() && metadata.dev() == own.dev() {
                    next.push(path);
                } else if kind.is_block_device()
                    || kind.is_symlink() && stays_below_dev(&entry.path())
                {
                    links.add(root, &path);
                }
            }
        }
        links
    }

    fn add(&mut self, root: &Path, path: &Path) {
        let number = block_devices::number(root, path);
        if let Some(node) = number.and_then(|number| sysfs::node(root, number)) {
            let names = self.0.entry(node).or_default();
            names.push(path.to_string_lossy().into_owned());
        }
    }
}

/// Returns whether a link leads to another place below `/dev`: those to `/proc` may lead
/// anywhere.
fn stays_below_dev(link: &Path) -> bool {
    let target = fs::read_link(link).unwrap_or_default();
    target.is_relative() || target.starts_with("/dev")
}

/// How many symbolic links are followed in a path.
const MAX_LINKS: usize = 40;

/// Resolves an absolute path by `read_link`.
pub(super) fn follow(path: &Path, read_link: impl Fn(&Path) -> Option<PathBuf>) -> PathBuf {
    let names = |path: &Path| -> Vec<OsString> {
        let names = path.components().rev();
        names.map(|name| name.as_os_str().to_owned()).collect()
    };
    let mut found = PathBuf::from("/");
    let mut rest = names(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            found.pop();
            continue;
        }
        // A leading `/` replaces what was found.
        let next = found.join(&name);
        match read_link(&next).filter(|_| name != "/" && links < MAX_LINKS) {
            Some(target) => {
                links += 1;
                rest.extend(names(&target));
            }
            None => found = next,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_followed_to_their_ends() {
        let read_link = |path: &Path| {
            let target = match path.to_str()? {
                "/data" => "/srv/link/x",
                "/srv/link" => "../mnt/./deep",
                "/mnt/up" => "..",
                "/circle" => "circle",
                "/other" => "/circle/x",
                _ => return None,
            };
            Some(PathBuf::from(target))
        };
        for (path, expected) in [
            ("/", "/"),
            ("/srv/data", "/srv/data"),
            ("/data", "/mnt/deep/x"),
            ("/data/y", "/mnt/deep/x/y"),
            ("/mnt/up/data/../z", "/mnt/deep/z"),
            ("/../..", "/"),
            ("/circle", "/circle"),
            ("/other", "/circle/x"),
        ] {
            assert_eq!(
                follow(Path::new(path), read_link),
                Path::new(expected),
                "{path}"
            );
        }
    }

    /// Only root can make nodes.
    #[test]
    fn devices_go_by_all_their_names() {
        use std::os::unix::fs::symlink;

        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

        if !rustix::process::geteuid().is_root() {
            return hyperv_needs::skip("only root can make the nodes of devices");
        }
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        for directory in [
            "sys/dev/block",
            "sys/devices/dm-3",
            "dev/group",
            "dev/disk/by-uuid",
        ] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        symlink(path("sys/devices/dm-3"), path("sys/dev/block/253:3")).unwrap();
        let node = path("dev/dm-3");
        mknodat(
            CWD,
            node,
            FileType::BlockDevice,
            Mode::RUSR,
            makedev(253, 3),
        )
        .unwrap();
        for (link, target) in [
            ("group/volume", "../dm-3"),
            ("disk/by-uuid/0815", "../../dm-3"),
            ("loop", "group"),
            ("gone", "dm-4"),
            ("stdin", "/proc/self/fd/0"),
        ] {
            symlink(target, path("dev").join(link)).unwrap();
        }
        let links = Links::read(root.path());
        let file_system = FileSystem {
            source: "/dev/mapper/group-volume".into(),
            nodes: vec!["/dev/dm-3".into()],
            ..FileSystem::default()
        };
        for (pattern, own) in [
            ("/dev/group/volume", true),
            ("/dev/group/*", true),
            ("/dev/disk/by-*/08*", true),
            ("/dev/mapper/group-volume", true),
            ("/dev/dm-3", true),
            ("/dev/loop", false),
            ("/dev/gone", false),
            ("/dev/stdin", false),
            ("/dev/group", false),
        ] {
            let patterns = Patterns {
                devices: vec![pattern.to_owned()],
                ..Patterns::default()
            };
            let globs = Globs::new("vss.include", &patterns, |_| None);
            let found = globs.first_match(&file_system, &links);
            assert_eq!(found.is_some(), own, "{pattern}");
            assert_eq!(
                globs.unmatched(&[&file_system], &[], &links).is_empty(),
                own
            );
        }
        assert!(Links::read(&path("nowhere")).0.is_empty());
    }
}
