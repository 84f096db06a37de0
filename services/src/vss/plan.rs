//! Which file systems are frozen, and in which order.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::choice::{self, Choice};
use super::mounts::{self, Mounted};
use super::stack::{self, Bottom};
use super::{Config, order};

/// What a FREEZE would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What is frozen, in this order, and thawed in the reverse one.
    pub freeze: Vec<FileSystem>,
    /// What is mounted and stays as it is.
    pub left_out: Vec<LeftOut>,
}

/// A file system, however often it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileSystem {
    /// The kernel's number for it: what `mountinfo` has.
    pub device: DeviceNumber,
    /// Its type, such as `xfs`.
    pub kind: String,
    /// What it was mounted from.
    pub source: String,
    /// Where it is mounted; by the first that can be opened it is frozen. What
    /// shows all of it comes before a directory or a file in it, and a short
    /// path before a long one.
    pub mounts: Vec<Mount>,
    /// The block devices that it is on, as the kernel calls them below `/dev`.
    pub nodes: Vec<PathBuf>,
    /// The files and programs that those devices are made of, if they are no
    /// disks. Told of what is frozen, and of what that lies on.
    pub lies_on: Vec<LiesOn>,
}

/// One place at which a file system is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// The kernel's number for the mount: what the descriptor of a file there
    /// has in its `fdinfo`.
    pub id: u64,
    /// The directory or file at which it is mounted.
    pub point: PathBuf,
    /// Whether all of the file system, or a subvolume of it, is mounted there:
    /// not only a directory or a file in it.
    pub whole: bool,
}

/// What a file system's device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiesOn {
    /// The file, or the device that a program serves.
    pub what: PathBuf,
    /// The file system with that file; `None` where it cannot be told.
    pub file_system: Option<DeviceNumber>,
    /// Whether that is in memory, where nothing is ever frozen.
    pub in_memory: bool,
}

/// Why what the kernel makes up, and what is in memory, is left out: there is a
/// lot of it.
pub const ON_NO_DEVICE: &str = "it is on no block device";

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// A file system that is not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which one.
    pub file_system: FileSystem,
    /// Why, in words.
    pub why: String,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file of `/proc` cannot be read.
    #[error("cannot tell which file systems there are: cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DeviceNumber {
    /// The number in `st_dev` or `st_rdev`.
    pub fn from_raw(raw: u64) -> Self {
        Self {
            major: rustix::fs::major(raw),
            minor: rustix::fs::minor(raw),
        }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A text that is no number of a device.
#[derive(Debug, thiserror::Error)]
#[error("no number of a device, such as 8:1")]
pub struct NoDeviceNumber;

impl FromStr for DeviceNumber {
    type Err = NoDeviceNumber;

    fn from_str(text: &str) -> Result<Self, NoDeviceNumber> {
        let number = |text: &str| text.parse().map_err(|_| NoDeviceNumber);
        let (major, minor) = text.split_once(':').ok_or(NoDeviceNumber)?;
        Ok(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}

/// Says what a FREEZE would do now.
///
/// # Errors
///
/// If the kernel does not tell what is mounted.
pub fn make(config: &Config) -> Result<Plan, PlanError> {
    let root = &config.root;
    let unreadable = |path: &str| {
        let path = root.join(path);
        move |source| PlanError::Unreadable { path, source }
    };
    let mounted = mounts::read(root).map_err(unreadable(mounts::LIST))?;
    let choice = Choice::read(config).map_err(unreadable(Choice::LIST))?;

    let mounts: HashMap<_, _> = mounted
        .iter()
        .map(|it| (it.id, (it.device, choice::is_in_memory(&it.kind))))
        .collect();
    let mut plan = Plan::default();
    let mut candidates = Vec::new();
    for (mut file_system, read_only) in grouped(mounted) {
        if let Some(why) = choice.against_type(&file_system.kind) {
            plan.leave_out(file_system, why.to_owned());
            continue;
        }
        let members = stack::members(root, &file_system);
        let nodes = members.iter().filter_map(|it| stack::node(root, *it));
        file_system.nodes = nodes.collect();
        if read_only {
            plan.leave_out(file_system, "it is read-only".to_owned());
            continue;
        }
        let bottom = members.iter().flat_map(|it| stack::bottom(root, *it));
        file_system.lies_on = bottom.map(|it| lies_on(root, it, &mounts)).collect();
        candidates.push(file_system);
    }
    // What the configuration leaves out has its place among them: what lies on
    // it makes it write to what it lies on.
    let places = order::places(&candidates);
    candidates.sort_by_key(|it| places.get(&it.device).copied());
    for file_system in candidates {
        match choice.against(&file_system) {
            None => plan.freeze.push(file_system),
            Some(why) => plan.leave_out(file_system, why),
        }
    }
    let place = |it: &LeftOut| it.file_system.mount_point().to_owned();
    plan.left_out.sort_by_cached_key(place);
    Ok(plan)
}

impl Plan {
    fn leave_out(&mut self, file_system: FileSystem, why: String) {
        self.left_out.push(LeftOut { file_system, why });
    }

    /// The file system with this number, whether it is frozen or not.
    pub fn find(&self, device: DeviceNumber) -> Option<&FileSystem> {
        let left_out = self.left_out.iter().map(|it| &it.file_system);
        let mut all = self.freeze.iter().chain(left_out);
        all.find(|it| it.device == device)
    }
}

impl FileSystem {
    /// The directory by which one would call it.
    pub fn mount_point(&self) -> &Path {
        let first = self.mounts.first();
        first.map_or(Path::new(""), |mount| &mount.point)
    }
}

/// The file systems, and whether they are read-only, in the order in which they
/// were mounted.
fn grouped(mounted: Vec<Mounted>) -> Vec<(FileSystem, bool)> {
    let mut file_systems: Vec<(FileSystem, bool)> = Vec::new();
    let mut places = HashMap::new();
    for mounted in mounted {
        let mount = Mount {
            id: mounted.id,
            point: mounted.point,
            whole: mounted.whole,
        };
        let place = *places.entry(mounted.device).or_insert(file_systems.len());
        if let Some((file_system, _)) = file_systems.get_mut(place) {
            file_system.mounts.push(mount);
        } else {
            let file_system = FileSystem {
                device: mounted.device,
                kind: mounted.kind,
                source: mounted.source,
                mounts: vec![mount],
                ..FileSystem::default()
            };
            file_systems.push((file_system, mounted.read_only));
        }
    }
    for (file_system, _) in &mut file_systems {
        file_system.mounts.sort_by_cached_key(|mount| {
            let depth = mount.point.components().count();
            (!mount.whole, depth, mount.point.clone(), mount.id)
        });
    }
    file_systems
}

/// What is at the bottom of a device; `mounts` has the file system of each, and
/// whether it is in memory.
fn lies_on(root: &Path, bottom: Bottom, mounts: &HashMap<u64, (DeviceNumber, bool)>) -> LiesOn {
    let (what, mount) = match bottom {
        Bottom::File(what) => {
            let mount = stack::mount_of(root, &what);
            (what, mount.and_then(|id| mounts.get(&id)))
        }
        Bottom::Program(what) => (what, None),
    };
    LiesOn {
        what,
        file_system: mount.map(|(device, _)| *device),
        in_memory: mount.is_some_and(|(_, in_memory)| *in_memory),
    }
}
