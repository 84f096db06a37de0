//! A configuration of the scenario's own, and one that changes in the middle of a
//! copy.

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::stage::{FcopyStage, SETTLE_TIME, expect, expect_failure};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, Operation};
use crate::wait::until;

fn configure(stage: &mut FcopyStage<'_>, lines: &str) -> Result<()> {
    let configured = stage.machine().configure(lines);
    configured.map_err(|error| Skip(format!("{error:#}")).into())
}

/// Waits until the log has `words` once more than `before` times.
fn wait_for(stage: &mut FcopyStage<'_>, words: &str, before: usize) -> Result<()> {
    let machine = stage.machine();
    until(SETTLE_TIME, &format!("{words:?} in the log"), || {
        Ok((count(&machine.log(), words) > before).then_some(()))
    })
}

fn count(log: &str, words: &str) -> usize {
    log.matches(words).count()
}

pub(super) fn stalled(stage: &mut FcopyStage<'_>) -> Result<()> {
    const ENDED: &str = "the host sent no more data for 1 s (`idle-limit`)";
    configure(stage, "[fcopy]\nidle-limit = 1")?;
    let mut host = stage.connect()?;
    let before = count(&stage.machine().log(), ENDED);
    let start = stage.start("stalls", 0, 2 * CHUNK as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let write = Operation::write(0, &Pattern::bytes(1, CHUNK));
    expect(host.request(&write)?, Status::OK, "a WRITE")?;
    wait_for(stage, ENDED, before)?;
    stage.expect_files(&[])?;
    let write = Operation::write(CHUNK as u64, &Pattern::bytes(2, CHUNK));
    expect_failure(host.request(&write)?, "a WRITE that comes too late")?;
    expect_failure(host.request(&Operation::Complete)?, "its COMPLETE")?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)?;
    configure(stage, "")
}

pub(super) fn midway(stage: &mut FcopyStage<'_>) -> Result<()> {
    const TAKEN: &str = "new configuration in use";
    let path = stage.path()?;
    configure(stage, "")?;
    let mut host = stage.connect()?;
    for (lines, goes_on) in [
        (format!("directories = [{path:?}]\nmode = \"0640\""), true),
        (format!("directories = [\"{path}/elsewhere\"]"), false),
        (format!("max-size = {CHUNK}"), false),
    ] {
        let before = count(&stage.machine().log(), TAKEN);
        let start = stage.start("midway", 0, 2 * CHUNK as u64)?;
        expect(host.request(&start)?, Status::OK, "a START")?;
        let data = Pattern::bytes(1, 2 * CHUNK);
        let (first, second) = data.split_at(CHUNK);
        let write = host.request(&Operation::write(0, first))?;
        expect(write, Status::OK, "a WRITE")?;
        configure(stage, &format!("[fcopy]\n{lines}"))?;
        wait_for(stage, TAKEN, before)?;
        let write = host.request(&Operation::write(CHUNK as u64, second))?;
        let completed = host.request(&Operation::Complete)?;
        if goes_on {
            expect(write, Status::OK, "a WRITE that the configuration allows")?;
            expect(completed, Status::OK, "a COMPLETE")?;
            stage.expect_content(&stage.directory().join("midway"), &data)?;
            let mode = stage.facts("midway")?.mode;
            ensure!(mode == 0o640, "expected the new mode 640; found {mode:o}");
            stage.files().remove(&stage.directory().join("midway"))?;
        } else {
            expect_failure(write, &format!("a WRITE although {lines}"))?;
            expect_failure(completed, "its COMPLETE")?;
            stage.expect_files(&[])?;
        }
        let before = count(&stage.machine().log(), TAKEN);
        configure(stage, "")?;
        wait_for(stage, TAKEN, before)?;
        stage.expect_working(&mut host)?;
    }
    Ok(())
}
