//! The guest's `/dev`: a FUSE file system whose device files are ours.
//!
//! Device files are opened for direct I/O, so that each `read` and `write`
//! comes here as it was called, and, where they can be mapped, with a backing
//! file (FUSE pass-through): a mapping is then one of the backing file itself,
//! shared with the host without this file system in between. No page of the
//! guest's is ever filled or written back by us, so that one server thread is
//! enough, and it never waits.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use fuser::{
    BackingId, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyWrite, Request,
    WriteFlags,
};
use nix::libc;

use super::lock;
use super::node::Node;

/// What a name in `/dev` stands for.
#[derive(Clone)]
pub(super) enum Entry {
    Directory,
    Link(PathBuf),
    /// A device of the machine: its number and permissions.
    Machine {
        rdev: u64,
        perm: u16,
    },
    /// A device of ours.
    Device(Arc<dyn Node>),
}

/// The names in `/dev`, which the simulated host changes while the guest looks.
pub(super) struct DevTree(Mutex<Tree>);

struct Tree {
    names: BTreeMap<(u64, OsString), u64>,
    /// By inode number. An entry stays when its name goes: it may still be open.
    entries: Vec<Entry>,
}

impl DevTree {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Tree {
            names: BTreeMap::new(),
            entries: vec![Entry::Directory],
        }))
    }

    /// Adds `path`, relative to `/dev`, and its directories.
    pub(super) fn add(&self, path: &str, entry: Entry) -> Result<()> {
        let mut tree = lock(&self.0);
        let mut parent = INodeNo::ROOT.0;
        let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
        for directory in directories.split('/').filter(|part| !part.is_empty()) {
            parent = match tree.names.get(&(parent, directory.into())) {
                Some(ino) => *ino,
                None => tree.insert(parent, directory, Entry::Directory),
            };
        }
        if tree.names.contains_key(&(parent, name.into())) {
            bail!("/dev/{path} is there already");
        }
        tree.insert(parent, name, entry);
        Ok(())
    }

    /// Takes the name `path` away.
    pub(super) fn remove(&self, path: &str) {
        let mut tree = lock(&self.0);
        let mut parent = INodeNo::ROOT.0;
        let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
        for directory in directories.split('/').filter(|part| !part.is_empty()) {
            match tree.names.get(&(parent, directory.into())) {
                Some(ino) => parent = *ino,
                None => return,
            }
        }
        tree.names.remove(&(parent, name.into()));
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Option<FileAttr> {
        let tree = lock(&self.0);
        let ino = *tree.names.get(&(parent.0, name.to_owned()))?;
        Some(attributes(ino, tree.entry(ino)?))
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        Some(attributes(ino.0, lock(&self.0).entry(ino.0)?))
    }

    fn entry(&self, ino: INodeNo) -> Option<Entry> {
        lock(&self.0).entry(ino.0).cloned()
    }
}

impl Tree {
    fn insert(&mut self, parent: u64, name: &str, entry: Entry) -> u64 {
        self.entries.push(entry);
        let ino = self.entries.len() as u64;
        self.names.insert((parent, name.into()), ino);
        ino
    }

    fn entry(&self, ino: u64) -> Option<&Entry> {
        let index = usize::try_from(ino.checked_sub(INodeNo::ROOT.0)?).ok()?;
        self.entries.get(index)
    }
}

fn attributes(ino: u64, entry: &Entry) -> FileAttr {
    let (kind, perm, rdev) = match entry {
        Entry::Directory => (FileType::Directory, 0o755, 0),
        Entry::Link(_) => (FileType::Symlink, 0o777, 0),
        Entry::Machine { rdev, perm } => (FileType::CharDevice, *perm, *rdev),
        Entry::Device(_) => (FileType::RegularFile, 0o600, 0),
    };
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        // The machine's own devices have small numbers: nothing is lost.
        rdev: u32::try_from(rdev).unwrap_or_default(),
        blksize: 4096,
        flags: 0,
    }
}

/// Nothing is kept by the kernel: a device that goes is gone at once.
const TTL: Duration = Duration::ZERO;

/// The file system that serves a [`DevTree`].
pub(super) struct DevFs {
    tree: Arc<DevTree>,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    last: u64,
    files: HashMap<u64, OpenFile>,
}

struct OpenFile {
    node: Arc<dyn Node>,
    /// Kept until the file is closed, as the kernel wants.
    _backing: Option<Arc<BackingId>>,
}

impl DevFs {
    pub(super) fn new(tree: Arc<DevTree>) -> Self {
        Self {
            tree,
            open: Mutex::default(),
        }
    }

    fn node(&self, handle: FileHandle) -> Option<Arc<dyn Node>> {
        let open = lock(&self.open);
        open.files.get(&handle.0).map(|file| Arc::clone(&file.node))
    }
}

impl Filesystem for DevFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let unsupported =
            || io::Error::other("the kernel has no FUSE pass-through: it needs Linux 6.9 or later");
        config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .map_err(|_| unsupported())?;
        config.set_max_stack_depth(1).map_err(|_| unsupported())?;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.find(parent, name) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.attributes(ino) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    // Truncation and the like mean nothing to a device, and succeed.
    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.getattr(req, ino, fh, reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.tree.entry(ino) {
            Some(Entry::Link(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = lock(&self.tree.0);
        let dots = [(".", ino.0), ("..", INodeNo::ROOT.0)];
        let dots = dots.map(|(name, ino)| (OsStr::new(name), ino));
        let names = tree
            .names
            .iter()
            .filter(|((parent, _), _)| *parent == ino.0)
            .map(|((_, name), ino)| (name.as_os_str(), *ino));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (position, (name, ino)) in (1..).zip(dots.into_iter().chain(names)).skip(skip) {
            let Some(entry) = tree.entry(ino) else {
                continue;
            };
            if reply.add(INodeNo(ino), position, attributes(ino, entry).kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Some(Entry::Device(node)) = self.tree.entry(ino) else {
            return reply.error(Errno::ENXIO);
        };
        let mut open = lock(&self.open);
        let handle = open.last + 1;
        let backing = match Arc::clone(&node).open(handle, &reply) {
            Ok(backing) => backing,
            Err(errno) => return reply.error(errno),
        };
        open.last = handle;
        open.files.insert(
            handle,
            OpenFile {
                node,
                _backing: backing.clone(),
            },
        );
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        match backing {
            Some(backing) => reply.opened_passthrough(FileHandle(handle), flags, &backing),
            None => reply.opened(FileHandle(handle), flags),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let file = lock(&self.open).files.remove(&fh.0);
        if let Some(file) = file {
            file.node.release(fh.0);
        }
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.node(fh) {
            Some(node) => node.read(fh.0, size, flags.0 & libc::O_NONBLOCK != 0, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = match self.node(fh) {
            Some(node) => node.write(data),
            None => Err(Errno::EBADF),
        };
        match (written, u32::try_from(data.len())) {
            (Ok(()), Ok(len)) => reply.written(len),
            (Ok(()), Err(_)) => reply.error(Errno::EINVAL),
            (Err(errno), _) => reply.error(errno),
        }
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        match self.node(fh) {
            Some(node) => reply.poll(node.poll(fh.0, notifier)),
            None => reply.poll(PollEvents::POLLNVAL),
        }
    }
}

/// The entries that every guest's `/dev` has: the machine's plain devices.
pub(super) fn machine_entries(tree: &DevTree) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "fuse", "console", "ptmx",
    ] {
        // What the machine lacks, the guest lacks.
        let Ok(metadata) = std::fs::metadata(format!("/dev/{name}")) else {
            continue;
        };
        let perm = u16::try_from(metadata.mode() & 0o777).context("permissions of a device")?;
        let rdev = metadata.rdev();
        tree.add(name, Entry::Machine { rdev, perm })?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        tree.add(name, Entry::Link(target.into()))?;
    }
    Ok(())
}
