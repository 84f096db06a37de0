//! Memory that the kernel takes back from the program while it works.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;

/// A memory cgroup that the program and its children are in.
pub(super) struct MemoryCgroup {
    directory: PathBuf,
    /// The file to write to, and what, to have memory taken back.
    reclaim: (&'static str, &'static str),
}

/// More than the program has.
const ALL: &str = "64M";

/// What the names of these cgroups begin with; the rest is a process ID.
const NAME: &str = "hyperv-sim-";

impl MemoryCgroup {
    /// Creates a cgroup, in the hierarchy of either version.
    pub(super) fn new() -> Result<Self> {
        let hierarchies = [
            ("/sys/fs/cgroup/memory", ("memory.force_empty", "0")),
            ("/sys/fs/cgroup", ("memory.reclaim", ALL)),
        ];
        let mut outcome = Err(anyhow!("no hierarchy is mounted"));
        for (hierarchy, reclaim) in hierarchies {
            outcome = Self::create(Path::new(hierarchy), reclaim);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn create(hierarchy: &Path, reclaim: (&'static str, &'static str)) -> Result<Self> {
        remove_abandoned(hierarchy)?;
        let directory = hierarchy.join(format!("{NAME}{}", std::process::id()));
        let in_words = || format!("cannot create {}", directory.display());
        fs::create_dir(&directory).with_context(in_words)?;
        let cgroup = Self { directory, reclaim };
        let file = cgroup.directory.join(reclaim.0);
        ensure!(file.exists(), "{} does not exist", file.display());
        Ok(cgroup)
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

/// Removes the cgroups of killed simulators.
fn remove_abandoned(hierarchy: &Path) -> Result<()> {
    let entries = fs::read_dir(hierarchy).with_context(|| hierarchy.display().to_string())?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(NAME)) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            // This fails while there is a process in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}
