//! Disks that take their time: files of a FUSE file system in the guest, in memory, for loop
//! devices. Each write and each flush of one is answered after a while; a disk works on many
//! at once.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use hyperv_sim::blackbox::BlackBox;
use hyperv_sim::fuse::{TTL, attributes};
use hyperv_sim::volumes::Volumes;
use hyperv_sim::wait::until;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Where the files are in the guest.
pub(super) const PLACE: &str = "/run/disks";

/// How long it may take until no loop device has a file any more.
const TIME: Duration = Duration::from_secs(20);

/// The file system, mounted at [`PLACE`].
pub(super) struct SlowDisks {
    session: BackgroundSession,
    /// Milliseconds that a write takes.
    delay: Arc<AtomicU64>,
}

/// Its files have the numbers from 2.
struct Disks {
    files: Vec<File>,
    bytes: u64,
    delay: Arc<AtomicU64>,
}

impl SlowDisks {
    /// Makes so many, of so many bytes, which are fast for now.
    pub(super) fn new(machine: &BlackBox, count: u32, bytes: u64) -> Result<Self> {
        let made = (0..count).map(|_| {
            let file = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC)?);
            file.set_len(bytes)?;
            Ok(file)
        });
        let delay = Arc::default();
        let disks = Disks {
            files: made.collect::<io::Result<_>>().context("files in memory")?,
            bytes,
            delay: Arc::clone(&delay),
        };
        let connection = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let connection = connection.context("/dev/fuse")?;
        machine.mount_fuse(PLACE, connection.as_fd())?;
        let config = Config::default();
        let session = Session::from_fd(disks, connection.into(), SessionACL::All, config)
            .and_then(Session::spawn)
            .context("serving disks")?;
        Ok(Self { session, delay })
    }

    /// Lets each write take so long from now on.
    pub(super) fn set_delay(&self, milliseconds: u64) {
        self.delay.store(milliseconds, Ordering::Relaxed);
    }

    /// Unmounts it once no loop device has a file any more.
    pub(super) fn clear(self, volumes: &dyn Volumes) -> Result<()> {
        until(TIME, "no disk to be in use", || {
            Ok(volumes.run(&["umount", PLACE]).ok())
        })?;
        self.session.join().context("serving disks")
    }
}

impl Disks {
    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let is_root = ino == INodeNo::ROOT;
        if !is_root {
            self.file(ino)?;
        }
        Some(match is_root {
            true => attributes(ino, FileType::Directory, 0o755, 0),
            false => attributes(ino, FileType::RegularFile, 0o755, self.bytes),
        })
    }

    fn file(&self, ino: INodeNo) -> Option<&File> {
        self.files.get(usize::try_from(ino.0.checked_sub(2)?).ok()?)
    }

    /// Answers when the disk has done it; others may come meanwhile.
    fn answer(&self, answer: impl FnOnce() + Send + 'static) {
        match self.delay.load(Ordering::Relaxed) {
            0 => answer(),
            milliseconds => {
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(milliseconds));
                    answer();
                });
            }
        }
    }
}

impl Filesystem for Disks {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Not one disk is to wait for another.
        let set = config.set_max_background(u16::MAX);
        let set = set.and_then(|_| config.set_congestion_threshold(u16::MAX));
        set.map_err(|_| io::Error::other("too many requests at once"))
            .map(drop)
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        let number = number.filter(|_| parent == INodeNo::ROOT);
        match number.and_then(|number| self.attributes(INodeNo(number + 2))) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    // A disk keeps its size.
    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.getattr(req, ino, fh, reply);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        match self.file(ino).map(|file| file.read_at(&mut data, offset)) {
            Some(Ok(read)) => reply.data(data.get(..read).unwrap_or_default()),
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.file(ino).map(|file| file.write_all_at(data, offset));
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.answer(move || match written {
            Some(Ok(())) => reply.written(len),
            _ => reply.error(Errno::EIO),
        });
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(move || reply.ok());
    }
}
