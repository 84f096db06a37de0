//! Made-up machines through the planner. Where something is mounted is real, so that
//! what hides what is the kernel's affair; what it is, and on which devices, is made
//! up, and so is everything below `/proc` and `/sys`.
//!
//! `CHAOS_SEED` generates the same machines again, and `SOAK_SECONDS` generates more.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use hyperv_needs::random::{self, Random};
use hyperv_services::vss::device_number::DeviceNumber;
use hyperv_services::vss::plan::{self, Plan, PlanError};
use hyperv_services::vss::{Config, Patterns};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::apart;

/// How long a plan may take, far from any machine that this is run on.
const LIMIT: Duration = Duration::from_secs(60);

/// A block device that is made up.
struct Device {
    number: DeviceNumber,
    directory: PathBuf,
    /// The file systems with files that it is made of, directly or not.
    on: HashSet<usize>,
    /// Whether it may be made of anything.
    unknown: bool,
}

/// A file system that is made up.
struct Made {
    kind: &'static str,
    number: DeviceNumber,
    source: String,
    read_only: bool,
    /// Its place in the real tree, and the number that it has there.
    place: PathBuf,
    real: u64,
    device: usize,
    /// Files in it that loop devices are made of, as paths of the machine.
    files: Vec<PathBuf>,
}

struct Machine {
    root: PathBuf,
    random: Random,
    devices: Vec<Device>,
    file_systems: Vec<Made>,
}

impl Machine {
    fn new(root: &Path, random: Random) -> Self {
        mount("machine", root, "tmpfs", MountFlags::empty(), None).unwrap();
        for directory in [
            "proc/self",
            "sys/dev/block",
            "sys/devices/virtual/block",
            "m",
        ] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let mut machine = Self {
            root: root.to_owned(),
            random,
            devices: Vec::new(),
            file_systems: Vec::new(),
        };
        for _ in 0..3 {
            machine.disk();
        }
        for _ in 0..1 + machine.random.index(12) {
            machine.file_system();
        }
        machine.binds();
        machine
    }

    fn directory(&mut self, below: Option<&Path>) -> (PathBuf, DeviceNumber) {
        let minor = self.devices.len();
        let name = match minor {
            // The kernel has such names, too.
            minor if minor % 7 == 3 => format!("cciss!d{minor}"),
            minor => format!("dev{minor}"),
        };
        let parent = self.root.join("sys/devices/virtual/block");
        let directory = below.unwrap_or(&parent).join(name);
        fs::create_dir_all(directory.join("slaves")).unwrap();
        // None of these has a driver.
        let number = DeviceNumber {
            major: 240,
            minor: u32::try_from(minor).unwrap(),
        };
        let link = self.root.join(format!("sys/dev/block/{number}"));
        symlink(&directory, link).unwrap();
        (directory, number)
    }

    fn add(&mut self, below: Option<&Path>, on: HashSet<usize>, unknown: bool) -> usize {
        let (directory, number) = self.directory(below);
        self.devices.push(Device {
            number,
            directory,
            on,
            unknown,
        });
        self.devices.len() - 1
    }

    fn disk(&mut self) -> usize {
        self.add(None, HashSet::new(), false)
    }

    /// A device, a new one or one that is there.
    fn device(&mut self, depth: usize) -> usize {
        let there = self.devices.len();
        match self.random.index(if depth > 4 { 2 } else { 9 }) {
            0 => self.random.index(there),
            1 => self.disk(),
            2 => {
                let whole = self.device(depth + 1);
                let whole = &self.devices[whole];
                let (directory, on) = (whole.directory.clone(), whole.on.clone());
                let unknown = whole.unknown;
                let made = self.add(Some(&directory), on, unknown);
                fs::write(self.devices[made].directory.join("partition"), "1\n").unwrap();
                made
            }
            3 | 4 => self.made_of_several(depth),
            5 => {
                let served = self.add(None, HashSet::new(), true);
                let device = &mut self.devices[served];
                let name = format!("nbd{served}");
                let renamed = device.directory.with_file_name(name);
                fs::rename(&device.directory, &renamed).unwrap();
                let link = self.root.join(format!("sys/dev/block/{}", device.number));
                fs::remove_file(&link).unwrap();
                symlink(&renamed, link).unwrap();
                device.directory = renamed;
                served
            }
            _ => self.on_a_file(),
        }
    }

    fn made_of_several(&mut self, depth: usize) -> usize {
        let below: Vec<_> = (0..1 + self.random.index(3))
            .map(|_| self.device(depth + 1))
            .collect();
        let on = below.iter().flat_map(|it| self.devices[*it].on.clone());
        let on = on.collect();
        let unknown = below.iter().any(|it| self.devices[*it].unknown);
        let made = self.add(None, on, unknown);
        let directory = self.devices[made].directory.clone();
        for below in below {
            let below = &self.devices[below].directory;
            // Twice the same is one.
            let _ = symlink(
                below,
                directory.join("slaves").join(below.file_name().unwrap()),
            );
        }
        let (file, text) = match self.random.index(3) {
            0 => ("md/level", "raid1\n"),
            1 => ("dm/name", "upper\n"),
            _ => ("bcache/label", "\n"),
        };
        fs::create_dir_all(directory.join(file).parent().unwrap()).unwrap();
        fs::write(directory.join(file), text).unwrap();
        made
    }

    /// A loop device, of a file in a file system that is there.
    fn on_a_file(&mut self) -> usize {
        if self.file_systems.is_empty() {
            return self.disk();
        }
        let lower = self.random.index(self.file_systems.len());
        let number = self.devices.len();
        let its = &mut self.file_systems[lower];
        let real = its.place.join(format!("file{number}"));
        // What is mounted over that place would have the file.
        let seen = fs::metadata(&its.place).is_ok_and(|it| it.dev() == its.real);
        let file = Path::new("/").join(real.strip_prefix(&self.root).unwrap());
        if seen {
            File::create(&real).unwrap();
            its.files.push(file.clone());
        }
        let mut on = match its.kind {
            "tmpfs" => HashSet::new(),
            _ => self.devices[its.device].on.clone(),
        };
        on.insert(lower);
        let device = self.add(None, on, !seen);
        let directory = self.devices[device].directory.join("loop");
        fs::create_dir(&directory).unwrap();
        let text = format!("{}\n", file.display());
        fs::write(directory.join("backing_file"), text).unwrap();
        device
    }

    /// Any directory of the machine that is seen.
    fn place(&mut self) -> PathBuf {
        match self.random.index(self.file_systems.len() + 1) {
            0 => self.root.join("m"),
            place => self.file_systems[place - 1].place.clone(),
        }
    }

    fn file_system(&mut self) {
        let number = self.file_systems.len();
        let mut place = self.place();
        // Sometimes over what is there.
        if !self.random.one_in(6) || number == 0 {
            place.push(format!("d{number}"));
            if self.random.one_in(4) {
                place.push("deep/er");
            }
        }
        fs::create_dir_all(&place).unwrap();
        let device = self.device(0);
        let kind = *self
            .random
            .one(&["ext4", "xfs", "xfs", "btrfs", "vfat", "tmpfs"]);
        let taken = |number| self.file_systems.iter().any(|it| it.number == number);
        let node = self.devices[device].directory.file_name().unwrap();
        let node = node.to_str().unwrap().replace('!', "/");
        let own = self.devices[device].number;
        let (kind, own) = match kind {
            "tmpfs" => (
                kind,
                DeviceNumber {
                    major: 0,
                    minor: 900 + u32::try_from(number).unwrap(),
                },
            ),
            // One file system a device.
            _ if taken(own) => (
                "tmpfs",
                DeviceNumber {
                    major: 0,
                    minor: 900 + u32::try_from(number).unwrap(),
                },
            ),
            kind => (kind, own),
        };
        mount("made", &place, "tmpfs", MountFlags::empty(), None).unwrap();
        let real = fs::metadata(&place).unwrap().dev();
        self.file_systems.push(Made {
            kind,
            number: own,
            source: format!("/dev/{node}"),
            read_only: self.random.one_in(8),
            place,
            real,
            device,
            files: Vec::new(),
        });
    }

    /// Mounts what is there once more: all of it, or a directory.
    fn binds(&mut self) {
        for number in 0..self.random.index(4) {
            let mut from = self.place();
            if self.random.one_in(2) {
                from.push("part");
            }
            let to = self.place().join(format!("bind{number}"));
            fs::create_dir_all(&from).unwrap();
            fs::create_dir_all(&to).unwrap();
            mount_bind(from, to).unwrap();
        }
    }

    /// Writes what the kernel would say of it.
    fn describe(&mut self) {
        let of = |real: u64| self.file_systems.iter().find(|it| it.real == real);
        let root = self.root.to_str().unwrap();
        let mut list = String::new();
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let Some(point) = fields[4].strip_prefix(root) else {
                continue;
            };
            let real: DeviceNumber = fields[2].parse().unwrap();
            let made = of(rustix::fs::makedev(real.major, real.minor));
            let (number, kind, source, read_only) = match made {
                Some(made) => (made.number, made.kind, &*made.source, made.read_only),
                None => ("240:0".parse().unwrap(), "ext4", "/dev/dev0", false),
            };
            let point = if point.is_empty() { "/" } else { point };
            let options = if read_only { "ro" } else { "rw" };
            writeln!(
                list,
                "{} {} {number} {} {point} {options} - {kind} {source} {options}",
                fields[0], fields[1], fields[3],
            )
            .unwrap();
        }
        fs::write(self.root.join("proc/self/mountinfo"), list).unwrap();
        let types = "nodev\tproc\nnodev\ttmpfs\n\text4\n\txfs\n\tbtrfs\n\tvfat\n";
        fs::write(self.root.join("proc/filesystems"), types).unwrap();
    }

    /// Makes the mounts of other namespaces, and returns the numbers of those that are only
    /// there.
    fn elsewhere(&mut self) -> HashSet<DeviceNumber> {
        let mut only = HashSet::new();
        if self.random.one_in(2) {
            return only;
        }
        let own = fs::read_to_string(self.root.join("proc/self/mountinfo")).unwrap();
        for (process, namespace) in [("self", "1"), ("1", "1"), ("50", "2"), ("60", "3")] {
            let directory = self.root.join("proc").join(process);
            fs::create_dir_all(directory.join("ns")).unwrap();
            symlink(namespace, directory.join("ns/mnt")).unwrap();
            let mut list = own.clone();
            for number in 0..self.random.index(4) {
                let device = DeviceNumber {
                    major: 241,
                    minor: u32::try_from(self.random.index(3)).unwrap(),
                };
                only.extend((namespace != "1").then_some(device));
                let line = format!(
                    "{0} 1 {device} / /x{number} rw - ext4 /dev/y rw",
                    90_000 + number
                );
                writeln!(list, "{line}").unwrap();
            }
            if namespace != "1" {
                fs::write(directory.join("mountinfo"), list).unwrap();
            }
        }
        only
    }

    fn config(&self) -> Config {
        Config {
            environment: hyperv_services::Environment {
                root: self.root.clone(),
                ..hyperv_services::Environment::default()
            },
            ..Config::default()
        }
    }

    /// Whether the path of each file that a device is made of leads to it.
    fn files_are_seen(&self, lower: usize) -> bool {
        let lower = &self.file_systems[lower];
        lower.files.iter().all(|file| {
            let file = self.root.join(file.strip_prefix("/").unwrap());
            fs::metadata(file).is_ok_and(|file| file.dev() == lower.real)
        })
    }

    fn expect_planned(&self, plan: &Plan, elsewhere: &HashSet<DeviceNumber>) {
        let all: Vec<_> = plan.all().map(|it| it.device).collect();
        let once: HashSet<_> = all.iter().copied().collect();
        assert_eq!(all.len(), once.len(), "one is planned twice: {plan:?}");
        let places: HashMap<_, _> = plan.freeze.iter().map(|it| it.device).zip(0..).collect();
        let own = self.file_systems.iter();
        let freezable = own.clone().filter(|it| {
            // Mounted over twice, the kernel may have let go of nothing.
            !it.read_only && matches!(it.kind, "ext4" | "xfs" | "btrfs")
        });
        for made in freezable {
            assert!(
                places.contains_key(&made.number),
                "{:?} is not frozen",
                made.place
            );
        }
        for device in elsewhere {
            assert!(
                places.contains_key(device),
                "{device} of another namespace is not frozen"
            );
        }
        // Why one comes early that lies on nothing that is known.
        let unknown = |made: &Made| {
            let device = &self.devices[made.device];
            let chain = device.on.iter();
            device.unknown
                || chain.clone().any(|it| {
                    let lower = &self.file_systems[*it];
                    !self.files_are_seen(*it)
                        || lower.kind != "tmpfs" && self.devices[lower.device].unknown
                        || !places.contains_key(&lower.number) && lower.kind != "tmpfs"
                })
        };
        for upper in own {
            let Some(first) = places.get(&upper.number) else {
                continue;
            };
            for lower in &self.devices[upper.device].on {
                let lower = &self.file_systems[*lower];
                let Some(then) = places.get(&lower.number) else {
                    continue;
                };
                assert!(
                    first < then || unknown(upper) && unknown(lower),
                    "{:?} comes after {:?}, which it lies on: {:#?}",
                    upper.place,
                    lower.place,
                    plan.freeze
                );
            }
        }
    }

    /// Writes to some of the files what no kernel would, or takes them away.
    fn spoil(&mut self) {
        let mut files = Vec::new();
        walk(&self.root.join("proc"), &mut files);
        walk(&self.root.join("sys"), &mut files);
        for _ in 0..1 + self.random.index(8) {
            let file = self.random.one(&files).clone();
            let mut text = fs::read(&file).unwrap_or_default();
            text.truncate(1 << 16);
            match self.random.index(9) {
                0 => drop(fs::remove_file(&file)),
                1 => {
                    let _ = fs::remove_file(&file);
                    let _ = fs::create_dir(&file);
                }
                2 => {
                    // A link that leads to itself, or around.
                    let _ = fs::remove_file(&file);
                    let _ = symlink(&file, &file);
                }
                3 => drop(fs::write(&file, text.repeat(1 + self.random.index(300)))),
                4 => drop(fs::write(&file, vec![b'a'; self.random.index(4 << 20)])),
                5 => drop(fs::write(&file, &text[..self.random.index(text.len())])),
                6 => {
                    // A device that is made of one of those above it.
                    let devices = &self.devices;
                    let (one, other) = (
                        self.random.index(devices.len()),
                        self.random.index(devices.len()),
                    );
                    let (one, other) = (&devices[one].directory, &devices[other].directory);
                    let _ = symlink(other, one.join("slaves/around"));
                    let _ = symlink(one, other.join("slaves/around"));
                }
                _ => {
                    for _ in 0..1 + self.random.index(6) {
                        if !text.is_empty() {
                            let at = self.random.index(text.len());
                            text[at] = *self.random.one(b" \n\\/:0-,\xff\x00rw9");
                        }
                    }
                    let _ = fs::write(&file, text);
                }
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        unmount(&self.root, UnmountFlags::DETACH).unwrap();
    }
}

/// All files and links below a directory.
fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Aborts the test if a plan takes too long. The caller sends the name of each plan that
/// begins.
fn watchdog() -> Sender<String> {
    let (sender, receiver) = mpsc::channel::<String>();
    thread::spawn(move || {
        let mut machine = String::new();
        loop {
            match receiver.recv_timeout(LIMIT) {
                Ok(next) => machine = next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("no plan in {LIMIT:?}: {machine}");
                    process::abort();
                }
            }
        }
    });
    sender
}

/// A configuration with every kind of pattern.
fn with_patterns(config: Config) -> Config {
    let patterns = |points: &[&str]| Patterns {
        mount_points: points.iter().map(|it| (*it).to_owned()).collect(),
        types: vec!["xfs".to_owned(), "b*".to_owned()],
        devices: vec!["/dev/dev*".to_owned(), "/dev/disk/by-id/*".to_owned()],
    };
    Config {
        include: patterns(&["/m/*", "/m/link"]),
        exclude: patterns(&["*deep*"]),
        ..config
    }
}

#[test]
fn made_up_machines_are_planned() {
    let Some(argument) = apart::told() else {
        let seed = random::seed().unwrap();
        println!("CHAOS_SEED={seed}");
        let root = tempfile::tempdir().unwrap();
        let argument = format!("{seed} {}", root.path().display());
        return apart::run(
            "machines::made_up_machines_are_planned",
            &["--mount"],
            argument,
        );
    };
    let (seed, root) = argument.to_str().unwrap().split_once(' ').unwrap();
    let (seed, root) = (seed.parse().unwrap(), Path::new(root));
    let time = random::soak_time(10).unwrap();
    let (began, watchdog) = (Instant::now(), watchdog());
    let mut made = 0;
    while began.elapsed() < time {
        let name = format!("machine {made} of CHAOS_SEED={seed}");
        let outcome = std::panic::catch_unwind(|| {
            let mut machine = Machine::new(root, Random::of_round(seed, made));
            machine.describe();
            let elsewhere = machine.elsewhere();
            watchdog.send(name.clone()).unwrap();
            let plan = plan::make(&machine.config()).unwrap();
            machine.expect_planned(&plan, &elsewhere);
            machine.spoil();
            for config in [machine.config(), with_patterns(machine.config())] {
                match plan::make(&config) {
                    Ok(plan) => {
                        let all: Vec<_> = plan.all().map(|it| it.device).collect();
                        let once: HashSet<_> = all.iter().collect();
                        assert_eq!(all.len(), once.len(), "one is planned twice");
                    }
                    Err(PlanError { source, .. }) => {
                        assert_ne!(source.kind(), io::ErrorKind::Other, "{source}");
                    }
                }
            }
        });
        assert!(outcome.is_ok(), "{name}");
        made += 1;
    }
    println!("{made} machines");
}
