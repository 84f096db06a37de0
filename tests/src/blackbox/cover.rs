//! Directories of the machine of which the guest has its own.
//!
//! Everything here runs in the guest's mount namespace.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// Covers `directory` with an empty one in memory, in which the directories that
/// were there show again, all but those named in `but`.
pub(super) fn cover(directory: &str, but: &[&str]) -> Result<()> {
    let machine = File::open(directory).with_context(|| directory.to_owned())?;
    let names: Vec<_> = fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("reading {directory}"))?
        .into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
        .filter(|name| !but.iter().any(|but| name == but))
        .collect();
    let options = Some("mode=755");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("hyperv-sim"), directory, Some("tmpfs"), flags, options)
        .with_context(|| format!("covering {directory}"))?;
    let machine = PathBuf::from(format!("/proc/self/fd/{}", machine.as_raw_fd()));
    for name in names {
        let target = Path::new(directory).join(&name);
        fs::create_dir(&target).with_context(|| target.display().to_string())?;
        let source = machine.join(&name);
        let bind = MsFlags::MS_BIND;
        mount(Some(&source), &target, None::<&str>, bind, None::<&str>)
            .with_context(|| format!("showing the machine's {}", target.display()))?;
    }
    Ok(())
}
