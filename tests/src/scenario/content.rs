//! Files that arrive as they are.

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::Pattern;
use super::stage::{FcopyStage, expect, expect_failure};
use crate::fcopy::{CHUNK, Operation, Start};

pub(super) fn small(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for len in [1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 100_000] {
        let (name, data) = (format!("{len} bytes"), Pattern::bytes(len as u64, len));
        let status = stage.copy(&mut host, &name, &data, 0)?;
        expect(status, Status::OK, &format!("a copy of {len} bytes"))?;
        stage.expect_files(&[&name])?;
        let path = stage.directory().join(&name);
        stage.expect_content(&path, &data)?;
        let mode = stage.facts(&name)?.mode;
        ensure!(mode == 0o744, "expected the mode 0744; found {mode:04o}");
        stage.files().remove(&path)?;
    }
    Ok(())
}

pub(super) fn large(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let len = stage.large;
    let start = Start::new(&stage.path()?, "large", 0, len);
    let status = host.copy(&start, &mut Pattern::new(len, len), 3, &mut |_| {})?;
    expect(status, Status::OK, "a copy of a large file")?;
    stage.expect_files(&["large"])?;
    stage.files().expect_same(
        &stage.directory().join("large"),
        &mut Pattern::new(len, len),
    )
}

pub(super) fn empty(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let status = stage.copy(&mut host, "empty", &[], 0)?;
    expect(status, Status::OK, "a copy of no bytes")?;
    stage.expect_files(&["empty"])?;
    stage.expect_content(&stage.directory().join("empty"), &[])
}

pub(super) fn any_order(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let data = Pattern::bytes(1, 5 * CHUNK + 100);
    let start = stage.start("shuffled", 0, data.len() as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let chunks: Vec<&[u8]> = data.chunks(CHUNK).collect();
    for at in [3, 0, 5, 1, 4, 2] {
        let chunk = chunks.get(at).copied().unwrap_or_default();
        let status = host.request(&Operation::write((at * CHUNK) as u64, chunk))?;
        expect(status, Status::OK, &format!("the WRITE of part {at}"))?;
    }
    expect(
        host.request(&Operation::Complete)?,
        Status::OK,
        "a COMPLETE",
    )?;
    stage.expect_files(&["shuffled"])?;
    stage.expect_content(&stage.directory().join("shuffled"), &data)
}

pub(super) fn hole(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let data = Pattern::bytes(2, CHUNK);
    let start = stage.start("holed", 0, 3 * CHUNK as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    for at in [0, 2 * CHUNK] {
        let status = host.request(&Operation::write(at as u64, &data))?;
        expect(status, Status::OK, &format!("a WRITE at {at}"))?;
    }
    expect_failure(
        host.request(&Operation::Complete)?,
        "a COMPLETE with a hole",
    )?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn size_differs(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let data = Pattern::bytes(3, 2 * CHUNK);
    for stated in [0, 100, 10 * CHUNK as u64] {
        let start = Start::new(&stage.path()?, "other size", 1, stated);
        let status = host.copy(&start, &mut &*data, 1, &mut |_| {})?;
        expect(
            status,
            Status::OK,
            &format!("a copy of {} bytes announced as {stated}", data.len()),
        )?;
        stage.expect_files(&["other size"])?;
        stage.expect_content(&stage.directory().join("other size"), &data)?;
    }
    Ok(())
}
