//! A host that causes log lines as fast as it can.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::Pattern;
use super::stage::{FcopyStage, SETTLE_TIME, expect, expect_closed, expect_failure};
use crate::fcopy::{CHUNK, FcopyHost, OVERWRITE, Operation, Start};
use crate::port::Machine;
use crate::wait::until;

/// Lines that a host gets into the log within moments. Each class of messages has 24 KiB
/// of its own then, and those of a service alone count here.
const MOST_LINES: usize = 300;

/// Bytes of a line.
const LONGEST_LINE: usize = 1000;

/// Time that a device is not opened again after it failed for the first time; twice as
/// long after the next time, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The lines that were logged since there were so many.
fn lines_since(machine: &dyn Machine, before: usize) -> Vec<String> {
    machine
        .log()
        .lines()
        .skip(before)
        .map(str::to_owned)
        .collect()
}

fn expect_few(lines: &[String], caused: usize) -> Result<()> {
    ensure!(
        lines.len() <= MOST_LINES,
        "expected no more than {MOST_LINES} lines for {caused} things to tell of; there are {}",
        lines.len()
    );
    for line in lines {
        let len = line.len();
        ensure!(
            len <= LONGEST_LINE,
            "expected no line longer than {LONGEST_LINE} bytes; this has {len}: {line}"
        );
    }
    Ok(())
}

/// Has copies refused whose names are as long as names get.
fn have_refused(host: &mut FcopyHost, copies: usize) -> Result<()> {
    for number in 0..copies {
        let path = format!("/{}", "é".repeat(120));
        let name = format!("{number}{}", "\u{7f}".repeat(120));
        let start = Operation::Start(Start::new(&path, &name, 0, 10));
        expect_failure(host.request(&start)?, "a START into no directory")?;
        expect_failure(
            host.request(&Operation::write(0, &[1; 10]))?,
            "a WRITE without a START",
        )?;
    }
    Ok(())
}

pub(super) fn requests(stage: &mut FcopyStage<'_>) -> Result<()> {
    const COPIES: usize = 1500;
    const FINISHED: &str = "copy finished";
    let before = stage.machine().log().lines().count();
    let mut host = stage.connect()?;
    have_refused(&mut host, COPIES)?;
    stage.expect_working(&mut host)?;
    until(
        SETTLE_TIME,
        "the copy after that, and a summary, in the log",
        || {
            let lines = lines_since(stage.machine(), before);
            let has = |words| lines.iter().any(|line| line.contains(words));
            Ok((has(FINISHED) && has("messages suppressed in the last")).then_some(()))
        },
    )?;
    let lines = lines_since(stage.machine(), before);
    ensure!(
        lines.iter().any(|line| line.contains('…')),
        "expected long names to be cut"
    );
    expect_few(&lines, COPIES)
}

pub(super) fn toggled(stage: &mut FcopyStage<'_>) -> Result<()> {
    const ROUNDS: usize = 40;
    const COPIES: usize = 20;
    let before = stage.machine().log().lines().count();
    for _ in 0..ROUNDS {
        let mut host = stage.connect()?;
        have_refused(&mut host, COPIES)?;
        stage.rescind()?;
        expect_closed(&mut host)?;
    }
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    expect_few(&lines_since(stage.machine(), before), ROUNDS * (COPIES + 2))
}

pub(super) fn corrupts(stage: &mut FcopyStage<'_>) -> Result<()> {
    const OPENINGS: u32 = 6;
    let before = stage.machine().log().lines().count();
    let mut failed = None;
    for _ in 0..OPENINGS {
        let mut host = stage.connect()?;
        // Requests that succeed do not reset the failures of the device.
        let data = Pattern::bytes(1, CHUNK);
        let status = stage.copy(&mut host, "before", &data, OVERWRITE)?;
        expect(status, Status::OK, "a copy")?;
        let channel = host.channel()?;
        channel.to_guest.publish(u32::MAX);
        channel.bell().interrupt();
        channel.wait_closed(SETTLE_TIME)?;
        failed.get_or_insert_with(Instant::now);
    }
    // The channel is closed a moment before the pause begins.
    let took = failed.map(|at| at.elapsed()).unwrap_or_default();
    let pauses = FIRST_PAUSE * (2u32.pow(OPENINGS - 1) - 1);
    ensure!(
        took >= pauses,
        "expected {OPENINGS} openings to be {pauses:?} apart at least; they took {took:?}"
    );
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    let lines = lines_since(stage.machine(), before);
    // At the level debug it is there each time, with the pause.
    let complaints = lines
        .iter()
        .filter(|line| line.contains("opened again") && !line.contains("retry_in"))
        .count();
    ensure!(
        complaints <= 2,
        "expected the same complaint once while it lasts; it is there {complaints} times"
    );
    stage.files().remove(&stage.directory().join("before"))
}
