//! Devices and programs that come and go.

use anyhow::{Context, Result, ensure};

use super::super::Skip;
use super::super::stage::{KvpStage, SETTLE_TIME, expect_closed};
use super::{expect_value, set};
use crate::host::{FRAMEWORK, FRAMEWORKS, Protocol as _};
use crate::kvp::{Kvp, Operation, Value};
use crate::wait::until;

pub(in super::super) fn renegotiation(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for round in 0..10 {
        let value = round.to_string();
        set(&mut host, 1, "round", &value)?;
        let chosen = host.negotiate(&FRAMEWORKS, Kvp::VERSIONS)?;
        ensure!(
            chosen == Some((FRAMEWORK, Kvp::VERSION)),
            "expected the same versions again; the guest chose {chosen:?}"
        );
        expect_value(&mut host, 1, "round", &value)?;
    }
    // An older one serves as well.
    let older = [Kvp::VERSIONS.first().copied().context("a version")?];
    let chosen = host.negotiate(&FRAMEWORKS, &older)?;
    ensure!(
        chosen == Some((FRAMEWORK, older[0])),
        "expected the only version that is offered; the guest chose {chosen:?}"
    );
    stage.expect_working(&mut host)
}

pub(in super::super) fn device_gone(stage: &mut KvpStage<'_>) -> Result<()> {
    for round in 0..3 {
        let mut host = stage.connect()?;
        let value = round.to_string();
        set(&mut host, 1, "round", &value)?;
        stage.rescind()?;
        expect_closed(&mut host)?;
        let mut host = stage.connect().context("after the device went")?;
        expect_value(&mut host, 1, "round", &value)?;
        stage.rescind()?;
        expect_closed(&mut host)?;
    }
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn stopped(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for pool in super::FILES {
        set(&mut host, pool, "kept", "value")?;
    }
    stage.machine().stop().context("stopping the program")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    for pool in super::FILES {
        stage.expect_items(&mut host, pool, &[("kept", "value")])?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn killed(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    if stage.machine().pid().is_none() {
        return Err(Skip("the program is not a separate process".into()).into());
    }
    for round in 0..3 {
        let value = round.to_string();
        for pool in super::FILES {
            set(&mut host, pool, "round", &value)?;
        }
        stage.machine().kill()?;
        stage.machine().start()?;
        host = stage.connect()?;
        for pool in super::FILES {
            stage.expect_items(&mut host, pool, &[("round", &value)])?;
        }
        stage.expect_working(&mut host)?;
    }
    Ok(())
}

pub(in super::super) fn reply_refused(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    set(&mut host, 0, "kept", "value")?;
    host.pipe()?.refuse_writes();
    host.send(&Kvp::HARMLESS)?;
    let mut host = stage.connect().context("after a refused reply")?;
    stage.expect_items(&mut host, 0, &[("kept", "value")])?;
    // The kernel has replied to the host with a failure meanwhile.
    host.pipe()?.refuse_writes();
    host.send(&Operation::set(0, "kept", Value::text("not told")))?;
    let mut host = stage.connect().context("after a refused reply to a SET")?;
    until(SETTLE_TIME, "what was set to be taken back", || {
        let kept = host.get(0, "kept")?;
        Ok((kept.as_deref() == Ok("value")).then_some(()))
    })?;
    stage.expect_working(&mut host)
}
