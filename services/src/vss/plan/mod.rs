//! Plans a freeze: `filter` selects the file systems, by the `patterns` of the
//! configuration, and `order` computes the freeze order.

mod filter;
mod order;
mod patterns;
mod reason;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::filter::Filter;
pub use self::patterns::UnmatchedPattern;
pub use self::reason::{Blocker, Reason};
use super::block_devices::layer::Layer;
use super::block_devices::{self, Bottom};
use super::blocking::{self, Lookups, NotResponding};
use super::config::Config;
use super::device_number::DeviceNumber;
use super::file_system::{FileSystem, LiesOn, Mount};
use super::mount_namespaces::{self, Namespace};
use super::mountinfo::{self, MountInfo, ReadOnly};
use super::sysfs::under;

/// What a FREEZE does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The file systems to freeze, in freeze order. They are thawed in reverse.
    pub freeze: Vec<FileSystem>,
    /// Those that are to be frozen and cannot be: if there is any, the FREEZE fails.
    pub blocked: Vec<Blocked>,
    /// Those that are not frozen.
    pub left_out: Vec<LeftOut>,
    /// Patterns of the configuration that match nothing that is mounted.
    pub unmatched: Vec<UnmatchedPattern>,
    /// Whether there are more mount namespaces than are read.
    pub namespaces_cut: bool,
}

/// A file system that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The file system.
    pub file_system: FileSystem,
    /// Why.
    pub reason: Reason,
}

/// A file system that is to be frozen and cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The file system.
    pub file_system: FileSystem,
    /// Why.
    pub reason: Blocker,
}

/// There is no plan, since a file of `/proc` cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot list file systems: cannot read {}", path.display())]
pub struct PlanError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Makes a plan by what is mounted now. A file system that does not answer within seconds
/// is blocked.
///
/// # Errors
///
/// If a file in `/proc` cannot be read.
pub fn make(config: &Config) -> Result<Plan, PlanError> {
    make_within(config, &Lookups::new())
}

/// Does the same with the time that is left for look-ups.
pub(super) fn make_within(config: &Config, lookups: &Lookups) -> Result<Plan, PlanError> {
    let root = &config.environment.root;
    let unreadable = |path: &str| {
        let path = root.join(path);
        move |source| PlanError { path, source }
    };
    let mounted = mountinfo::read(root).map_err(unreadable(mountinfo::LIST))?;
    let filter = Filter::read(config, &mounted).map_err(unreadable(Filter::LIST))?;

    let mounts: HashMap<_, _> = mounted
        .iter()
        .map(|it| (it.id, (it.device, filter::is_in_memory(&it.kind))))
        .collect();
    let mounts = Arc::new(mounts);
    let mut plan = Plan::default();
    let mut candidates = Vec::new();
    let mut rejected = HashMap::new();
    let mut blocked = HashMap::new();
    let own: HashSet<_> = mounted.iter().map(|it| it.device).collect();
    let mut groups = Groups::default();
    groups.add(mounted, None, |_| true);
    plan.namespaces_cut = mount_namespaces::for_each(root, |Namespace { process, mounted }| {
        // File systems in memory, or on others, of a container do not matter.
        groups.add(mounted, Some(process), |it| {
            !own.contains(&it.device) && filter.rejects_type(&it.kind).is_none()
        });
    });
    for (mut file_system, read_only) in groups.sorted() {
        let device = file_system.device;
        let type_reason = filter.rejects_type(&file_system.kind);
        let describe = {
            let (root, mounts) = (root.clone(), Arc::clone(&mounts));
            let file_system = file_system.clone();
            move || Description::new(&root, &file_system, &mounts)
        };
        // No paths are looked up for what is left out, which may be excluded because it does
        // not answer. The source of a file system without a device may be anything.
        if type_reason.is_none() || device.major != 0 {
            blocking::without_lookups(&describe).apply_to(&mut file_system);
        }
        let read_only = read_only.map(|read_only| match read_only {
            ReadOnly::Asked => Reason::ReadOnly,
            ReadOnly::Error => Reason::Error,
            ReadOnly::ShutDown => Reason::ShutDown,
        });
        if let Some(reason) = type_reason.or(read_only) {
            plan.left_out.push(LeftOut {
                file_system,
                reason,
            });
            continue;
        }
        let is_elsewhere = file_system.mounts.iter().any(|it| it.process.is_some());
        let mut reason = filter.rejects(&file_system);
        if is_elsewhere && !config.other_namespaces {
            reason = Some(Reason::OtherNamespace);
        } else if reason.is_none() {
            let place = file_system.nodes.first().cloned();
            let place = place.unwrap_or_else(|| file_system.source.clone().into());
            match lookups.run(&place, describe) {
                Ok(described) => {
                    described.apply_to(&mut file_system);
                    reason = filter.rejects(&file_system);
                }
                Err(NotResponding(path)) => {
                    blocked.insert(device, Blocker::NotResponding(path));
                }
            }
        }
        rejected.extend(reason.map(|reason| (device, reason)));
        candidates.push(file_system);
    }
    // What the configuration leaves out counts for the order: it still writes to the file
    // system that it is on.
    let mut places = order::freeze_order(&candidates, |it| rejected.contains_key(&it));
    candidates.sort_by_key(|it| places.get(&it.device).map(|place| place.position));
    for mut file_system in candidates {
        let device = file_system.device;
        if let Some(reason) = rejected.remove(&device) {
            plan.left_out.push(LeftOut {
                file_system,
                reason,
            });
        } else if let Some(reason) = blocked.remove(&device) {
            plan.blocked.push(Blocked {
                file_system,
                reason,
            });
        } else {
            let after = places.remove(&device).map(|place| place.after);
            file_system.after = after.into_iter().flatten().collect();
            plan.freeze.push(file_system);
        }
    }
    let place = |it: &LeftOut| it.file_system.mount_point().to_owned();
    plan.left_out.sort_by_cached_key(place);
    plan.unmatched = filter.unmatched(&plan.all().collect::<Vec<_>>());
    Ok(plan)
}

impl Plan {
    /// The warning if `namespaces_cut` is set.
    pub const NAMESPACES_CUT: &str = "there are too many mount namespaces to read all: file systems \
                                      that are mounted only in the others are not frozen";

    /// Returns the file system with this device number, whether it is frozen or not.
    pub fn find(&self, device: DeviceNumber) -> Option<&FileSystem> {
        self.all().find(|it| it.device == device)
    }

    /// Returns all file systems, those that are frozen first.
    pub fn all(&self) -> impl Iterator<Item = &FileSystem> {
        let left_out = self.left_out.iter().map(|it| &it.file_system);
        let blocked = self.blocked.iter().map(|it| &it.file_system);
        self.freeze.iter().chain(blocked).chain(left_out)
    }
}

/// The mounts grouped by file system, in the order of the first mounts.
#[derive(Default)]
struct Groups {
    file_systems: Vec<(FileSystem, Option<ReadOnly>)>,
    /// The index of each.
    places: HashMap<DeviceNumber, usize>,
}

impl Groups {
    /// Adds the mounts that are wanted. Those of another mount namespace come with a
    /// `process` in it.
    fn add(
        &mut self,
        mounted: Vec<MountInfo>,
        process: Option<u32>,
        is_wanted: impl Fn(&MountInfo) -> bool,
    ) {
        let own_path = |point: &Path| match process {
            Some(process) => {
                let path = under(&mount_namespaces::root_of(process), point);
                // Without a trailing slash.
                path.components().collect()
            }
            None => point.to_owned(),
        };
        let hidden = mountinfo::hidden(&mounted);
        let hidden = hidden.iter().map(|(id, by)| (*id, own_path(&by.point)));
        let mut hidden: HashMap<_, _> = hidden.collect();
        for mounted in mounted {
            if !is_wanted(&mounted) {
                continue;
            }
            let mount = Mount {
                id: mounted.id,
                point: own_path(&mounted.point),
                whole: mounted.whole,
                hidden_under: hidden.remove(&mounted.id),
                process,
            };
            let next = self.file_systems.len();
            let place = *self.places.entry(mounted.device).or_insert(next);
            if let Some((file_system, read_only)) = self.file_systems.get_mut(place) {
                file_system.mounts.push(mount);
                // A mount of one that was made read-only may be made writable.
                if mounted.read_only == Some(ReadOnly::Asked) {
                    *read_only = mounted.read_only;
                }
            } else {
                let file_system = FileSystem {
                    device: mounted.device,
                    kind: mounted.kind,
                    source: mounted.source,
                    external: mounted.external,
                    mounts: vec![mount],
                    ..FileSystem::default()
                };
                self.file_systems.push((file_system, mounted.read_only));
            }
        }
    }

    /// Returns all, with their mounts sorted.
    fn sorted(mut self) -> Vec<(FileSystem, Option<ReadOnly>)> {
        for (file_system, _) in &mut self.file_systems {
            file_system.mounts.sort_by_cached_key(|mount| {
                let depth = mount.point.components().count();
                let is_hidden = mount.hidden_under.is_some();
                let place = (!mount.whole, depth, mount.point.clone());
                (is_hidden, place, mount.id)
            });
        }
        self.file_systems
    }
}

/// The block devices of a file system, and what those are made of.
struct Description {
    layers: Vec<Layer>,
    lies_on: Vec<LiesOn>,
}

impl Description {
    /// Describes a file system. `mounts` has the file system of each mount, and whether that
    /// is in memory.
    fn new(
        root: &Path,
        file_system: &FileSystem,
        mounts: &HashMap<u64, (DeviceNumber, bool)>,
    ) -> Self {
        let layers = block_devices::walk(root, file_system);
        let bottom = block_devices::bottom(&layers).into_iter();
        let lies_on = bottom.map(|it| lies_on(root, it, mounts)).collect();
        Self { layers, lies_on }
    }

    fn apply_to(self, file_system: &mut FileSystem) {
        file_system.nodes = block_devices::nodes(&self.layers);
        file_system.layers = self.layers;
        file_system.lies_on = self.lies_on;
    }
}

/// Describes the bottom of a device. `mounts` has the file system of each mount, and
/// whether that is in memory.
fn lies_on(root: &Path, bottom: Bottom, mounts: &HashMap<u64, (DeviceNumber, bool)>) -> LiesOn {
    let (what, mount) = match bottom {
        Bottom::File(what) => {
            let mount = block_devices::mount_of(root, &what);
            (what, mount.and_then(|id| mounts.get(&id)))
        }
        Bottom::Unknown(what) => (what, None),
    };
    LiesOn {
        what,
        file_system: mount.map(|(device, _)| *device),
        in_memory: mount.is_some_and(|(_, in_memory)| *in_memory),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::vss::config::Patterns;

    /// A made-up machine with a stack that takes more than a test can make: the
    /// root on device-mapper, a mirror of which one half is a partition of a loop
    /// device, and files for loop devices on the root and in a container.
    fn machine() -> (tempfile::TempDir, Config) {
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        for directory in ["proc/self", "sys/dev/block", "srv/images"] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        for (number, name, below) in [
            ("8:1", "sda/sda1", &[][..]),
            ("8:2", "sda/sda2", &[]),
            ("8:16", "sdb", &[]),
            ("253:0", "dm-0", &["sda/sda2"]),
            ("7:0", "loop0", &[]),
            ("259:0", "loop0/loop0p1", &[]),
            ("7:1", "loop1", &[]),
            ("7:2", "loop2", &[]),
            ("9:0", "md0", &["loop0/loop0p1", "sdb"]),
        ] {
            let device = path("sys/devices").join(name);
            fs::create_dir_all(device.join("slaves")).unwrap();
            symlink(&device, path("sys/dev/block").join(number)).unwrap();
            for name in below {
                let below = path("sys/devices").join(name);
                symlink(
                    &below,
                    device.join("slaves").join(below.file_name().unwrap()),
                )
                .unwrap();
            }
        }
        for partition in ["sda/sda1", "sda/sda2", "loop0/loop0p1"] {
            fs::write(path(&format!("sys/devices/{partition}/partition")), "1").unwrap();
        }
        for (name, file) in [
            ("loop0", "/srv/images/disk"),
            ("loop1", "/elsewhere/in/a/container"),
            ("loop2", "/snap"),
        ] {
            let directory = path(&format!("sys/devices/{name}/loop"));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("backing_file"), format!("{file}\n")).unwrap();
        }
        fs::write(path("srv/images/disk"), "").unwrap();
        // Everything is in this mount, which is made out to be the root's.
        let here = mountinfo::id(File::open(root.path()).unwrap()).unwrap();
        let other = |number: u64| here + number;
        let list = format!(
            "{} 1 0:21 / /proc rw - proc proc rw\n\
             {here} 1 253:0 / / rw - xfs /dev/mapper/root rw\n\
             {} 1 8:1 / /boot/efi rw - vfat /dev/sda1 rw\n\
             {} 1 9:0 / /srv/mirror rw - ext4 /dev/md0 rw\n\
             {} 1 7:1 / /mnt rw - ext4 /dev/loop1 rw\n\
             {} 1 7:2 / /snap/core ro - squashfs /dev/loop2 ro\n\
             {} 1 8:3 / /bad rw - ext4 /dev/sda3 rw,errors=remount-ro,emergency_ro\n\
             {} 1 8:4 / /worse rw - ext4 /dev/sda4 rw,shutdown\n\
             {} 1 0:50 / /net/share rw - nfs4 server:/share rw\n\
             {} 1 9:0 /directory /a rw - ext4 /dev/md0 rw\n\
             {} 1 9:0 / /mirror rw - ext4 /dev/md0 rw\n",
            other(1),
            other(2),
            other(3),
            other(4),
            other(5),
            other(6),
            other(7),
            other(8),
            other(9),
            other(10),
        );
        fs::write(path("proc/self/mountinfo"), list).unwrap();
        let types = "nodev\tproc\nnodev\tnfs4\n\text4\n\txfs\n\tvfat\n\tsquashfs\n";
        fs::write(path("proc/filesystems"), types).unwrap();
        let config = Config {
            environment: crate::Environment {
                root: root.path().into(),
                ..crate::Environment::default()
            },
            ..Config::default()
        };
        (root, config)
    }

    fn points<'a>(file_systems: impl IntoIterator<Item = &'a FileSystem>) -> Vec<&'a str> {
        let points = file_systems.into_iter().map(FileSystem::mount_point);
        points.map(|point| point.to_str().unwrap()).collect()
    }

    #[test]
    fn a_machine_is_planned() {
        let (_root, config) = machine();
        let plan = make(&config).unwrap();
        // What is in a container's file may be anywhere.
        assert_eq!(points(&plan.freeze), ["/mnt", "/mirror", "/"]);
        let left_out = plan.left_out.iter().map(|it| &it.file_system);
        assert_eq!(
            points(left_out),
            [
                "/bad",
                "/boot/efi",
                "/net/share",
                "/proc",
                "/snap/core",
                "/worse"
            ]
        );
        let faults = plan.left_out.iter().filter(|it| it.reason.is_fault());
        let faults: Vec<_> = faults.map(|it| &it.reason).collect();
        assert_eq!(faults, [&Reason::Error, &Reason::ShutDown]);

        let [loop1, mirror, root] = &plan.freeze[..] else {
            panic!("not three");
        };
        assert_eq!(loop1.lies_on[0].file_system, None);
        assert_eq!(points([mirror]), ["/mirror"]);
        let mounts = mirror.mounts.iter().map(|it| it.point.to_str().unwrap());
        assert_eq!(mounts.collect::<Vec<_>>(), ["/mirror", "/srv/mirror", "/a"]);
        assert_eq!(mirror.nodes, [Path::new("/dev/md0")]);
        assert_eq!(
            mirror.lies_on,
            [LiesOn {
                what: "/srv/images/disk".into(),
                file_system: Some(root.device),
                in_memory: false,
            }]
        );
        assert_eq!(plan.find(root.device), Some(root));
        assert_eq!(root.lies_on, []);
        assert_eq!(make(&config).unwrap(), plan);
    }

    #[test]
    fn what_other_mount_namespaces_have_is_planned_if_it_is_on_a_device() {
        let (root, mut config) = machine();
        let list = "50 1 8:16 / / rw - ext4 /dev/sdb rw\n\
            51 50 0:99 / /tmp rw - tmpfs tmpfs rw\n\
            52 50 9:0 / /mirror rw - ext4 /dev/md0 rw\n\
            53 50 8:2 / /a/b rw - xfs /dev/sda2 rw\n\
            54 50 8:16 / /a rw - ext4 /dev/sdb rw\n";
        for (process, namespace) in [("self", "4"), ("1", "4"), ("77", "5")] {
            let directory = root.path().join("proc").join(process);
            fs::create_dir_all(directory.join("ns")).unwrap();
            symlink(namespace, directory.join("ns/mnt")).unwrap();
        }
        fs::write(root.path().join("proc/77/mountinfo"), list).unwrap();
        let (upper, under) = ("/proc/77/root/a/b", "/proc/77/root/a");
        let plan = make(&config).unwrap();
        assert_eq!(
            points(&plan.freeze),
            ["/mnt", "/mirror", upper, "/proc/77/root", "/"]
        );
        let mount = &plan.freeze[2].mounts[0];
        assert_eq!(mount.process, Some(77));
        assert_eq!(mount.hidden_under.as_deref(), Some(Path::new(under)));
        assert!(
            plan.left_out
                .iter()
                .all(|it| it.file_system.device.minor != 99)
        );

        config.other_namespaces = false;
        let plan = make(&config).unwrap();
        assert_eq!(points(&plan.freeze), ["/mnt", "/mirror", "/"]);
        let mut left_out = plan.left_out.iter().map(|it| &it.reason);
        assert_eq!(
            left_out
                .by_ref()
                .filter(|it| **it == Reason::OtherNamespace)
                .count(),
            2
        );
    }

    #[test]
    fn the_configuration_selects() {
        let (_root, mut config) = machine();
        config.include.mount_points = vec!["/srv/*".to_owned()];
        let plan = make(&config).unwrap();
        assert_eq!(points(&plan.freeze), ["/mirror"]);
        let reason = |plan: &Plan, point: &str| {
            let mut left_out = plan.left_out.iter();
            let found = left_out.find(|it| it.file_system.mount_point() == Path::new(point));
            found.unwrap().reason.clone()
        };
        assert_eq!(reason(&plan, "/mnt"), Reason::NotIncluded);
        assert_eq!(reason(&plan, "/snap/core"), Reason::ReadOnly);

        config.include = Patterns::default();
        config.exclude.devices = vec!["/dev/dm-*".to_owned()];
        let plan = make(&config).unwrap();
        assert_eq!(points(&plan.freeze), ["/mnt", "/mirror"]);
        assert!(reason(&plan, "/").to_string().contains("/dev/dm-*"));
    }

    #[test]
    fn patterns_follow_links_and_are_told_if_they_mean_nothing() {
        let (root, mut config) = machine();
        // A place where nothing is looked at: what is mounted may not answer.
        for (link, target) in [("data", "srv/./mirror"), ("net/share/link", "/srv/mirror")] {
            let link = root.path().join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }
        config.include.mount_points = vec!["/data".to_owned(), "/net/share/link".to_owned()];
        config.include.types = vec!["xsf".to_owned()];
        let plan = make(&config).unwrap();
        assert_eq!(points(&plan.freeze), ["/mirror"]);
        let unmatched = plan.unmatched.iter().map(|it| &*it.pattern);
        assert_eq!(unmatched.collect::<Vec<_>>(), ["/net/share/link", "xsf"]);
    }

    /// What is left out writes to what it lies on all the same.
    #[test]
    fn what_lies_on_what_is_left_out_comes_before_everything_else() {
        let (_root, mut config) = machine();
        config.exclude.mount_points = vec!["/".to_owned()];
        config.exclude.devices = vec!["/dev/loop1".to_owned()];
        let list = config.environment.root.join("proc/self/mountinfo");
        let mut text = fs::read_to_string(&list).unwrap();
        text += "1 1 8:2 / /a/deep/one rw - xfs /dev/sda2 rw\n";
        fs::write(list, text).unwrap();
        let plan = make(&config).unwrap();
        assert_eq!(points(&plan.freeze), ["/mirror", "/a/deep/one"]);
    }

    #[test]
    fn what_lies_on_what_is_left_out_comes_before_what_carries_that() {
        let (_root, mut config) = machine();
        let all = make(&config).unwrap();
        let of = |plan: &Plan, point: &str| {
            let mut freeze = plan.freeze.iter();
            freeze
                .find(|it| it.mount_point() == Path::new(point))
                .unwrap()
                .clone()
        };
        let (mirror, mnt) = (of(&all, "/mirror"), of(&all, "/mnt"));
        assert_eq!(mirror.after, [mnt.device]);
        assert_eq!(of(&all, "/").after, [mnt.device, mirror.device]);
        config.exclude.mount_points = vec!["/mirror".to_owned()];
        let plan = make(&config).unwrap();
        assert_eq!(of(&plan, "/").after, [mnt.device]);
    }

    #[test]
    fn without_proc_there_is_no_plan() {
        let (root, config) = machine();
        for file in ["filesystems", "self/mountinfo"] {
            let path = root.path().join("proc").join(file);
            fs::remove_file(&path).unwrap();
            let error = make(&config).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn numbers_of_devices_are_read_and_written() {
        for text in ["8:1", "0:0", "4294967295:4294967295"] {
            assert_eq!(text.parse::<DeviceNumber>().unwrap().to_string(), text);
        }
        for text in [
            "",
            ":",
            "8",
            "8:",
            ":1",
            "8:1:1",
            " 8:1",
            "-8:1",
            "8:4294967296",
        ] {
            text.parse::<DeviceNumber>().unwrap_err();
        }
    }
}
