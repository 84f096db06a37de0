//! The status of the last backup.

// Indexing a JSON value returns null for a missing key.
#![expect(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::stage::{SETTLE_TIME, VssStage, expect_failure};
use super::file_systems::{FileSystems, Kind};
use super::{freeze, thaw, two};
use crate::wait::until;

/// Makes a hook with this script.
pub(super) fn hook(file_systems: &FileSystems, name: &str, does: &str) -> Result<()> {
    let path = format!("/etc/hyperv-agent/vss.d/{name}");
    file_systems.write(&path, &format!("#!/bin/sh\n{does}\n"))?;
    file_systems.script("chmod 755 \"$0\"", &[&path]).map(drop)
}

/// Returns the status of the service `vss`.
pub(super) fn status(file_systems: &FileSystems) -> Result<Value> {
    let output = file_systems.program(&["status", "--json"])?;
    let status: Value = serde_json::from_str(&output)?;
    let services = status["services"].as_array().context("no services")?;
    let vss = services.iter().find(|service| service["name"] == "vss");
    Ok(vss.context("no service of that name")?.clone())
}

/// Expects the field to have this value.
pub(super) fn expect_field(backup: &Value, name: &str, expected: &Value) -> Result<()> {
    let found = &backup[name];
    ensure!(
        found == expected,
        "expected {name} to be {expected} in {backup}"
    );
    Ok(())
}

/// Expects these fields in the status of the last backup, which it returns.
pub(super) fn expect_last(file_systems: &FileSystems, fields: &[(&str, Value)]) -> Result<Value> {
    let last = status(file_systems)?["last_backup"].clone();
    for (name, expected) in fields {
        expect_field(&last, name, expected)?;
    }
    Ok(last)
}

/// Returns the runs of hooks in a backup: name, argument, and whether it failed.
pub(super) fn runs(backup: &Value) -> Result<Vec<String>> {
    let hooks = backup["hooks"].as_array().context("no hooks")?;
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let run = |run: &Value| {
        let failed = if run["failure"].is_null() {
            ""
        } else {
            " fails"
        };
        format!("{} {}{failed}", text(&run["name"]), text(&run["action"]))
    };
    Ok(hooks.iter().map(run).collect())
}

/// Expects numbers among the counters of backups, each named by its JSON pointer.
fn expect_counted(file_systems: &FileSystems, expected: &[(&str, u64)]) -> Result<()> {
    let output = file_systems.program(&["status", "--json"])?;
    let document: Value = serde_json::from_str(&output)?;
    let counters = &document["counters"]["vss"];
    for (pointer, number) in expected {
        let found = counters.pointer(pointer).and_then(Value::as_u64);
        ensure!(found == Some(*number), "{pointer} in {counters}");
    }
    Ok(())
}

pub(in super::super) fn last_backup(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points) = two(stage)?;
    hook(&file_systems, "10-good", "")?;
    let mut host = stage.connect()?;
    ensure!(
        status(&file_systems)?["last_backup"].is_null(),
        "the status has a last backup before there was any"
    );
    freeze(&mut host)?;
    let vss = status(&file_systems)?;
    let operation = &vss["devices"][0]["operation"];
    for (name, expected) in [
        ("kind", "frozen".into()),
        ("file_systems", points.len().into()),
        ("rehearsal", false.into()),
    ] {
        expect_field(operation, name, &expected)?;
    }
    let mut frozen: Vec<_> =
        serde_json::from_value::<Vec<String>>(operation["mount_points"].clone())?;
    frozen.sort();
    let mut expected = points.clone();
    expected.sort();
    ensure!(
        frozen == expected,
        "expected the status to list {expected:?} as frozen; it lists {frozen:?}"
    );
    thaw(&mut host)?;
    let backup = expect_last(
        &file_systems,
        &[
            ("kind", "backup".into()),
            ("file_systems", points.len().into()),
            ("outcome", "consistent".into()),
            ("reason", Value::Null),
        ],
    )?;
    ensure!(backup["frozen_usec"].as_u64() > Some(0), "{backup}");
    let expected = ["10-good freeze", "10-good thaw"];
    ensure!(
        runs(&backup)? == expected,
        "expected {expected:?} in {backup}"
    );

    // A second one, which a hook refuses.
    hook(&file_systems, "20-bad", "[ $1 != freeze ]")?;
    expect_failure(host.freeze()?, "a FREEZE that a hook refuses")?;
    let backup = expect_last(
        &file_systems,
        &[
            ("file_systems", 0.into()),
            ("frozen_usec", Value::Null),
            ("outcome", "failed".into()),
        ],
    )?;
    let expected = [
        "10-good freeze",
        "20-bad freeze fails",
        "20-bad thaw",
        "10-good thaw",
    ];
    ensure!(
        runs(&backup)? == expected,
        "expected {expected:?} in {backup}"
    );
    let reason = backup["reason"].as_str().unwrap_or_default();
    ensure!(reason.starts_with("hook 20-bad failed"), "{backup}");
    let text = file_systems.program(&["status"])?;
    ensure!(
        text.contains("  last backup  ") && text.contains(", failed: hook 20-bad failed"),
        "expected the last backup in {text}"
    );
    // The THAW that the host sends nevertheless is not a backup.
    thaw(&mut host)?;
    expect_last(&file_systems, &[("outcome", "failed".into())])?;
    expect_counted(
        &file_systems,
        &[
            ("/backups/consistent", 1),
            ("/backups/failed", 1),
            ("/freezes", 1),
            ("/thawed_by/host", 1),
            ("/hooks_failed", 1),
        ],
    )?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn time_limit(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    file_systems.configure("[vss]\ntime-limit = 10")?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.wait_thawed(&[&point], "after its time limit")?;
    let backup = until(SETTLE_TIME, "the backup to be in the status", || {
        let last = status(&file_systems)?["last_backup"].clone();
        Ok((!last.is_null()).then_some(last))
    })?;
    expect_field(&backup, "outcome", &"inconsistent".into())?;
    ensure!(backup["frozen_usec"].as_u64() > Some(9_000_000), "{backup}");
    expect_failure(host.thaw()?, "a THAW after the time limit")?;
    expect_last(&file_systems, &[("began", backup["began"].clone())])?;
    expect_counted(
        &file_systems,
        &[("/backups/inconsistent", 1), ("/thawed_by/time_limit", 1)],
    )?;
    stage.expect_working(&mut host)
}

/// After an agent was killed in a backup, the next one reports that backup.
pub(in super::super) fn killed(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points) = two(stage)?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    stage.machine().kill()?;
    file_systems.wait_thawed(&points, "after the program was killed")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    expect_last(
        &file_systems,
        &[
            ("file_systems", points.len().into()),
            ("outcome", "inconsistent".into()),
        ],
    )?;
    Ok(())
}
