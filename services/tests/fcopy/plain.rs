//! On a file system that has neither unnamed files, nor reservation, nor
//! attributes: one in memory, served to the kernel by this process.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use hyperv_needs::skip;
use hyperv_vmbus::ic::Status;

use crate::guest::{Encoding, Guest, OVERWRITE, data, in_own_mounts, names};

/// What it lacks besides.
#[derive(Clone, Copy)]
enum Kind {
    /// As FAT: no hard links, and modes that cannot be changed.
    Fat,
    /// As an old one: renaming knows no flags.
    Old,
}

struct Plain {
    kind: Kind,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    names: BTreeMap<OsString, u64>,
    files: HashMap<u64, (u32, Vec<u8>)>,
    /// What was done that a disk would notice.
    events: Vec<&'static str>,
    /// A name that somebody else takes when a mode is set.
    taken_meanwhile: Option<OsString>,
}

const ROOT: u64 = 1;
const NOT_CACHED: Duration = Duration::ZERO;

impl Inside {
    fn attributes(&self, number: u64) -> Option<FileAttr> {
        let (kind, mode, size) = match self.files.get(&number) {
            Some((mode, content)) => (FileType::RegularFile, *mode, content.len()),
            None if number == ROOT => (FileType::Directory, 0o755, 0),
            None => return None,
        };
        Some(FileAttr {
            ino: INodeNo(number),
            size: size as u64,
            blocks: size.div_ceil(512) as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: u16::try_from(mode & 0o7777).unwrap(),
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 512,
            flags: 0,
        })
    }

    fn insert(&mut self, name: &OsStr, mode: u32) -> u64 {
        let number = ROOT + 1 + self.files.len() as u64;
        self.files.insert(number, (mode, Vec::new()));
        self.names.insert(name.to_owned(), number);
        number
    }

    fn named(&self, name: &OsStr) -> Option<FileAttr> {
        self.attributes(*self.names.get(name)?)
    }
}

impl Plain {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }
}

impl Filesystem for Plain {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.inside().named(name) {
            Some(attributes) => reply.entry(&NOT_CACHED, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.inside().attributes(number.0) {
            Some(attributes) => reply.attr(&NOT_CACHED, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut inside = self.inside();
        if mode.is_some() {
            if let Some(name) = inside.taken_meanwhile.take() {
                inside.insert(&name, 0o640);
            }
        }
        let file = inside.files.get_mut(&number.0).unwrap();
        match (mode, self.kind) {
            (Some(_), Kind::Fat) => return reply.error(Errno::EPERM),
            (Some(mode), Kind::Old) => file.0 = mode,
            (None, _) => {}
        }
        if let Some(size) = size {
            file.1.resize(usize::try_from(size).unwrap(), 0);
        }
        reply.attr(&NOT_CACHED, &inside.attributes(number.0).unwrap());
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut inside = self.inside();
        let mode = match self.kind {
            Kind::Fat => 0o700,
            Kind::Old => mode,
        };
        let number = inside.insert(name, mode);
        let attributes = inside.attributes(number).unwrap();
        reply.created(
            &NOT_CACHED,
            &attributes,
            Generation(0),
            FileHandle(0),
            FopenFlags::empty(),
        );
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let inside = self.inside();
        let content = &inside.files[&number.0].1;
        let start = content.len().min(usize::try_from(offset).unwrap());
        let end = content.len().min(start + size as usize);
        reply.data(&content[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut inside = self.inside();
        let content = &mut inside.files.get_mut(&number.0).unwrap().1;
        let start = usize::try_from(offset).unwrap();
        content.resize(content.len().max(start + data.len()), 0);
        content[start..start + data.len()].copy_from_slice(data);
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn link(&self, _: &Request, number: INodeNo, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.kind {
            Kind::Fat => reply.error(Errno::EPERM),
            Kind::Old => {
                let mut inside = self.inside();
                inside.events.push("link");
                inside.names.insert(name.to_owned(), number.0);
                reply.entry(
                    &NOT_CACHED,
                    &inside.attributes(number.0).unwrap(),
                    Generation(0),
                );
            }
        }
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if matches!(self.kind, Kind::Old) && !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let mut inside = self.inside();
        inside.events.push("rename");
        let number = inside.names.remove(name).unwrap();
        inside.names.insert(new_name.to_owned(), number);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.inside().events.push("sync file");
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.inside().events.push("sync directory");
        reply.ok();
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.inside().names.remove(name);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (next, (name, number)) in (1..)
            .zip(&self.inside().names)
            .skip(usize::try_from(offset).unwrap())
        {
            if reply.add(INodeNo(*number), next, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// Runs `test` in a guest whose directory is such a file system.
#[track_caller]
fn on_plain(name: &str, test: fn(&mut Guest, Kind, &Mutex<Inside>)) {
    if !Path::new("/dev/fuse").exists() {
        return skip("serving a file system needs /dev/fuse");
    }
    if !in_own_mounts(name) {
        return;
    }
    for kind in [Kind::Fat, Kind::Old] {
        let mut guest = Guest::with(Encoding::Utf16, |_, _| {});
        let inside = Arc::default();
        let plain = Plain {
            kind,
            inside: Arc::clone(&inside),
        };
        let mounted =
            fuser::spawn_mount(plain, guest.directory.path(), &Config::default()).unwrap();
        test(&mut guest, kind, &inside);
        assert!(names(&guest.config.environment.state_dir).is_empty());
        drop(mounted);
    }
}

#[test]
fn new_files() {
    on_plain("plain::new_files", |guest, _, _| {
        assert_eq!(guest.start("file", 0, 10), Status::OK);
        let hidden = guest.names();
        assert_eq!(hidden.len(), 1, "{hidden:?}");
        assert!(hidden[0].starts_with(".hyperv-agent-") && hidden[0].ends_with(".part"));
        let data = data(50_000);
        guest.write_all(&data);
        assert_eq!(guest.complete(), Status::OK, "{}", guest.log.text());
        assert_eq!(guest.names(), ["file"]);
        assert_eq!(fs::read(guest.path("file")).unwrap(), data);
        assert_eq!(guest.start("file", 0, 10), Status::ALREADY_EXISTS);
    });
}

#[test]
fn overwriting() {
    on_plain("plain::overwriting", |guest, _, _| {
        fs::write(guest.path("file"), "a long old text").unwrap();
        guest.copy("file", OVERWRITE, b"new");
        guest.copy("other", OVERWRITE, b"new");
        assert_eq!(guest.names(), ["file", "other"]);
        assert_eq!(fs::read(guest.path("file")).unwrap(), b"new");
    });
}

#[test]
fn what_appears_meanwhile() {
    on_plain("plain::what_appears_meanwhile", |guest, _, _| {
        assert_eq!(guest.start("file", 0, 0), Status::OK);
        fs::write(guest.path("file"), "old").unwrap();
        // The kernel, not the file system, sees that it is there.
        assert_eq!(
            guest.complete(),
            Status::ALREADY_EXISTS,
            "{}",
            guest.log.text()
        );
        assert_eq!(guest.names(), ["file"]);
        assert_eq!(fs::read(guest.path("file")).unwrap(), b"old");
    });
}

#[test]
fn unfinished() {
    on_plain("plain::unfinished", |guest, _, _| {
        assert_eq!(guest.start("file", 0, 10), Status::OK);
        assert_eq!(guest.names().len(), 1);
        assert_eq!(guest.cancel(), Status::OK);
        assert!(guest.names().is_empty());
        assert_eq!(guest.start("file", 0, 10), Status::OK);
        guest.reopen();
        assert!(guest.names().is_empty());
    });
}

#[test]
fn killed() {
    on_plain("plain::killed", |guest, _, _| {
        assert_eq!(guest.start("file", 0, 10), Status::OK);
        let [part] = &guest.names()[..] else {
            panic!("{:?}", guest.names());
        };
        let [notes] = &names(&guest.config.environment.state_dir)[..] else {
            panic!("no notes");
        };
        // What is there after a kill: the file, and notes that nobody locks.
        let notes = guest.config.environment.state_dir.join(notes);
        let (part, text) = (guest.path(part), fs::read(&notes).unwrap());
        assert_eq!(guest.cancel(), Status::OK);
        fs::write(&part, "half").unwrap();
        fs::write(&notes, text).unwrap();
        guest.reopen();
        assert!(guest.names().is_empty());
    });
}

#[test]
fn synced_then_put_in_place() {
    on_plain("plain::synced_then_put_in_place", |guest, kind, inside| {
        let put = match kind {
            Kind::Fat => "rename",
            Kind::Old => "link",
        };
        guest.copy("new", 0, b"x");
        assert_eq!(
            inside.lock().unwrap().events,
            ["sync file", put, "sync directory"]
        );
        inside.lock().unwrap().events.clear();
        guest.copy("new", OVERWRITE, b"x");
        assert_eq!(
            inside.lock().unwrap().events,
            ["sync file", "rename", "sync directory"]
        );

        guest.config.sync = false;
        guest.reopen();
        inside.lock().unwrap().events.clear();
        guest.copy("other", 0, b"x");
        assert_eq!(inside.lock().unwrap().events, [put]);
    });
}

#[test]
fn the_name_is_taken_at_the_last_moment() {
    on_plain(
        "plain::the_name_is_taken_at_the_last_moment",
        |guest, kind, inside| {
            for flags in [0, OVERWRITE] {
                assert_eq!(guest.start("file", flags, 3), Status::OK);
                assert_eq!(guest.write(0, b"new"), Status::OK);
                inside.lock().unwrap().taken_meanwhile = Some(OsString::from("file"));
                let status = guest.complete();
                assert_eq!(guest.names(), ["file"]);
                let content = fs::read(guest.path("file")).unwrap();
                match (flags, kind) {
                    (OVERWRITE, Kind::Old) => {
                        assert_eq!((status, &content[..]), (Status::OK, &b"new"[..]));
                        let mode = fs::metadata(guest.path("file"))
                            .unwrap()
                            .permissions()
                            .mode();
                        assert_eq!(mode & 0o7777, 0o640);
                    }
                    // It cannot have the mode of what it would replace.
                    (OVERWRITE, Kind::Fat) => {
                        assert_eq!((status, content.len()), (Status::FAIL, 0))
                    }
                    _ => assert_eq!((status, content.len()), (Status::ALREADY_EXISTS, 0)),
                }
                fs::remove_file(guest.path("file")).unwrap();
            }
        },
    );
}
