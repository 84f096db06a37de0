//! A root of a test's own: a process in a private mount namespace, whose `/` is a
//! tmpfs and in which none of the machine's own file systems is mounted, so that
//! none of them can be frozen whatever goes wrong.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyperv_services::sys;
use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process;

use crate::apart;

/// How long a test may take before its file systems are thawed and it fails:
/// what waits for a frozen file system cannot even be killed.
const LIMIT: Duration = Duration::from_secs(120);

/// File systems of these types are the kernel's own, and there is one of each.
const SHARED: [&str; 2] = ["proc", "sysfs"];

/// What is made before the root becomes the test's own: the machine's programs
/// can still be run. Paths are those that the test will see.
pub struct Stage {
    root: PathBuf,
}

/// A loop device.
pub struct Loop {
    pub device: String,
    _open: File,
}

/// The root of a test's own. What is mounted in it is thawed when this is
/// dropped, and when the test takes too long.
pub struct OwnRoot {
    end: Option<Sender<()>>,
    watchdog: Option<JoinHandle<()>>,
}

/// Runs a test in a private root. The test of that name calls this, and is run once more for
/// it, in a separate process.
#[track_caller]
pub fn in_own_root(test: &str, set_up: impl FnOnce(&Stage), run: impl FnOnce(&OwnRoot)) {
    let Some(root) = apart::told() else {
        let root = tempfile::tempdir().unwrap();
        return apart::run(test, &["--mount"], root.path());
    };
    let machine = machine();
    if !Path::new("/dev/loop-control").exists() {
        apart::skip("there is no /dev/loop-control: load the module loop");
    }
    let stage = Stage::new(root.into());
    set_up(&stage);
    stage.enter();
    let root = OwnRoot::new(&machine);
    run(&root);
}

impl Stage {
    fn new(root: PathBuf) -> Self {
        let parent = process::getppid().unwrap().as_raw_nonzero();
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).unwrap();
        assert_ne!(
            namespace("self"),
            namespace(&parent.to_string()),
            "this is not a private mount namespace"
        );
        mount("test", &root, "tmpfs", MountFlags::empty(), None).unwrap();
        let stage = Self { root };
        for directory in ["dev", "images", "proc", "sys", "tmp", "run"] {
            fs::create_dir(stage.path(directory)).unwrap();
        }
        stage
    }

    /// Where a path of the test's root is for now.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Makes a file of this size.
    #[track_caller]
    pub fn file(&self, file: &str, size: u64) {
        let file = File::create_new(self.path(file)).unwrap();
        file.set_len(size).unwrap();
    }

    /// Makes a file with a file system in it.
    #[track_caller]
    pub fn image(&self, file: &str, kind: &str) {
        let (size, options): (u64, &[&str]) = match kind {
            "ext4" => (16 << 20, &["-q"]),
            // Otherwise it takes 300 MiB at least.
            "xfs" => (32 << 20, &["-q", "--unsupported"]),
            "btrfs" => (128 << 20, &["-q"]),
            other => panic!("how is an image of {other} made?"),
        };
        self.file(file, size);
        self.run(&format!("mkfs.{kind}"), &[options, &[file]].concat());
    }

    /// Mounts a file with a file system in it, at a directory that is made.
    #[track_caller]
    pub fn mount(&self, file: &str, point: &str) {
        self.mount_with(file, point, "rw");
    }

    /// The same, with options of mount(8).
    #[track_caller]
    pub fn mount_with(&self, file: &str, point: &str, options: &str) {
        fs::create_dir_all(self.path(point)).unwrap();
        let options = format!("loop,{options}");
        self.run("mount", &["-n", "-o", &options, file, point]);
    }

    /// Makes a loop device of a file. It goes when it is neither open nor mounted.
    #[track_caller]
    pub fn attach(&self, file: &str) -> Loop {
        let device = self.run("losetup", &["--find", "--show", file]);
        let device = device.trim_end().to_owned();
        let open = File::open(&device).unwrap();
        // As it is open, this does not take effect before it is closed.
        self.run("losetup", &["--detach", &device]);
        Loop {
            device,
            _open: open,
        }
    }

    /// Runs a program of the machine, and returns what it printed. Words that are
    /// absolute paths are of the test's root, but for those of devices.
    #[track_caller]
    pub fn run(&self, program: &str, words: &[&str]) -> String {
        let word = |word: &&str| match word.starts_with('/') && !word.starts_with("/dev/") {
            true => self.path(word),
            false => word.into(),
        };
        let mut command = apart::program(program);
        let output = command.args(words.iter().map(word)).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("unknown filesystem type") {
            apart::skip(&format!("the kernel lacks a file system: {errors}"));
        }
        assert!(output.status.success(), "{program}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Copies programs of the machine, with the libraries that they need.
    #[track_caller]
    pub fn install(&self, programs: &[&Path]) {
        for program in programs {
            self.copy(program);
            let output = apart::program("ldd").arg(program).output().unwrap();
            let needed = String::from_utf8(output.stdout).unwrap();
            let needed = needed
                .split_whitespace()
                .filter(|word| word.starts_with('/'));
            for library in needed {
                self.copy(Path::new(library));
            }
        }
    }

    fn copy(&self, file: &Path) {
        let copy = self.path(file);
        if !copy.exists() {
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(file, copy).unwrap();
        }
    }

    /// Makes this the root, and lets go of the machine's.
    fn enter(&self) {
        let none = MountFlags::empty();
        mount("proc", self.path("proc"), "proc", none, None).unwrap();
        mount("sysfs", self.path("sys"), "sysfs", none, None).unwrap();
        self.make_devices();
        let old = self.path("old");
        fs::create_dir(&old).unwrap();
        process::pivot_root(&self.root, &old).unwrap();
        process::chdir("/").unwrap();
        unmount("/old", UnmountFlags::DETACH).unwrap();
        fs::remove_dir("/old").unwrap();
    }

    /// The devices that a test needs: the loop devices, and what every program
    /// takes for granted.
    fn make_devices(&self) {
        let character = [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("urandom", 1, 9),
            ("loop-control", 10, 237),
        ];
        for (name, major, minor) in character {
            self.make_device(name, FileType::CharacterDevice, makedev(major, minor));
        }
        for entry in fs::read_dir("/sys/class/block").unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("loop") {
                let number = fs::read_to_string(entry.path().join("dev")).unwrap();
                let (major, minor) = number.trim_end().split_once(':').unwrap();
                let number = makedev(major.parse().unwrap(), minor.parse().unwrap());
                self.make_device(&name, FileType::BlockDevice, number);
            }
        }
    }

    fn make_device(&self, name: &str, kind: FileType, number: u64) {
        let path = self.path("dev").join(name);
        mknodat(rustix::fs::CWD, path, kind, Mode::RWXU, number).unwrap();
    }
}

impl OwnRoot {
    fn new(machine: &HashSet<String>) -> Self {
        for (device, kind, point) in mounts("self") {
            assert!(
                SHARED.contains(&kind.as_str()) || !machine.contains(&device),
                "{point} ({kind}, {device}) is the machine's own"
            );
        }
        for entry in fs::read_dir("/proc/self/fd").unwrap() {
            // The descriptor of the directory itself is closed by now.
            if let Ok(stat) = rustix::fs::stat(entry.unwrap().path()) {
                let kind = FileType::from_raw_mode(stat.st_mode);
                let device = stat.st_dev;
                let device = format!(
                    "{}:{}",
                    rustix::fs::major(device),
                    rustix::fs::minor(device)
                );
                assert!(
                    !matches!(kind, FileType::Directory | FileType::RegularFile)
                        || !machine.contains(&device),
                    "a file of the machine's own is open"
                );
            }
        }
        let (end, ended) = mpsc::channel();
        let watchdog = thread::spawn(move || {
            let late = ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            thaw();
            if late {
                eprintln!("the test takes more than {LIMIT:?}");
                std::process::abort();
            }
        });
        Self {
            end: Some(end),
            watchdog: Some(watchdog),
        }
    }
}

impl Drop for OwnRoot {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.watchdog.take().unwrap().join();
    }
}

/// Thaws whatever may be frozen: what is mounted here, the first first, as what
/// lies on another was mounted after it.
fn thaw() {
    for (_, kind, point) in mounts("self") {
        // Most are not frozen.
        if ["ext4", "xfs", "btrfs"].contains(&kind.as_str()) {
            // A FIFO can be a mount point too.
            if let Ok(fd) = rustix::fs::open(point, OFlags::NONBLOCK, Mode::empty()) {
                let _ = sys::thaw(fd);
            }
        }
    }
}

/// The numbers of the file systems that the machine has mounted, for whoever
/// started this and for everybody.
fn machine() -> HashSet<String> {
    let parent = process::getppid().unwrap().as_raw_nonzero().to_string();
    let mounts = ["1", &parent].map(mounts);
    assert!(mounts.iter().all(|mounts| !mounts.is_empty()));
    let all = mounts.into_iter().flatten();
    all.map(|(device, _, _)| device).collect()
}

/// Number, type and mount point of what a process has mounted. This is not what
/// is tested: it must be right where that is wrong.
fn mounts(process: &str) -> Vec<(String, String, String)> {
    let list = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    list.lines()
        .map(|line| {
            let (mount, file_system) = line.split_once(" - ").unwrap();
            let mount: Vec<_> = mount.split(' ').collect();
            let kind = file_system.split(' ').next().unwrap();
            (mount[2].to_owned(), kind.to_owned(), mount[4].to_owned())
        })
        .collect()
}
