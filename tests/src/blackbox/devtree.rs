//! The names in the guest's `/dev`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use fuser::{FileAttr, FileType, INodeNo};

use super::lock;
use super::node::Node;
use crate::fuse;

/// What a name in `/dev` stands for.
#[derive(Clone)]
pub(super) enum Entry {
    Directory,
    Link(PathBuf),
    /// A character device of the machine: its number and permissions.
    Machine {
        rdev: u64,
        perm: u16,
    },
    /// A block device of the kernel's: its number.
    Block(u64),
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

    pub(super) fn find(&self, parent: INodeNo, name: &OsStr) -> Option<FileAttr> {
        let tree = lock(&self.0);
        let ino = *tree.names.get(&(parent.0, name.to_owned()))?;
        Some(attributes(ino, tree.entry(ino)?))
    }

    pub(super) fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        Some(attributes(ino.0, lock(&self.0).entry(ino.0)?))
    }

    pub(super) fn entry(&self, ino: INodeNo) -> Option<Entry> {
        lock(&self.0).entry(ino.0).cloned()
    }

    /// What is in a directory: names, inode numbers and kinds.
    pub(super) fn list(&self, directory: INodeNo) -> Vec<(OsString, u64, FileType)> {
        let tree = lock(&self.0);
        tree.names
            .iter()
            .filter(|((parent, _), _)| *parent == directory.0)
            .filter_map(|((_, name), ino)| {
                let kind = attributes(*ino, tree.entry(*ino)?).kind;
                Some((name.clone(), *ino, kind))
            })
            .collect()
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
        Entry::Block(rdev) => (FileType::BlockDevice, 0o600, *rdev),
        Entry::Device(_) => (FileType::RegularFile, 0o600, 0),
    };
    FileAttr {
        // The machine's own devices have small numbers: nothing is lost.
        rdev: u32::try_from(rdev).unwrap_or_default(),
        ..fuse::attributes(INodeNo(ino), kind, perm, 0)
    }
}

/// The entries that every guest's `/dev` has: the machine's plain devices.
pub(super) fn machine_entries(tree: &DevTree) -> Result<()> {
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "fuse", "console", "ptmx",
    ] {
        // What the machine lacks, the guest lacks.
        let Ok(metadata) = fs::metadata(format!("/dev/{name}")) else {
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

/// Loop devices that there can be, in all guests together; the kernel makes them
/// as they are asked for. Further ones have numbers of another form.
const LOOPS: u64 = 256;

/// The number of the first loop device.
const FIRST_LOOP: u64 = 7 << 8;

/// The entries of loop devices.
pub(super) fn loop_entries(tree: &DevTree) -> Result<()> {
    const CONTROL: &str = "loop-control";
    let control = fs::metadata(format!("/dev/{CONTROL}")).context("no loop devices here")?;
    let (rdev, perm) = (control.rdev(), 0o600);
    tree.add(CONTROL, Entry::Machine { rdev, perm })?;
    for number in 0..LOOPS {
        tree.add(&format!("loop{number}"), Entry::Block(FIRST_LOOP + number))?;
    }
    Ok(())
}
