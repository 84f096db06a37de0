//! The guest's `/dev`: a FUSE file system whose device files are ours.
//!
//! Device files are opened for direct I/O, so that each `read` and `write`
//! comes here as it was called, and, where they can be mapped, with a backing
//! file (FUSE pass-through): a mapping is then one of the backing file itself,
//! shared with the host without this file system in between. No page of the
//! guest's is ever filled or written back by us, so that one server thread is
//! enough, and it never waits.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fuser::{
    BackingId, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyWrite, Request, WriteFlags,
};
use nix::libc;

use super::devtree::{DevTree, Entry};
use super::lock;
use super::node::Node;

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
        let dots = [(".", ino.0), ("..", INodeNo::ROOT.0)]
            .map(|(name, ino)| (name.into(), ino, FileType::Directory));
        let names = dots.into_iter().chain(self.tree.list(ino));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (position, (name, ino, kind)) in (1..).zip(names).skip(skip) {
            if reply.add(INodeNo(ino), position, kind, name) {
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
        match self.node(fh) {
            Some(node) => node.write(data, reply),
            None => reply.error(Errno::EBADF),
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
