//! Disks that are full.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use hyperv_vmbus::ic::Status;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::stage::{Stage, expect, expect_content, expect_failure};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, FcopyHost, Operation, Start};

const SIZE: usize = 1 << 20;

/// A small file system where the program sees it, for as long as this lives.
struct Small {
    /// As the program names it.
    path: PathBuf,
    /// The program, where it is a process with mounts of its own.
    pid: Option<u32>,
}

impl Small {
    fn mount(path: &Path, pid: Option<u32>) -> Result<Self> {
        let skip = |why: &str| Skip(format!("a small file system cannot be mounted: {why}"));
        std::fs::create_dir(path)?;
        let options = format!("size={SIZE},mode=755");
        match pid {
            None => mount(
                Some("tmpfs"),
                path,
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                Some(options.as_str()),
            )
            .map_err(|errno| skip(errno.desc()))?,
            Some(pid) => {
                let output = within(pid)
                    .args(["mount", "-t", "tmpfs", "-o", &options, "tmpfs"])
                    .arg(path)
                    .output()
                    .map_err(|error| skip(&format!("nsenter: {error}")))?;
                if !output.status.success() {
                    return Err(skip(String::from_utf8_lossy(&output.stderr).trim()).into());
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            pid,
        })
    }

    /// As this process reaches it.
    fn seen(&self) -> PathBuf {
        match (self.pid, self.path.strip_prefix("/")) {
            (Some(pid), Ok(relative)) => Path::new(&format!("/proc/{pid}/root")).join(relative),
            _ => self.path.clone(),
        }
    }

    fn start(&self, name: &str, size: u64) -> Result<Start> {
        Ok(Start::new(&super::stage::text(&self.path)?, name, 0, size))
    }
}

/// A command in the mount namespace of a process.
fn within(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
    command
}

impl Drop for Small {
    fn drop(&mut self) {
        // Busy or not: the program may have a file open in it. What fails here
        // shows when the directory is removed.
        match self.pid {
            None => drop(umount2(&self.path, MntFlags::MNT_DETACH)),
            Some(pid) => drop(within(pid).args(["umount", "-l"]).arg(&self.path).status()),
        }
    }
}

fn prepare(stage: &mut Stage<'_>) -> Result<(FcopyHost, Small)> {
    let host = stage.connect()?;
    let pid = stage.machine().pid();
    let small = Small::mount(&stage.directory().join("small"), pid)?;
    Ok((host, small))
}

pub(super) fn at_start(stage: &mut Stage<'_>) -> Result<()> {
    let (mut host, small) = prepare(stage)?;
    for size in [2 * SIZE as u64, 1 << 40, u64::MAX >> 1] {
        let start = Operation::Start(small.start("large", size)?);
        let status = host.request(&start)?;
        expect(
            status,
            Status::DISK_FULL,
            &format!("a START of {size} bytes on a disk of {SIZE}"),
        )?;
        stage.expect_files_in(&small.seen(), &[])?;
    }
    let data = Pattern::bytes(1, SIZE / 2);
    let start = small.start("fits", data.len() as u64)?;
    let status = host.copy(&start, &mut &*data, 1, &mut |_| {})?;
    expect(status, Status::OK, "a file that fits")?;
    expect_content(&small.seen().join("fits"), &data)
}

pub(super) fn midway(stage: &mut Stage<'_>) -> Result<()> {
    let (mut host, small) = prepare(stage)?;
    // What is announced fits; what comes does not.
    let start = Operation::Start(small.start("grows", CHUNK as u64)?);
    expect(
        host.request(&start)?,
        Status::OK,
        "a START of a file that fits",
    )?;
    let chunk = Pattern::bytes(2, CHUNK);
    let mut offset = 0;
    loop {
        match host.request(&Operation::write(offset, &chunk))? {
            Status::OK => offset += CHUNK as u64,
            status => {
                expect(
                    status,
                    Status::DISK_FULL,
                    &format!("the WRITE at {offset} of a disk of {SIZE}"),
                )?;
                break;
            }
        }
        if offset > 2 * SIZE as u64 {
            bail!("expected a disk of {SIZE} bytes to be full; it took {offset}");
        }
    }
    expect_failure(
        host.request(&Operation::Complete)?,
        "a COMPLETE after a failed WRITE",
    )?;
    stage.expect_files_in(&small.seen(), &[])?;
    let start = small.start("fits", CHUNK as u64)?;
    let status = host.copy(&start, &mut &*chunk, 1, &mut |_| {})?;
    expect(status, Status::OK, "a file that fits, after that")?;
    expect_content(&small.seen().join("fits"), &chunk)
}
