//! Rehearsals: backups that an administrator starts.

// Indexing a JSON value returns null for a missing key.
#![expect(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::stage::{SETTLE_TIME, VssStage};
use super::backup_status::{expect_field, expect_last, hook, runs, status};
use super::file_systems::{FileSystems, Kind, NOTES};
use super::{freeze, round, thaw, two};
use crate::wait::until;

/// Runs a rehearsal and returns its output.
fn rehearse(file_systems: &FileSystems, options: &[&str]) -> Result<String> {
    file_systems.program(&[&["vss", "rehearse"], options].concat())
}

/// Starts a rehearsal in the background; `$1` is the program, options follow.
const BEGIN: &str = r#"
cd "$0"
rm -f ended output
{
    "$@" >output 2>&1 &
    echo $! >client
    wait $!
    echo $? >ended
} >/dev/null 2>&1 &
"#;

fn begin(file_systems: &FileSystems, options: &[&str]) -> Result<()> {
    let command = [&[NOTES, file_systems.path(), "vss", "rehearse"], options].concat();
    file_systems.script(BEGIN, &command).map(drop)
}

/// Waits for the end of a rehearsal that was begun and returns its exit status and
/// output.
fn ended(file_systems: &FileSystems) -> Result<(i32, String)> {
    let script = "cd \"$0\" && [ -s ended ] && cat ended output";
    let output = until(SETTLE_TIME, "the end of the rehearsal", || {
        Ok(file_systems.script(script, &[NOTES]).ok())
    })?;
    let (status, output) = output.split_once('\n').context("no status")?;
    Ok((status.parse()?, output.to_owned()))
}

/// Begins a rehearsal that holds everything frozen for a minute.
fn hold(file_systems: &FileSystems, points: &[String]) -> Result<()> {
    begin(file_systems, &["--hold", "60", "--json"])?;
    until(SETTLE_TIME, "the rehearsal to hold", || {
        let vss = status(file_systems)?;
        let operation = match vss["operation"].is_null() {
            true => &vss["devices"][0]["operation"],
            false => &vss["operation"],
        };
        Ok((operation["kind"] == "frozen" && operation["rehearsal"] == true).then_some(()))
    })?;
    file_systems.expect_frozen(points, "by a rehearsal")
}

/// Expects a rehearsal that was begun to end early, for a reason with these words.
fn expect_ended(file_systems: &FileSystems, outcome: &str, words: &str) -> Result<()> {
    let (status, output) = ended(file_systems)?;
    ensure!(
        status == 1,
        "expected exit status 1, it was {status}: {output}"
    );
    let backup: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
    expect_field(&backup, "outcome", &outcome.into())?;
    let reason = backup["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(words), "expected {words:?} in {backup}");
    Ok(())
}

/// Expects that a rehearsal is refused with these words.
fn expect_refused(file_systems: &FileSystems, words: &str) -> Result<()> {
    let Err(error) = rehearse(file_systems, &[]) else {
        anyhow::bail!("a rehearsal was not refused");
    };
    let error = format!("{error:#}");
    ensure!(error.contains(words), "expected {words:?} in {error:?}");
    Ok(())
}

pub(in super::super) fn works(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points) = two(stage)?;
    hook(&file_systems, "10-good", "")?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    let output = rehearse(&file_systems, &["--hold", "0", "--json"])?;
    file_systems.expect_thawed(&points, "after a rehearsal")?;
    let backup: Value = serde_json::from_str(&output)?;
    let fields = [
        ("kind", "rehearsal".into()),
        ("outcome", "consistent".into()),
        ("file_systems", points.len().into()),
    ];
    for (name, expected) in &fields {
        expect_field(&backup, name, expected)?;
    }
    ensure!(backup["frozen_usec"].as_u64() > Some(0), "{backup}");
    let expected = ["10-good freeze", "10-good thaw"];
    ensure!(
        runs(&backup)? == expected,
        "expected {expected:?} in {backup}"
    );
    let last = expect_last(&file_systems, &fields)?;
    ensure!(
        last == backup,
        "the status has {last}, the rehearsal printed {backup}"
    );

    let text = rehearse(&file_systems, &[])?;
    ensure!(
        text.contains(&format!("{} file systems frozen: ", points.len()))
            && text.ends_with("success\n"),
        "{text}"
    );
    // One that holds for 2 s and ends by itself.
    begin(&file_systems, &["--hold", "2", "--json"])?;
    let (code, output) = ended(&file_systems)?;
    let backup: Value = serde_json::from_str(&output)?;
    ensure!(
        code == 0 && backup["frozen_usec"].as_u64() >= Some(2_000_000),
        "exit status {code}: {output}"
    );
    round(&file_systems, &points, &mut host).context("after rehearsals")?;
    expect_last(&file_systems, &[("kind", "backup".into())])?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn hooks(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    hook(&file_systems, "10-good", "")?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    begin(&file_systems, &["--hooks-only", "--hold", "60", "--json"])?;
    until(SETTLE_TIME, "the applications to be at rest", || {
        let vss = status(&file_systems)?;
        Ok((vss["devices"][0]["operation"]["kind"] == "frozen").then_some(()))
    })?;
    file_systems.expect_thawed(&[&point], "by a rehearsal of the hooks")?;
    freeze(&mut host)?;
    expect_ended(&file_systems, "inconsistent", "the host asked for a backup")?;
    file_systems.expect_frozen(&[&point], "by the host")?;
    thaw(&mut host)?;
    let output = rehearse(&file_systems, &["--hooks-only", "--hold", "0", "--json"])?;
    let backup: Value = serde_json::from_str(&output)?;
    for (name, expected) in [
        ("kind", "hooks-only".into()),
        ("outcome", "consistent".into()),
        ("file_systems", 0.into()),
        ("frozen_usec", Value::Null),
    ] {
        expect_field(&backup, name, &expected)?;
    }
    let expected = ["10-good freeze", "10-good thaw"];
    ensure!(
        runs(&backup)? == expected,
        "expected {expected:?} in {backup}"
    );

    // One that fails at the thaw is a failure of the rehearsal.
    hook(&file_systems, "20-bad", "[ $1 = freeze ]")?;
    begin(&file_systems, &["--hooks-only", "--hold", "0", "--json"])?;
    let (code, output) = ended(&file_systems)?;
    let backup: Value = serde_json::from_str(&output)?;
    expect_field(&backup, "outcome", &"consistent".into())?;
    ensure!(code == 1, "expected exit status 1, it was {code}: {output}");
    stage.expect_working(&mut host)
}

/// A backup of the host takes precedence over a rehearsal.
pub(in super::super) fn host_first(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points) = two(stage)?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    expect_refused(&file_systems, "a backup of the host is in progress")?;
    file_systems.expect_frozen(&points, "after a rehearsal was refused")?;
    thaw(&mut host)?;

    hold(&file_systems, &points)?;
    expect_refused(&file_systems, "another rehearsal")?;
    stage.expect_working(&mut host)?;
    file_systems.expect_frozen(&points, "after the host has asked something")?;
    freeze(&mut host)?;
    expect_ended(&file_systems, "inconsistent", "the host asked for a backup")?;
    file_systems.expect_frozen(&points, "by the host")?;
    expect_field(
        &status(&file_systems)?["devices"][0]["operation"],
        "rehearsal",
        &false.into(),
    )?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&points, "after a THAW")?;
    expect_last(
        &file_systems,
        &[("kind", "backup".into()), ("outcome", "consistent".into())],
    )?;

    // A THAW from the host meanwhile has no freeze of the host to thaw.
    hold(&file_systems, &points)?;
    thaw(&mut host)?;
    expect_ended(&file_systems, "inconsistent", "the host asked for a backup")?;
    file_systems.expect_thawed(&points, "after a THAW")?;

    // The hooks of a rehearsal do not keep the host waiting.
    let hangs = format!("[ -e {NOTES}/hung ] || {{ : >{NOTES}/hung; exec sleep 600; }}");
    hook(&file_systems, "10-hangs", &hangs)?;
    begin(&file_systems, &["--json"])?;
    until(SETTLE_TIME, "the hook to hang", || {
        Ok(file_systems
            .script(&format!("[ -e {NOTES}/hung ]"), &[])
            .ok())
    })?;
    round(&file_systems, &points, &mut host)?;
    expect_ended(&file_systems, "failed", "the host sent a request")?;
    stage.expect_working(&mut host)
}

/// Whatever ends a rehearsal early thaws.
pub(in super::super) fn ended_early(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points) = two(stage)?;
    file_systems.configure("[vss]\ntime-limit = 10")?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    hold(&file_systems, &points)?;
    file_systems.script("kill -9 $(cat \"$0/client\")", &[NOTES])?;
    file_systems.wait_thawed(&points, "after the client was killed")?;
    until(SETTLE_TIME, "the rehearsal to be in the status", || {
        let last = status(&file_systems)?["last_backup"].clone();
        Ok((last["outcome"] == "inconsistent").then_some(()))
    })?;

    hold(&file_systems, &points)?;
    file_systems.wait_thawed(&points, "after the time limit")?;
    expect_ended(
        &file_systems,
        "inconsistent",
        "the time limit of 10 s was reached",
    )?;
    // None of that was a backup of the host.
    thaw(&mut host)?;

    hold(&file_systems, &points)?;
    file_systems.program(&["thaw"])?;
    file_systems.expect_thawed(&points, "after `hyperv-agent thaw`")?;
    file_systems.script("kill -9 $(cat \"$0/client\")", &[NOTES])?;
    round(&file_systems, &points, &mut host)?;

    hold(&file_systems, &points)?;
    stage.machine().stop().context("stopping the program")?;
    file_systems.expect_thawed(&points, "after the program was stopped")?;
    expect_ended(&file_systems, "inconsistent", "the agent ended")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    // The client learned of its end; to the host it was not a backup.
    thaw(&mut host)?;

    hold(&file_systems, &points)?;
    stage.machine().kill()?;
    file_systems.wait_thawed(&points, "after the program was killed")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    // Not a backup of the host that failed.
    expect_last(
        &file_systems,
        &[
            ("kind", "rehearsal".into()),
            ("outcome", "inconsistent".into()),
        ],
    )?;
    round(&file_systems, &points, &mut host)?;
    stage.expect_working(&mut host)
}

/// Rehearsals work while the host offers no device.
pub(in super::super) fn without_device(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points) = two(stage)?;
    hook(&file_systems, "10-good", "")?;
    stage.machine().start()?;
    until(SETTLE_TIME, "the program to listen", || {
        Ok(status(&file_systems).ok())
    })?;
    let backup: Value =
        serde_json::from_str(&rehearse(&file_systems, &["--hold", "0", "--json"])?)?;
    expect_field(&backup, "file_systems", &points.len().into())?;
    expect_field(&backup, "outcome", &"consistent".into())?;
    let last = status(&file_systems)?["last_backup"].clone();
    ensure!(
        last == backup,
        "the status has {last}, the rehearsal printed {backup}"
    );

    hold(&file_systems, &points)?;
    let mut host = stage.connect()?;
    expect_ended(
        &file_systems,
        "inconsistent",
        "the agent ended or lost its device",
    )?;
    round(&file_systems, &points, &mut host)?;
    stage.stop()?;

    stage.rescind()?;
    stage.machine().start()?;
    until(SETTLE_TIME, "the program to listen", || {
        Ok(status(&file_systems).ok())
    })?;
    hold(&file_systems, &points)?;
    stage.machine().stop().context("stopping the program")?;
    file_systems.expect_thawed(&points, "after the program was stopped")?;
    expect_ended(&file_systems, "inconsistent", "the agent ended")?;
    let mut host = stage.connect()?;
    round(&file_systems, &points, &mut host)?;
    stage.expect_working(&mut host)
}
