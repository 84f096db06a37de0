//! The filter of a plan: which file systems are left out, and why.

use std::collections::HashSet;
use std::path::Path;
use std::{fs, io};

use super::patterns::{Globs, Links, UnmatchedPattern, follow};
use super::reason::Reason;
use crate::vss::config::Config;
use crate::vss::file_system::FileSystem;
use crate::vss::mountinfo::MountInfo;
use crate::vss::sysfs::under;

/// Decides by type and configuration.
pub(super) struct Filter {
    types: Types,
    include: Globs,
    exclude: Globs,
    links: Links,
}

/// The file system types that the kernel knows.
struct Types {
    all: Vec<String>,
    /// Those that are on block devices.
    on_devices: HashSet<String>,
}

impl Filter {
    /// The path of the list of types below the root directory.
    pub(super) const LIST: &str = "proc/filesystems";

    pub(super) fn read(config: &Config, mounted: &[MountInfo]) -> io::Result<Self> {
        let root = &config.environment.root;
        let types = Types::parse(&fs::read_to_string(root.join(Self::LIST))?);
        // A look-up in a FUSE or network file system may block forever.
        let answers = |directory: &Path| {
            let mut above = mounted.iter().filter(|it| directory.starts_with(&it.point));
            above.all(|it| is_in_memory(&it.kind) || types.reject(&it.kind).is_none())
        };
        let read_link = |path: &Path| {
            let answers = path.parent().is_some_and(answers);
            let link = answers.then(|| fs::read_link(under(root, path)));
            link?.ok()
        };
        let target = |path: &Path| {
            let is_mounted = mounted.iter().any(|it| it.point == path);
            (!is_mounted).then(|| follow(path, read_link))
        };
        let include = Globs::new("vss.include", &config.include, target);
        let exclude = Globs::new("vss.exclude", &config.exclude, target);
        let links = match include.name_devices() || exclude.name_devices() {
            true => Links::read(root),
            false => Links::default(),
        };
        Ok(Self {
            types,
            include,
            exclude,
            links,
        })
    }

    /// Returns why no file system of this type can be frozen, if none can.
    pub(super) fn rejects_type(&self, kind: &str) -> Option<Reason> {
        self.types.reject(kind)
    }

    /// Returns why the configuration leaves the file system out, if it does.
    pub(super) fn rejects(&self, file_system: &FileSystem) -> Option<Reason> {
        let first_match = |globs: &Globs| globs.first_match(file_system, &self.links);
        if let Some((list, pattern)) = first_match(&self.exclude) {
            return Some(Reason::Excluded { list, pattern });
        }
        let is_included = self.include.is_empty() || first_match(&self.include).is_some();
        (!is_included).then_some(Reason::NotIncluded)
    }

    /// Returns the patterns that match none of these, which are all file systems.
    pub(super) fn unmatched(&self, file_systems: &[&FileSystem]) -> Vec<UnmatchedPattern> {
        let globs = [&self.include, &self.exclude].into_iter();
        globs
            .flat_map(|globs| globs.unmatched(file_systems, &self.types.all, &self.links))
            .collect()
    }
}

/// Returns whether file systems of this type are in memory only.
pub(super) fn is_in_memory(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs" | "rootfs" | "devtmpfs")
}

impl Types {
    /// Parses the kernel's list, which marks types without a device.
    fn parse(list: &str) -> Self {
        let all = list.lines().filter_map(|line| line.split('\t').nth(1));
        let on_devices = list.lines().filter_map(|line| line.strip_prefix('\t'));
        Self {
            all: all.map(str::to_owned).collect(),
            on_devices: on_devices.map(str::to_owned).collect(),
        }
    }

    /// Returns why no file system of this type can be frozen, if none can.
    fn reject(&self, kind: &str) -> Option<Reason> {
        // FUSE adds a subtype after a dot.
        let kind = kind.split('.').next().unwrap_or_default();
        Some(match kind {
            "fuse" | "fuseblk" => Reason::Fuse,
            "vfat" | "msdos" | "exfat" => Reason::Unsupported,
            "zfs" => Reason::Zfs,
            _ if self.on_devices.contains(kind) => return None,
            "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "afs" | "lustre" | "9p" | "virtiofs" => {
                Reason::Network
            }
            "overlay" | "aufs" | "ecryptfs" => Reason::Stacked,
            _ => Reason::NoBlockDevice,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vss::config::Patterns;
    use crate::vss::file_system::Mount;

    fn filter(include: Patterns, exclude: Patterns) -> Filter {
        let list = "nodev\tsysfs\nnodev\ttmpfs\n\text4\n\tvfat\n\tfuseblk\n\tbtrfs\nnodev\tzfs\n\
                    nodev\tnfs4\nnodev\toverlay\nnodev\tfuse\n\tnew fs\n";
        Filter {
            types: Types::parse(list),
            include: Globs::new("vss.include", &include, |_| None),
            exclude: Globs::new("vss.exclude", &exclude, |_| None),
            links: Links::default(),
        }
    }

    fn file_system() -> FileSystem {
        let mount = |point: &str, whole| Mount {
            id: 1,
            point: point.into(),
            whole,
            ..Mount::default()
        };
        FileSystem {
            kind: "ext4".into(),
            source: "/dev/mapper/group-data".into(),
            nodes: vec!["/dev/dm-3".into()],
            mounts: vec![mount("/srv/data", true), mount("/var/lib/x", false)],
            ..FileSystem::default()
        }
    }

    fn patterns(mount_points: &[&str], types: &[&str], devices: &[&str]) -> Patterns {
        let list = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Patterns {
            mount_points: list(mount_points),
            types: list(types),
            devices: list(devices),
        }
    }

    #[test]
    fn types_without_a_device_and_those_that_do_not_freeze_are_left_out() {
        let filter = filter(Patterns::default(), Patterns::default());
        for (kind, reason) in [
            ("sysfs", Reason::NoBlockDevice),
            ("tmpfs", Reason::NoBlockDevice),
            // The kernel does not even list these.
            ("nsfs", Reason::NoBlockDevice),
            ("", Reason::NoBlockDevice),
            ("vfat", Reason::Unsupported),
            ("zfs", Reason::Zfs),
            ("nfs4", Reason::Network),
            ("overlay", Reason::Stacked),
            ("fuse", Reason::Fuse),
            ("fuse.sshfs", Reason::Fuse),
            ("fuseblk", Reason::Fuse),
            ("fuseblk.ntfs", Reason::Fuse),
        ] {
            assert_eq!(filter.rejects_type(kind), Some(reason), "{kind}");
        }
        for kind in ["ext4", "btrfs", "new fs"] {
            assert_eq!(filter.rejects_type(kind), None);
        }
    }

    #[test]
    fn without_patterns_everything_is_frozen() {
        let filter = filter(Patterns::default(), Patterns::default());
        assert_eq!(filter.rejects(&file_system()), None);
    }

    #[test]
    fn any_pattern_includes_and_any_excludes() {
        for (own, patterns) in [
            (true, patterns(&["/srv/*"], &[], &[])),
            (true, patterns(&["/home", "/*"], &[], &[])),
            (true, patterns(&["/home"], &["ext?"], &["/dev/sda"])),
            (true, patterns(&[], &["xfs", "ext4"], &[])),
            (true, patterns(&[], &[], &["/dev/mapper/*"])),
            (true, patterns(&[], &[], &["/dev/dm-3"])),
            (false, patterns(&["/srv"], &["ext"], &["dm-3"])),
            // A directory in it is not the file system.
            (false, patterns(&["/var/*"], &[], &[])),
        ] {
            let included = filter(patterns.clone(), Patterns::default());
            let reason = included.rejects(&file_system());
            assert_eq!(reason.is_none(), own, "{patterns:?}");
            let excluded = filter(Patterns::default(), patterns.clone());
            let reason = excluded.rejects(&file_system());
            assert_eq!(reason.is_some(), own, "{patterns:?}");
            // Exclusion wins.
            let both = filter(patterns.clone(), patterns);
            assert!(both.rejects(&file_system()).is_some());
        }
    }

    #[test]
    fn patterns_without_a_match_are_reported() {
        let include = patterns(&["/srv/*", "/mnt"], &["ext?", "xfs"], &["/dev/sda"]);
        let exclude = patterns(&["/var/*"], &["sysfs", "vfat*"], &["/dev/mapper/*", "*"]);
        let filter = filter(include, exclude);
        let unmatched = filter.unmatched(&[&file_system()]);
        let unmatched: Vec<_> = unmatched.iter().map(ToString::to_string).collect();
        assert_eq!(
            unmatched,
            [
                "\"/mnt\" in mount-points of [vss.include] matches no file system",
                "\"xfs\" in types of [vss.include] matches no type of file system that the kernel \
                 knows",
                "\"/dev/sda\" in devices of [vss.include] matches no file system",
                // A directory in it is not the file system.
                "\"/var/*\" in mount-points of [vss.exclude] matches no file system",
            ]
        );
    }

    #[test]
    fn where_no_mount_shows_all_of_it_each_counts() {
        let mut file_system = file_system();
        file_system.mounts.remove(0);
        let filter = filter(Patterns::default(), patterns(&["/var/*"], &[], &[]));
        let reason = filter.rejects(&file_system).unwrap();
        assert_eq!(
            reason.to_string(),
            "the configuration excludes it: it matches \"/var/*\" in mount-points of [vss.exclude]"
        );
    }
}
