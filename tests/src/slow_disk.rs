//! A slow disk: ext4 on a loop device whose file is on a FUSE file system, which takes
//! its time for each write.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request, Session, SessionACL, WriteFlags,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::fuse::{TTL, attributes};

/// The only file.
const NAME: &str = "disk";
const INODE: INodeNo = INodeNo(2);

/// An ext4 file system on a slow disk. It is mounted for this process and what it starts.
pub struct SlowDisk {
    session: Option<BackgroundSession>,
    counts: Arc<Counts>,
    directory: TempDir,
}

/// What the disk does, shared with those who look at it.
struct Counts {
    /// Bytes that it writes in a second.
    rate: AtomicU64,
    /// Bytes that it has written.
    written: AtomicU64,
}

impl SlowDisk {
    /// Mounts one of so many bytes that writes so many a second.
    ///
    /// # Errors
    ///
    /// If this machine cannot have one: it needs root, FUSE, loop devices and mkfs.ext4.
    pub fn new(size: u64, rate: u64) -> Result<Self> {
        // All mounts end with this process, however it ends.
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("keeping mounts apart from the machine's")?;
        let directory = tempfile::tempdir().context("a directory for the disk")?;
        let content = tempfile::tempfile().context("a file for the disk")?;
        content.set_len(size).context("a file for the disk")?;
        let counts = Arc::new(Counts {
            rate: AtomicU64::new(rate),
            written: AtomicU64::new(0),
        });
        let mut disk = Self {
            session: None,
            counts: Arc::clone(&counts),
            directory,
        };
        let files = Files {
            content,
            size,
            counts,
        };
        disk.session = Some(serve(files, &disk.path("fuse")?)?);
        let image = disk.directory.path().join("fuse").join(NAME);
        let points = [&image, &disk.path("mounted")?].map(|it| it.to_string_lossy().into_owned());
        let [image, point] = &points;
        let lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
        run("mkfs.ext4", &["-q", "-F", "-E", lazy, image])?;
        run("mount", &["-o", "loop,noatime,noinit_itable", image, point])?;
        Ok(disk)
    }

    /// A directory of its own.
    fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Where it is mounted.
    pub fn mounted(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// Bytes that it has written so far.
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Changes how many bytes it writes in a second from now on.
    pub fn set_rate(&self, rate: u64) {
        self.counts.rate.store(rate, Ordering::Relaxed);
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        for name in ["mounted", "fuse"] {
            let _ = umount2(&self.directory.path().join(name), MntFlags::MNT_DETACH);
        }
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("starting {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", error.trim());
    Ok(())
}

fn serve(files: Files, point: &Path) -> Result<BackgroundSession> {
    let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let fuse = fuse.context("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        fuse.as_raw_fd()
    );
    let (flags, options) = (MsFlags::empty(), Some(options.as_str()));
    mount(Some("slow"), point, Some("fuse"), flags, options).context("mounting the disk's file")?;
    Session::from_fd(files, fuse.into(), SessionACL::All, Config::default())
        .and_then(Session::spawn)
        .context("serving the disk's file")
}

/// The file system with the disk's file.
struct Files {
    content: File,
    size: u64,
    counts: Arc<Counts>,
}

impl Files {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            INODE => (FileType::RegularFile, 0o600, self.size),
            _ => (FileType::Directory, 0o700, 0),
        };
        attributes(ino, kind, perm, size)
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&TTL, &self.attributes(INODE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; size as usize];
        match self.content.read_at(&mut data, offset) {
            Ok(len) => reply.data(data.get(..len).unwrap_or_default()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let begun = Instant::now();
        if let Err(error) = self.content.write_all_at(data, offset) {
            return reply.error(error.into());
        }
        let len = data.len() as u64;
        let rate = self.counts.rate.load(Ordering::Relaxed);
        let time = Duration::from_secs_f64(len as f64 / rate as f64);
        thread::sleep(time.saturating_sub(begun.elapsed()));
        self.counts.written.fetch_add(len, Ordering::Relaxed);
        match u32::try_from(len) {
            Ok(len) => reply.written(len),
            Err(_) => reply.error(Errno::EINVAL),
        }
    }

    // What it has written is on the disk.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use hyperv_needs::skip;
    use hyperv_vmbus::ic::Status;

    use super::*;
    use crate::fcopy::{CHUNK, Fcopy, FcopyHost, OVERWRITE, Operation, Start};
    use crate::host::Protocol as _;
    use crate::inprocess::InProcess;
    use crate::port::Machine as _;
    use crate::scenario::OPEN_TIME;

    const SIZE: u64 = 64 << 20;

    /// Long beside the time that a WRITE takes, and short beside the one in which the disk
    /// writes 8 MiB.
    const WAIT: Duration = Duration::from_secs(2);

    /// The host is told when the disk does not keep up, not at the end. It is not to blame
    /// for the time that this takes.
    #[test]
    fn a_copy_goes_at_the_pace_of_the_disk() {
        // With the programs that make and mount file systems.
        if let Some(why) = crate::blackbox::root_unavailable() {
            return skip(&why);
        }
        let disk = match SlowDisk::new(2 * SIZE, 1 << 30) {
            Ok(disk) => disk,
            Err(error) => return skip(&format!("no file system on a slow disk: {error:#}")),
        };
        let mut machine = InProcess::new().unwrap();
        machine.setup().config.fcopy.idle_limit = WAIT * 3 / 4;
        let device = machine.offer(Fcopy::SERVICE.uio(0, 64 << 10)).unwrap();
        machine.start().unwrap();
        let mut host = FcopyHost::connect(device.accept(OPEN_TIME).unwrap()).unwrap();
        let mounted = disk.mounted();
        let start = Start::new(mounted.to_str().unwrap(), "file", OVERWRITE, SIZE);
        host.request(&Operation::Start(start)).unwrap();
        disk.set_rate(1 << 20);
        let data = [0x5a; CHUNK];
        let mut sent = 0;
        let waits = loop {
            host.send(&Operation::write(sent, &data)).unwrap();
            sent += CHUNK as u64;
            if sent >= SIZE {
                break false;
            }
            if host.reply_within(WAIT).unwrap().is_none() {
                break true;
            }
        };
        disk.set_rate(1 << 30);
        host.reply().unwrap();
        let next = host.request(&Operation::write(sent, &data)).unwrap();
        host.request(&Operation::Cancel).unwrap();
        machine.stop().unwrap();
        assert!(waits && sent <= 17 << 20, "{sent} bytes were taken");
        assert_eq!(next, Status::OK);
    }
}
