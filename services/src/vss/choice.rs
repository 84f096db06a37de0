//! Which file systems are left out, and why.

use std::collections::HashSet;
use std::{fs, io};

use wildmatch::WildMatch;

use super::plan::{FileSystem, ON_NO_DEVICE};
use super::{Config, Patterns};

/// What there is to choose by.
pub(super) struct Choice {
    /// Types of file systems that are on block devices.
    on_devices: HashSet<String>,
    include: Globs,
    exclude: Globs,
}

struct Globs {
    mount_points: Vec<WildMatch>,
    types: Vec<WildMatch>,
    devices: Vec<WildMatch>,
}

impl Choice {
    /// The list of types, below the root.
    pub(super) const LIST: &str = "proc/filesystems";

    pub(super) fn read(config: &Config) -> io::Result<Self> {
        let list = fs::read_to_string(config.root.join(Self::LIST))?;
        Ok(Self {
            on_devices: on_devices(&list),
            include: Globs::new(&config.include),
            exclude: Globs::new(&config.exclude),
        })
    }

    /// Why no file system of this type can be frozen.
    pub(super) fn against_type(&self, kind: &str) -> Option<&'static str> {
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

    /// Why the configuration is against it.
    pub(super) fn against(&self, file_system: &FileSystem) -> Option<String> {
        if let Some((list, pattern)) = self.exclude.first_of(file_system) {
            Some(format!(
                "the configuration excludes it: {pattern:?} is one of the {list} in [vss.exclude]"
            ))
        } else if !self.include.is_empty() && self.include.first_of(file_system).is_none() {
            let why =
                "the configuration does not include it: no pattern in [vss.include] is its own";
            Some(why.to_owned())
        } else {
            None
        }
    }
}

/// Whether file systems of this type are in memory, and on nothing else.
pub(super) fn is_in_memory(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs" | "rootfs" | "devtmpfs")
}

/// The types in the kernel's list that are not marked to be without a device.
fn on_devices(list: &str) -> HashSet<String> {
    let types = list.lines().filter_map(|line| line.strip_prefix('\t'));
    types.map(str::to_owned).collect()
}

impl Globs {
    fn new(patterns: &Patterns) -> Self {
        let globs = |patterns: &[String]| patterns.iter().map(|it| WildMatch::new(it)).collect();
        Self {
            mount_points: globs(&patterns.mount_points),
            types: globs(&patterns.types),
            devices: globs(&patterns.devices),
        }
    }

    fn is_empty(&self) -> bool {
        self.mount_points.is_empty() && self.types.is_empty() && self.devices.is_empty()
    }

    /// The first pattern that is the file system's own, and the list it is in.
    fn first_of(&self, file_system: &FileSystem) -> Option<(&'static str, String)> {
        // A directory that is mounted elsewhere too does not stand for all of
        // its file system.
        let mounts = &file_system.mounts;
        let some_whole = mounts.iter().any(|mount| mount.whole);
        let mounts = mounts.iter().filter(|mount| mount.whole || !some_whole);
        let points: Vec<_> = mounts.map(|mount| mount.point.to_string_lossy()).collect();
        let nodes = file_system.nodes.iter().map(|node| node.to_string_lossy());
        let devices: Vec<_> = nodes.chain([file_system.source.as_str().into()]).collect();
        [
            ("mount-points", &self.mount_points, points),
            ("types", &self.types, vec![file_system.kind.as_str().into()]),
            ("devices", &self.devices, devices),
        ]
        .into_iter()
        .find_map(|(list, globs, texts)| {
            let glob = globs
                .iter()
                .find(|glob| texts.iter().any(|text| glob.matches(text)))?;
            Some((list, glob.pattern()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Mount;
    use super::*;

    fn choice(include: Patterns, exclude: Patterns) -> Choice {
        Choice {
            on_devices: on_devices(
                "nodev\tsysfs\nnodev\ttmpfs\n\text4\n\tvfat\n\tfuseblk\n\tbtrfs\nnodev\tzfs\n\
                 nodev\tnfs4\nnodev\toverlay\nnodev\tfuse\n\tnew fs\n",
            ),
            include: Globs::new(&include),
            exclude: Globs::new(&exclude),
        }
    }

    fn file_system() -> FileSystem {
        let mount = |point: &str, whole| Mount {
            id: 1,
            point: point.into(),
            whole,
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
