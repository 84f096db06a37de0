//! Which file systems are left out, and why.

use std::collections::HashSet;
use std::path::Path;
use std::{fs, io};

use super::patterns::{Globs, Links, UnmatchedPattern, follow};
use crate::vss::config::Config;
use crate::vss::file_system::{FileSystem, ON_NO_DEVICE};
use crate::vss::mountinfo::MountInfo;
use crate::vss::sysfs::under;

/// What there is to choose by.
pub(super) struct Filter {
    types: Types,
    include: Globs,
    exclude: Globs,
    links: Links,
}

/// The types of file systems that the kernel knows.
struct Types {
    all: Vec<String>,
    /// Those that are on block devices.
    on_devices: HashSet<String>,
}

impl Filter {
    /// The list of types, below the root.
    pub(super) const LIST: &str = "proc/filesystems";

    pub(super) fn read(config: &Config, mounted: &[MountInfo]) -> io::Result<Self> {
        let root = &config.root;
        let types = Types::parse(&fs::read_to_string(root.join(Self::LIST))?);
        // To look at a path in what a program or another machine serves may take
        // for ever.
        let answers = |directory: &Path| {
            let mut above = mounted.iter().filter(|it| directory.starts_with(&it.point));
            above.all(|it| is_in_memory(&it.kind) || types.against(&it.kind).is_none())
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

    /// Why no file system of this type can be frozen.
    pub(super) fn against_type(&self, kind: &str) -> Option<&'static str> {
        self.types.against(kind)
    }

    /// Why the configuration is against it.
    pub(super) fn against(&self, file_system: &FileSystem) -> Option<String> {
        if let Some((list, pattern)) = self.exclude.first_of(file_system, &self.links) {
            Some(format!(
                "the configuration excludes it: {pattern:?} is one of the {list} in [vss.exclude]"
            ))
        } else if !self.include.is_empty()
            && self.include.first_of(file_system, &self.links).is_none()
        {
            let why =
                "the configuration does not include it: no pattern in [vss.include] is its own";
            Some(why.to_owned())
        } else {
            None
        }
    }

    /// The patterns that mean none of these, which are all that there are.
    pub(super) fn unmatched(&self, file_systems: &[&FileSystem]) -> Vec<UnmatchedPattern> {
        let globs = [&self.include, &self.exclude].into_iter();
        globs
            .flat_map(|globs| globs.unmatched(file_systems, &self.types.all, &self.links))
            .collect()
    }
}

/// Whether file systems of this type are in memory, and on nothing else.
pub(super) fn is_in_memory(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs" | "rootfs" | "devtmpfs")
}

impl Types {
    /// From the kernel's list, where those without a device are marked.
    fn parse(list: &str) -> Self {
        let all = list.lines().filter_map(|line| line.split('\t').nth(1));
        let on_devices = list.lines().filter_map(|line| line.strip_prefix('\t'));
        Self {
            all: all.map(str::to_owned).collect(),
            on_devices: on_devices.map(str::to_owned).collect(),
        }
    }

    /// Why no file system of this type can be frozen.
    fn against(&self, kind: &str) -> Option<&'static str> {
        // What follows a dot is a matter of FUSE.
        let kind = kind.split('.').next().unwrap_or_default();
        match kind {
            "fuse" | "fuseblk" => Some("a program serves it (FUSE)"),
            "vfat" | "msdos" | "exfat" => Some("file systems of this type cannot be frozen"),
            "zfs" => Some("ZFS cannot be frozen; its snapshots are consistent by themselves"),
            _ if self.on_devices.contains(kind) => None,
            "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "afs" | "lustre" | "9p" | "virtiofs" => {
                Some("its files are another machine's")
            }
            "overlay" | "aufs" | "ecryptfs" => Some("its files are in other file systems"),
            _ => Some(ON_NO_DEVICE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vss::config::Patterns;
    use crate::vss::file_system::Mount;

    fn choice(include: Patterns, exclude: Patterns) -> Filter {
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
        let choice = choice(Patterns::default(), Patterns::default());
        for (kind, words) in [
            ("sysfs", "no block device"),
            ("tmpfs", "no block device"),
            // What the kernel does not even list.
            ("nsfs", "no block device"),
            ("", "no block device"),
            ("vfat", "cannot be frozen"),
            ("zfs", "ZFS"),
            ("nfs4", "another machine"),
            ("overlay", "other file systems"),
            ("fuse", "FUSE"),
            ("fuse.sshfs", "FUSE"),
            ("fuseblk", "FUSE"),
            ("fuseblk.ntfs", "FUSE"),
        ] {
            let why = choice.against_type(kind).unwrap();
            assert!(why.contains(words), "{kind}: {why}");
        }
        for kind in ["ext4", "btrfs", "new fs"] {
            assert_eq!(choice.against_type(kind), None);
        }
    }

    #[test]
    fn nothing_said_is_everything_meant() {
        let choice = choice(Patterns::default(), Patterns::default());
        assert_eq!(choice.against(&file_system()), None);
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
            let included = choice(patterns.clone(), Patterns::default());
            let why = included.against(&file_system());
            assert_eq!(why.is_none(), own, "{patterns:?}");
            let excluded = choice(Patterns::default(), patterns.clone());
            let why = excluded.against(&file_system());
            assert_eq!(why.is_some(), own, "{patterns:?}");
            // Who is excluded cannot be included.
            let both = choice(patterns.clone(), patterns);
            assert!(both.against(&file_system()).is_some());
        }
    }

    #[test]
    fn what_means_nothing_is_told() {
        let include = patterns(&["/srv/*", "/mnt"], &["ext?", "xfs"], &["/dev/sda"]);
        let exclude = patterns(&["/var/*"], &["sysfs", "vfat*"], &["/dev/mapper/*", "*"]);
        let choice = choice(include, exclude);
        let unmatched = choice.unmatched(&[&file_system()]);
        let unmatched: Vec<_> = unmatched.iter().map(ToString::to_string).collect();
        assert_eq!(
            unmatched,
            [
                "no file system is meant by \"/mnt\" among the mount-points in [vss.include]",
                "no type of file systems that the kernel knows is meant by \"xfs\" among the types \
                 in [vss.include]",
                "no file system is meant by \"/dev/sda\" among the devices in [vss.include]",
                // A directory in it is not the file system.
                "no file system is meant by \"/var/*\" among the mount-points in [vss.exclude]",
            ]
        );
    }

    #[test]
    fn where_no_mount_shows_all_of_it_each_counts() {
        let mut file_system = file_system();
        file_system.mounts.remove(0);
        let choice = choice(Patterns::default(), patterns(&["/var/*"], &[], &[]));
        let why = choice.against(&file_system).unwrap();
        assert_eq!(
            why,
            "the configuration excludes it: \"/var/*\" is one of the mount-points in [vss.exclude]"
        );
    }
}
