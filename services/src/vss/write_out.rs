//! Writing out what is not on a file system's disk yet, by a process of its own.
//!
//! The kernel may not come back from that for as long as the disk stands still. A
//! thread that waits there keeps its process from ending, whatever that is sent, and
//! with it the devices and locks that the next agent needs.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::sys;

/// The argument by which the agent's executable becomes that process ([`main`]).
pub const ARGUMENT: &str = "vss-write-out";

/// Writes out the file system that a descriptor is on, and waits for that.
pub type WriteOut = fn(OwnedFd) -> io::Result<()>;

/// Writes out the file system that standard input is on.
///
/// # Errors
///
/// What `syncfs` says.
pub fn main() -> io::Result<()> {
    rustix::thread::set_name(c"vss-write-out")?;
    Ok(rustix::fs::syncfs(io::stdin())?)
}

/// Has a process write out the file system that `fd` is on, from the executable of
/// this one, and waits for it. It goes on by itself where nobody waits any more.
///
/// # Errors
///
/// Where it cannot be started, or fails.
pub fn in_own_process(fd: OwnedFd) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    let status = sys::start_afresh(&mut command)
        .arg0("hyperv-agent")
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(fd)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{ARGUMENT}: {status}"))),
    }
}
