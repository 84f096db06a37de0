//! Disks that are full.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use hyperv_vmbus::ic::Status;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::stage::{Stage, expect, expect_content, expect_failure};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, Operation, Start};

const SIZE: usize = 1 << 20;

/// A small file system, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let options = format!("size={SIZE},mode=755");
        let mounted = mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        );
        match mounted {
            Ok(()) => Ok(Self(path.to_owned())),
            Err(errno) => {
                Err(Skip(format!("a small file system cannot be mounted: {errno}")).into())
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Busy or not: the program may have a file open in it. What fails here
        // shows when the directory is removed.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Mounts a small file system in the scenario's directory, before the program
/// starts: one that has a mount namespace of its own has to see it.
fn prepare(stage: &mut Stage<'_>) -> Result<(Small, String)> {
    if stage.machine().is_running() {
        stage.machine().stop()?;
    }
    let small = Small::mount(&stage.directory().join("small"))?;
    let path = format!("{}/small", stage.path()?);
    Ok((small, path))
}

/// Lets go of the file system: the program first.
fn finish(stage: &mut Stage<'_>, small: Small) -> Result<()> {
    stage.rescind()?;
    if stage.machine().is_running() {
        stage.machine().stop()?;
    }
    drop(small);
    stage.machine().start()
}

pub(super) fn at_start(stage: &mut Stage<'_>) -> Result<()> {
    let (small, path) = prepare(stage)?;
    let mut host = stage.connect()?;
    for size in [2 * SIZE as u64, 1 << 40, u64::MAX >> 1] {
        let start = Operation::Start(Start::new(&path, "large", 0, size));
        let status = host.request(&start)?;
        expect(
            status,
            Status::DISK_FULL,
            &format!("a START of {size} bytes on a disk of {SIZE}"),
        )?;
        stage.expect_files(&[])?;
    }
    let data = Pattern::bytes(1, SIZE / 2);
    let start = Start::new(&path, "fits", 0, data.len() as u64);
    let status = host.copy(&start, &mut &*data, 1, &mut |_| {})?;
    expect(status, Status::OK, "a file that fits")?;
    expect_content(&stage.directory().join("small/fits"), &data)?;
    finish(stage, small)
}

pub(super) fn midway(stage: &mut Stage<'_>) -> Result<()> {
    let (small, path) = prepare(stage)?;
    let mut host = stage.connect()?;
    // What is announced fits; what comes does not.
    let start = Operation::Start(Start::new(&path, "grows", 0, CHUNK as u64));
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
    stage.expect_files(&[])?;
    let start = Start::new(&path, "fits", 0, CHUNK as u64);
    let status = host.copy(&start, &mut &*chunk, 1, &mut |_| {})?;
    expect(status, Status::OK, "a file that fits, after that")?;
    finish(stage, small)
}
