//! Messages, independent of what there is to freeze.

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::super::Pattern;
use super::super::stage::{VssStage, expect, expect_closed, expect_failure};
use super::file_systems::{FileSystems, Kind};
use super::{freeze, thaw};
use crate::host::{FRAMEWORK, FRAMEWORKS, Protocol as _};
use crate::vss::{BODY_LEN, LONG_FREEZE, LONG_RECOVER, Operation, Vss, VssHost};

/// Connects; a guest that has file systems of its own has none of an earlier
/// scenario.
fn connect(stage: &mut VssStage<'_>) -> Result<VssHost> {
    if stage.machine().volumes().is_ok() {
        FileSystems::new(stage)?;
    }
    stage.connect()
}

/// A file system to look at, where the guest has some of its own.
fn one(stage: &mut VssStage<'_>) -> Result<Option<(FileSystems, String)>> {
    if stage.machine().volumes().is_err() {
        return Ok(None);
    }
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "one")?;
    Ok(Some((file_systems, point)))
}

fn expect_frozen(one: Option<&(FileSystems, String)>, when: &str) -> Result<()> {
    match one {
        Some((file_systems, point)) => file_systems.expect_frozen(&[point], when),
        None => Ok(()),
    }
}

pub(in super::super) fn hot_backup(stage: &mut VssStage<'_>) -> Result<()> {
    let mut host = connect(stage)?;
    for _ in 0..3 {
        let (expected, flags) = (host.expected_flags(), host.hot_backup()?);
        ensure!(
            flags == Ok(expected),
            "expected the flags {expected} for a HOT_BACKUP; the guest answered {flags:?}"
        );
    }
    Ok(())
}

pub(in super::super) fn dm_info(stage: &mut VssStage<'_>) -> Result<()> {
    let mut host = connect(stage)?;
    let flags = host.get_dm_info()?;
    ensure!(
        flags == Ok(0),
        "expected the flags 0 for a GET_DM_INFO; the guest answered {flags:?}"
    );
    stage.expect_working(&mut host)
}

pub(in super::super) fn thaw_without_freeze(stage: &mut VssStage<'_>) -> Result<()> {
    let mut host = connect(stage)?;
    thaw(&mut host)?;
    thaw(&mut host)?;
    freeze(&mut host)?;
    thaw(&mut host)?;
    thaw(&mut host)?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn long_messages(stage: &mut VssStage<'_>) -> Result<()> {
    let one = one(stage)?;
    let mut host = stage.connect()?;
    host.send_body(Operation::Freeze.encode(LONG_FREEZE))?;
    expect(host.reply()?.status, Status::OK, "a long FREEZE")?;
    expect_frozen(one.as_ref(), "after a long FREEZE")?;
    thaw(&mut host)?;
    host.send_body(Operation::AutoRecover.encode(LONG_RECOVER))?;
    expect(host.reply()?.status, Status::OK, "a long AUTO_RECOVER")?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn rings(stage: &mut VssStage<'_>) -> Result<()> {
    let mut host = connect(stage)?;
    steps(&mut host)?;
    for operation in [8, 100, 128, 129, 255] {
        let body = Operation::Other(operation).encode(BODY_LEN);
        decline(&mut host, body, &format!("operation {operation}"))?;
    }
    // Longer ones are padded to what is needed.
    for len in 0..=4 {
        for operation in [Operation::HotBackup, Operation::GetDmInfo] {
            let what = format!("a {operation:?} of {len} bytes");
            decline(&mut host, operation.encode(len), &what)?;
        }
    }
    for operation in [Operation::Freeze, Operation::Thaw] {
        let what = format!("a {operation:?} of no bytes");
        decline(&mut host, operation.encode(0), &what)?;
    }
    stage.expect_working(&mut host)
}

/// CREATE, DELETE, BACKUP_COMPLETE and AUTO_RECOVER: the kernel's driver says ok
/// to these without asking, as there is nothing to do.
fn steps(host: &mut VssHost) -> Result<()> {
    for operation in [0, 1, 4, 7] {
        let status = host.request(&Operation::Other(operation))?;
        expect(status, Status::OK, &format!("operation {operation}"))?;
    }
    Ok(())
}

fn decline(host: &mut VssHost, body: Vec<u8>, what: &str) -> Result<()> {
    host.send_body(body)?;
    let reply = host.reply().with_context(|| what.to_owned())?;
    expect_failure(reply.status, what)
}

pub(in super::super) fn device(stage: &mut VssStage<'_>) -> Result<()> {
    let mut host = connect(stage)?;
    steps(&mut host)?;
    for operation in [8, 100, 128, 129, 255] {
        let status = host.request(&Operation::Other(operation))?;
        expect_failure(status, &format!("operation {operation}"))?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn random(stage: &mut VssStage<'_>) -> Result<()> {
    let mut host = connect(stage)?;
    for seed in 0..200u64 {
        let len = match host.speaks_utf16() {
            true => usize::try_from(seed * 53 % 7500)?,
            false => BODY_LEN,
        };
        let mut message = Pattern::bytes(seed, len);
        // Of an operation that there is, so that more is looked at.
        if let Some(first) = message.first_mut() {
            *first %= 8;
        }
        // What it is answered with is the guest's affair.
        let sent = match host.speaks_utf16() {
            true => host.send_body(message),
            false => host.submit(message),
        };
        sent.and_then(|()| host.reply())
            .with_context(|| format!("random body number {seed}"))?;
    }
    thaw(&mut host)?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn renegotiation(stage: &mut VssStage<'_>) -> Result<()> {
    let one = one(stage)?;
    let mut host = stage.connect()?;
    for _ in 0..3 {
        freeze(&mut host)?;
        let chosen = host.negotiate(&FRAMEWORKS, Vss::VERSIONS)?;
        ensure!(
            chosen == Some((FRAMEWORK, Vss::VERSION)),
            "expected the same versions again; the guest chose {chosen:?}"
        );
        expect_frozen(one.as_ref(), "after a negotiation")?;
        thaw(&mut host)?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn device_gone(stage: &mut VssStage<'_>) -> Result<()> {
    let mut host = connect(stage)?;
    for _ in 0..3 {
        stage.expect_working(&mut host)?;
        stage.rescind()?;
        expect_closed(&mut host)?;
        host = stage.connect().context("after the device went")?;
    }
    stage.expect_working(&mut host)
}
