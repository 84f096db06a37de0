//! Disks that are full.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use hyperv_vmbus::ic::Status;

use super::stage::{FcopyStage, expect, expect_failure};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, FcopyHost, Operation, Start};
use crate::files::Files;

const SIZE: usize = 1 << 20;

/// A small file system where the program sees it, for as long as this lives.
struct Small {
    files: Arc<dyn Files>,
    /// As the program names it.
    path: PathBuf,
    /// As this process reaches it.
    seen: PathBuf,
}

impl Small {
    fn mount(files: Arc<dyn Files>, path: &Path) -> Result<Self> {
        files.create_directories(path)?;
        let seen = files
            .mount(path, SIZE)
            .map_err(|error| Skip(format!("a small file system cannot be mounted: {error:#}")))?;
        Ok(Self {
            files,
            path: path.to_owned(),
            seen,
        })
    }

    fn start(&self, name: &str, size: u64) -> Result<Start> {
        Ok(Start::new(&super::stage::text(&self.path)?, name, 0, size))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Busy or not: the program may have a file open in it. What fails here
        // shows when the directory is removed.
        let _ = self.files.unmount(&self.path);
    }
}

fn prepare(stage: &mut FcopyStage<'_>) -> Result<(FcopyHost, Small)> {
    let host = stage.connect()?;
    let small = Small::mount(stage.files(), &stage.directory().join("small"))?;
    Ok((host, small))
}

pub(super) fn at_start(stage: &mut FcopyStage<'_>) -> Result<()> {
    let (mut host, small) = prepare(stage)?;
    for size in [2 * SIZE as u64, 1 << 40, u64::MAX >> 1] {
        let start = Operation::Start(small.start("large", size)?);
        let status = host.request(&start)?;
        expect(
            status,
            Status::DISK_FULL,
            &format!("a START of {size} bytes on a disk of {SIZE}"),
        )?;
        stage.expect_files_in(&small.seen, &[])?;
    }
    let data = Pattern::bytes(1, SIZE / 2);
    let start = small.start("fits", data.len() as u64)?;
    let status = host.copy(&start, &mut &*data, 1, &mut |_| {})?;
    expect(status, Status::OK, "a file that fits")?;
    stage.expect_content(&small.seen.join("fits"), &data)
}

pub(super) fn midway(stage: &mut FcopyStage<'_>) -> Result<()> {
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
    stage.expect_files_in(&small.seen, &[])?;
    let start = small.start("fits", CHUNK as u64)?;
    let status = host.copy(&start, &mut &*chunk, 1, &mut |_| {})?;
    expect(status, Status::OK, "a file that fits, after that")?;
    stage.expect_content(&small.seen.join("fits"), &chunk)
}

pub(super) fn reserve(stage: &mut FcopyStage<'_>) -> Result<()> {
    let (mut host, small) = prepare(stage)?;
    // A twentieth stays free.
    let most = (SIZE - SIZE / 20) as u64;
    let start = Operation::Start(small.start("all", SIZE as u64)?);
    let status = host.request(&start)?;
    expect(
        status,
        Status::DISK_FULL,
        "a START that takes all of a disk",
    )?;
    let start = Operation::Start(small.start("grows", CHUNK as u64)?);
    expect(host.request(&start)?, Status::OK, "a START")?;
    let chunk = Pattern::bytes(2, CHUNK);
    let mut offset = 0;
    let status = loop {
        match host.request(&Operation::write(offset, &chunk))? {
            Status::OK => offset += CHUNK as u64,
            status => break status,
        }
        ensure!(
            offset <= most,
            "expected a twentieth of a disk of {SIZE} bytes to stay free; {offset} were taken"
        );
    };
    expect(status, Status::DISK_FULL, "a WRITE of the last of a disk")?;
    stage.expect_logged(&["stay free (`keep-free`)"])?;
    stage.expect_files_in(&small.seen, &[])
}
