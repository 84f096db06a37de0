//! Copies that do not come to their end.

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::stage::{FcopyStage, SETTLE_TIME, expect, expect_closed};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, FcopyHost, Operation};
use crate::resources::Resources;
use crate::wait::until;

/// Begins a copy of two messages and sends the first.
fn begin(stage: &FcopyStage<'_>, host: &mut FcopyHost, name: &str) -> Result<()> {
    let start = stage.start(name, 0, 2 * CHUNK as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let data = Pattern::bytes(1, CHUNK);
    expect(
        host.request(&Operation::write(0, &data))?,
        Status::OK,
        "a WRITE",
    )
}

pub(super) fn cancel(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    // What they are answered with is the guest's affair.
    host.request(&Operation::Cancel)?;
    host.request(&Operation::Complete)?;
    host.request(&Operation::write(0, &[1; 100]))?;
    stage.expect_working(&mut host)?;
    begin(stage, &mut host, "cancelled")?;
    expect(host.request(&Operation::Cancel)?, Status::OK, "a CANCEL")?;
    stage.expect_files(&[])?;
    host.request(&Operation::Cancel)?;
    host.request(&Operation::Complete)?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn new_start(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    begin(stage, &mut host, "first")?;
    let data = Pattern::bytes(2, 1000);
    let status = stage.copy(&mut host, "second", &data, 0)?;
    expect(status, Status::OK, "a copy that begins within another")?;
    stage.expect_files(&["second"])
}

pub(super) fn device_gone(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    begin(stage, &mut host, "unfinished")?;
    stage.rescind()?;
    expect_closed(&mut host)?;
    stage.expect_files(&[])?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    // And while the guest works on a request.
    let start = stage.start("unfinished", 0, 2 * CHUNK as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    host.send(&Operation::write(0, &Pattern::bytes(1, CHUNK)))?;
    stage.rescind()?;
    expect_closed(&mut host)?;
    stage.expect_files(&[])?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)
}

pub(super) fn stopped(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    begin(stage, &mut host, "unfinished")?;
    stage.machine().stop().context("stopping the program")?;
    stage.expect_files(&[])?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn killed(stage: &mut FcopyStage<'_>) -> Result<()> {
    for _ in 0..3 {
        let mut host = stage.connect()?;
        if stage.machine().pid().is_none() {
            return Err(Skip("the program is not a separate process".into()).into());
        }
        begin(stage, &mut host, "unfinished")?;
        stage.machine().kill()?;
        stage.machine().start()?;
        let mut host = stage.connect()?;
        stage.expect_files(&[])?;
        stage.expect_working(&mut host)?;
        stage.rescind()?;
    }
    Ok(())
}

pub(super) fn reply_refused(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    begin(stage, &mut host, "unfinished")?;
    host.pipe()?.refuse_writes();
    host.send(&Operation::Cancel)?;
    let mut host = stage.connect().context("after a refused reply")?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

const ROUNDS: usize = 20;

/// Rounds until a process has all that it keeps.
const WARM_UP: usize = 5;

/// What memory may grow by, in kilobytes: allocators round up.
const SLACK: u64 = 256;

pub(super) fn toggles(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut before = None;
    for round in 0..ROUNDS {
        // Under the same number each other time.
        if round % 2 == 0 {
            stage.offer()?;
        } else {
            stage.offer_again()?;
        }
        let mut host = stage
            .connect()
            .with_context(|| format!("in round {round}"))?;
        begin(stage, &mut host, "unfinished")?;
        stage.rescind()?;
        expect_closed(&mut host)?;
        stage.expect_files(&[])?;
        drop(host);
        if round == WARM_UP {
            // What the guest lets go of a little later counts as kept here: then
            // the comparison at the end is a little less sharp.
            before = resources(stage)?;
        }
    }
    let Some(before) = before else {
        return Ok(());
    };
    let mut last = before;
    until(
        SETTLE_TIME,
        "as few descriptors and threads as before",
        || {
            last = resources(stage)?.context("the program is gone")?;
            let kept = last.descriptors > before.descriptors || last.threads > before.threads;
            Ok((!kept).then_some(()))
        },
    )
    .with_context(|| format!("after round {WARM_UP} it held {before:?}, at the end {last:?}"))?;
    // This process has more to itself than the program.
    let of_its_own = stage.machine().pid().is_some();
    ensure!(
        !of_its_own || last.private <= before.private + SLACK,
        "expected no more memory than {} KiB and {SLACK}; it has {}",
        before.private,
        last.private
    );
    Ok(())
}

/// What the program holds; this process, where it is part of it and nothing
/// else runs here.
fn resources(stage: &mut FcopyStage<'_>) -> Result<Option<Resources>> {
    match stage.machine().resources()? {
        None if stage.alone => Resources::of(std::process::id()).map(Some),
        held => Ok(held),
    }
}
