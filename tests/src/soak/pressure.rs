//! Memory that the kernel takes back from the program while it works.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;

/// A memory cgroup that the program and its children are in.
pub(super) struct MemoryCgroup {
    directory: PathBuf,
    /// The file to write to, and what, to have memory taken back.
    reclaim: (&'static str, &'static str),
}

/// More than the program has.
const ALL: &str = "64M";

impl MemoryCgroup {
    /// A cgroup of its own, in the hierarchy of either version; `None` if the machine
    /// lets none be made.
    pub(super) fn new() -> Option<Self> {
        let name = format!("hyperv-sim-{}", std::process::id());
        let hierarchies = [
            ("/sys/fs/cgroup/memory", ("memory.force_empty", "0")),
            ("/sys/fs/cgroup", ("memory.reclaim", ALL)),
        ];
        hierarchies.into_iter().find_map(|(hierarchy, reclaim)| {
            let directory = Path::new(hierarchy).join(&name);
            fs::create_dir(&directory).ok()?;
            let cgroup = Self { directory, reclaim };
            cgroup.directory.join(reclaim.0).exists().then_some(cgroup)
        })
    }

    /// Moves a process with all its threads; its children are born there.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        let path = self.directory.join("cgroup.procs");
        fs::write(&path, pid.to_string()).with_context(|| path.display().to_string())
    }

    /// Takes back all memory that can be: the pages of programs, libraries and files,
    /// which are read again when they are used.
    pub(super) fn reclaim(&self) -> Result<()> {
        let (file, value) = self.reclaim;
        let path = self.directory.join(file);
        match fs::write(&path, value) {
            // There was less than that.
            Err(error) if is(&error, Errno::EAGAIN) || is(&error, Errno::EBUSY) => Ok(()),
            other => other.with_context(|| path.display().to_string()),
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}
