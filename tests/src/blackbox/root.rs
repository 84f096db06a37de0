//! A root of the guest's own, with nothing of the machine mounted in it, for
//! programs that freeze what they find: an ext4 file system in a loop file, on
//! a tmpfs that is the guest's `/run`.
//!
//! The first process in there thaws everything and ends when the simulator
//! does, however it ends: every other process ends with it, and then the
//! mounts, and with those their loop devices.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, pivot_root};

use super::namespace::Namespace;
use super::programs::{PLACE, find, install};
use crate::volumes;

/// Bytes of the root's file system.
const SIZE: u64 = 512 << 20;

/// Bytes that the guest's `/run`, where its loop files are, may have at most.
const RUN: &str = "size=4g,mode=755";

/// Its directories, beside those of programs and libraries.
const DIRECTORIES: [&str; 10] = [
    "dev",
    "etc/hyperv-agent",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var/lib/hyperv",
    "var/lib/hyperv-agent",
];

const FILES: [(&str, &str); 3] = [
    ("etc/hostname", "guest\n"),
    ("etc/hosts", "127.0.0.1 localhost guest\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
];

/// Programs that are there: `setpriv` and `sh` for the simulator itself, the
/// others for what scenarios do.
const PROGRAMS: [&str; 33] = [
    "btrfs",
    "cat",
    "chmod",
    "chown",
    "cp",
    "dd",
    "e2fsck",
    "fsfreeze",
    "grep",
    "kill",
    "ln",
    "losetup",
    "ls",
    "mkdir",
    "mkfs.btrfs",
    "mkfs.ext4",
    "mkfs.xfs",
    "mknod",
    "mount",
    "mv",
    "rm",
    "rmdir",
    "sed",
    "setpriv",
    "sh",
    "sleep",
    "sync",
    "truncate",
    "umount",
    "unshare",
    "wc",
    "xfs_io",
    "xfs_repair",
];

/// Debian's packages of those that a small system lacks.
const PACKAGES: &str = "btrfs-progs, e2fsprogs, mount, procps, util-linux and xfsprogs";

/// Its first process. What it thaws at the end is thawed from below: what was
/// mounted first carries the rest. It does not look at `/dev`: that is the
/// simulator's, which may not answer any more.
const INIT: &str = r#"
mount -t proc proc /proc && echo ready && cat
seen=' '
while read -r _ _ device _ point _; do
    case $point in /dev) continue ;; esac
    case $seen in *" $device "*) continue ;; esac
    seen="$seen$device "
    fsfreeze --unfreeze "$point"
done </proc/self/mountinfo 2>/run/thawed
"#;

/// How long the first process may take to be there, and to be gone.
const INIT_TIME: Duration = Duration::from_secs(20);

/// A root of the guest's own.
pub(super) struct Root {
    /// Keeps the view.
    _root: OwnedFd,
    /// Its files, as this process sees them.
    view: PathBuf,
    /// `None` after it was asked to end.
    init: Option<Child>,
}

/// Whether programs are missing on this machine, in words.
pub(super) fn missing() -> Option<String> {
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|program| find(program).is_err())
        .collect();
    (!missing.is_empty()).then(|| format!("{missing:?} are missing: install {PACKAGES}"))
}

/// Makes the root in `directory`, an empty one, with a copy of each of
/// `programs`, and enters it; `furnish` mounts what the guest is to have below
/// `/dev` and `/sys`. Runs on the thread of the guest's mounts.
fn enter<T>(
    directory: &Path,
    programs: &[PathBuf],
    furnish: impl FnOnce() -> Result<T>,
) -> Result<(OwnedFd, T)> {
    let (run, root) = (directory.join("run"), directory.join("root"));
    for made in [&run, &root] {
        fs::create_dir(made).with_context(|| made.display().to_string())?;
    }
    let none = MsFlags::empty();
    mount(Some("run"), &run, Some("tmpfs"), none, Some(RUN)).context("the guest's /run")?;
    let image = run.join("root.img");
    File::create(&image)
        .and_then(|file| file.set_len(SIZE))
        .with_context(|| image.display().to_string())?;
    let image = image.to_string_lossy().into_owned();
    let place = root.to_string_lossy().into_owned();
    volumes::run(&["mkfs.ext4", "-q", "-F", &image])?;
    // It lets the loop device go by itself, whatever happens from here on.
    volumes::run(&["mount", "-t", "ext4", "-o", "loop", &image, &place])?;
    for made in DIRECTORIES {
        let made = root.join(made);
        fs::create_dir_all(&made).with_context(|| made.display().to_string())?;
    }
    for (file, content) in FILES {
        fs::write(root.join(file), content).context(file)?;
    }
    for program in programs {
        install(program, &root)?;
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/bin"), ("usr/sbin", "bin")] {
        symlink(target, root.join(link)).context(link)?;
    }
    // A sysfs shows the network namespace in which it was mounted.
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    mount(Some("sys"), "/sys", Some("sysfs"), none, None::<&str>).context("the guest's /sys")?;
    let prepared = furnish()?;
    for (from, to) in [
        ("/sys", "sys"),
        ("/dev", "dev"),
        (&*run.to_string_lossy(), "run"),
    ] {
        let to = root.join(to);
        mount(
            Some(from),
            &to,
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .with_context(|| format!("moving {from} to {}", to.display()))?;
    }
    chdir(&root).context("entering the guest's root")?;
    pivot_root(".", ".").context("making the guest's root that")?;
    umount2(".", MntFlags::MNT_DETACH).context("letting go of the machine's root")?;
    chdir("/")?;
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).context("the root")?;
    Ok((root, prepared))
}

impl Root {
    /// Lets the guest have a private root, as [`enter`] makes it.
    pub(super) fn new<T: Send + 'static>(
        namespace: &Namespace,
        directory: &Path,
        program: &Path,
        furnish: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<(Self, T)> {
        let mut programs = vec![program.to_owned()];
        for name in PROGRAMS {
            programs.push(find(name)?);
        }
        let directory = directory.to_owned();
        let (root, prepared) = namespace.run(move || enter(&directory, &programs, furnish))??;
        let view = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        // From here on that thread can start no other.
        let init = namespace.run(|| {
            unshare(CloneFlags::CLONE_NEWPID).context("a PID namespace")?;
            Command::new("/bin/sh")
                .args(["-c", INIT])
                .env_clear()
                .env("PATH", PLACE)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("starting the guest's first process")
        })??;
        let mut root = Self {
            _root: root,
            view,
            init: Some(init),
        };
        root.wait_for_init()?;
        Ok((root, prepared))
    }

    fn wait_for_init(&mut self) -> Result<()> {
        let output = self.init.as_mut().and_then(|init| init.stdout.take());
        let output = output.context("the guest's first process has no output")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(output).read_line(&mut line);
            let _ = sender.send(line);
        });
        match receiver.recv_timeout(INIT_TIME).as_deref() {
            Ok("ready\n") => Ok(()),
            other => bail!("the guest's first process does not start: {other:?}"),
        }
    }

    /// Its files, as this process sees them.
    pub(super) fn view(&self) -> &Path {
        &self.view
    }

    /// Thaws all of its file systems, ends all of its processes, and waits for
    /// that.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some(mut init) = self.init.take() else {
            return Ok(());
        };
        drop(init.stdin.take());
        let (tell, ended) = mpsc::channel();
        thread::spawn(move || tell.send(init.wait()));
        match ended.recv_timeout(INIT_TIME) {
            Ok(_) => Ok(()),
            Err(_) => bail!("the guest's processes do not end"),
        }
    }
}

/// Starts a command of the guest's, whose input and output are the simulator's:
/// it can tell by its input that the simulator is gone.
pub(super) fn start(namespace: &Namespace, words: &[&str]) -> Result<Child> {
    let (program, arguments) = words.split_first().context("the command is empty")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", PLACE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = namespace.run(move || command.spawn())?;
    child.with_context(|| (*program).to_owned())
}

/// Runs a command of the guest's, and returns what it prints.
pub(super) fn run(namespace: &Namespace, words: &[&str]) -> Result<String> {
    volumes::said(words, start(namespace, words)?)
}
