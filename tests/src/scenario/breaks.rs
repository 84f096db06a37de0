//! Copies that do not come to their end.

use std::fs;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::stage::{SETTLE_TIME, Stage, expect};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, FcopyHost, Operation};
use crate::wait::until;

/// Begins a copy of two messages and sends the first.
fn begin(stage: &Stage<'_>, host: &mut FcopyHost, name: &str) -> Result<()> {
    let start = stage.start(name, 0, 2 * CHUNK as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let data = Pattern::bytes(1, CHUNK);
    expect(
        host.request(&Operation::write(0, &data))?,
        Status::OK,
        "a WRITE",
    )
}

/// Waits for the guest to close the device.
fn expect_closed(host: &mut FcopyHost) -> Result<()> {
    if let Ok(channel) = host.channel() {
        return channel.wait_closed(SETTLE_TIME);
    }
    let pipe = host.pipe()?;
    until(SETTLE_TIME, "the guest to close the device", || {
        Ok(pipe.recv(std::time::Duration::ZERO).is_err().then_some(()))
    })
}

pub(super) fn cancel(stage: &mut Stage<'_>) -> Result<()> {
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

pub(super) fn new_start(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    begin(stage, &mut host, "first")?;
    let data = Pattern::bytes(2, 1000);
    let status = stage.copy(&mut host, "second", &data, 0)?;
    expect(status, Status::OK, "a copy that begins within another")?;
    stage.expect_files(&["second"])
}

pub(super) fn device_gone(stage: &mut Stage<'_>) -> Result<()> {
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

pub(super) fn stopped(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    begin(stage, &mut host, "unfinished")?;
    stage.machine().stop().context("stopping the program")?;
    stage.expect_files(&[])?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn killed(stage: &mut Stage<'_>) -> Result<()> {
    for _ in 0..3 {
        let mut host = stage.connect()?;
        if stage.machine().pid().is_none() {
            return Err(Skip("the program is no process of its own".into()).into());
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

pub(super) fn reply_refused(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    begin(stage, &mut host, "unfinished")?;
    host.pipe()?.refuse_writes();
    host.send(&Operation::Cancel)?;
    let mut host = stage.connect().context("after a refused reply")?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
}

impl Held {
    fn by(pid: u32) -> Result<Self> {
        let count = |what: &str| -> Result<usize> {
            Ok(fs::read_dir(format!("/proc/{pid}/{what}"))?.count())
        };
        Ok(Self {
            descriptors: count("fd")?,
            threads: count("task")?,
        })
    }
}

/// Kilobytes of memory that the process has to itself.
fn resident(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let private = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(private.sum())
}

const ROUNDS: usize = 20;

/// Rounds until a process has all that it keeps.
const WARM_UP: usize = 5;

/// What memory may grow by, in kilobytes: allocators round up.
const SLACK: u64 = 256;

pub(super) fn toggles(stage: &mut Stage<'_>) -> Result<()> {
    let own = stage.alone.then(std::process::id);
    let mut baseline = None;
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
        let of_its_own = stage.machine().pid();
        let Some(pid) = of_its_own.or(own) else {
            continue;
        };
        if round == WARM_UP {
            // What the guest lets go of a little later counts as kept here: then
            // the comparison at the end is a little less sharp.
            baseline = Some((Held::by(pid)?, resident(pid)?));
        }
    }
    let of_its_own = stage.machine().pid();
    if let (Some(pid), Some((held, memory))) = (of_its_own.or(own), baseline) {
        let mut last = held;
        until(
            SETTLE_TIME,
            "as few descriptors and threads as before",
            || {
                last = Held::by(pid)?;
                let kept = last.descriptors > held.descriptors || last.threads > held.threads;
                Ok((!kept).then_some(()))
            },
        )
        .with_context(|| format!("after round {WARM_UP} it held {held:?}, at the end {last:?}"))?;
        let now = resident(pid)?;
        ensure!(
            of_its_own.is_none() || now <= memory + SLACK,
            "expected no more memory than {memory} KiB and {SLACK}; it has {now}"
        );
    }
    Ok(())
}
