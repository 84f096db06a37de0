//! Writes the dirty pages of a file system to its disk (`syncfs`), in a separate process.
//!
//! The call may hang in the kernel for as long as the disk does. A thread that hangs there
//! keeps its process alive, whatever signal it gets, and with it the devices and locks
//! that the next agent needs.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::sys;

/// The argument that makes the agent's executable run [`main`].
pub const ARGUMENT: &str = "vss-write-out";

/// Writes out the file system that a descriptor is on.
pub type WriteOut = fn(OwnedFd) -> io::Result<()>;

/// Writes out the file system that standard input is on.
///
/// # Errors
///
/// What `syncfs` returns.
pub fn main() -> io::Result<()> {
    rustix::thread::set_name(c"vss-write-out")?;
    Ok(rustix::fs::syncfs(io::stdin())?)
}

/// Starts a process from this executable that writes out the file system that `fd` is on,
/// and waits for it. If the caller stops waiting, the process continues.
///
/// # Errors
///
/// If the process cannot be started, or fails.
pub fn in_own_process(fd: OwnedFd) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    let status = sys::reset_limits_and_signals(&mut command)
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
