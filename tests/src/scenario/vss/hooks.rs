//! Programs that let applications come to rest.

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::super::stage::{SETTLE_TIME, VssStage, expect, expect_failure};
use super::shelf::{Kind, NOTES, Shelf};
use super::{freeze, round, thaw};
use crate::vss::Operation;
use crate::wait::until;

/// Where the agent looks for them.
const DIRECTORY: &str = "/etc/hyperv-agent/vss.d";

/// Makes a hook that notes its name and what it is told, and does what `does`
/// says.
fn hook(shelf: &Shelf, name: &str, does: &str) -> Result<()> {
    let path = format!("{DIRECTORY}/{name}");
    let text = format!("#!/bin/sh\necho \"{name} $1\" >>{NOTES}/hooks\n{does}\n");
    shelf.write(&path, &text)?;
    shelf.script("chmod 755 \"$0\"", &[&path]).map(drop)
}

/// What hooks have noted since the last look.
fn noted(shelf: &Shelf) -> Result<Vec<String>> {
    let script = "cat \"$0\" 2>/dev/null; rm -f \"$0\"";
    let said = shelf.script(script, &[&format!("{NOTES}/hooks")])?;
    Ok(said.lines().map(str::to_owned).collect())
}

fn expect_noted(shelf: &Shelf, expected: &[&str], when: &str) -> Result<()> {
    let found = noted(shelf)?;
    ensure!(
        found == expected,
        "expected the hooks to be told {expected:?} {when}; they were told {found:?}"
    );
    Ok(())
}

pub(in super::super) fn in_order(stage: &mut VssStage<'_>) -> Result<()> {
    let shelf = Shelf::new(stage)?;
    let point = shelf.make(Kind::Ext4, "ext4")?;
    // That it can write shows that nothing is frozen while it runs.
    let writes = format!("echo \"$1\" >{point}/application");
    hook(&shelf, "10-first", &writes)?;
    hook(&shelf, "20-second", &writes)?;
    hook(&shelf, "20-second.dpkg-old", "")?;
    hook(&shelf, "30-left~", "")?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    expect_noted(
        &shelf,
        &["10-first freeze", "20-second freeze"],
        "at a FREEZE",
    )?;
    shelf.expect_frozen(&[&point], "after a FREEZE")?;
    thaw(&mut host)?;
    shelf.expect_thawed(&[&point], "after a THAW")?;
    expect_noted(&shelf, &["20-second thaw", "10-first thaw"], "at a THAW")?;
    thaw(&mut host)?;
    expect_noted(&shelf, &[], "at a THAW of nothing")?;
    stage.expect_working(&mut host)
}

/// One that does not let it freeze, by what it does.
fn refused(stage: &mut VssStage<'_>, does: &str) -> Result<()> {
    let shelf = Shelf::new(stage)?;
    let point = shelf.make(Kind::Ext4, "ext4")?;
    hook(&shelf, "10-first", "")?;
    hook(&shelf, "20-second", does)?;
    hook(&shelf, "30-third", "")?;
    shelf.configure("[vss.hooks]\ntime-limit = 1")?;
    let mut host = stage.connect()?;
    expect_failure(host.freeze()?, "a FREEZE that a hook does not let be")?;
    shelf.expect_thawed(&[&point], "after a FREEZE that failed")?;
    let told = [
        "10-first freeze",
        "20-second freeze",
        "20-second freeze-failed",
        "10-first freeze-failed",
    ];
    expect_noted(&shelf, &told, "at a FREEZE that failed")?;
    let left = shelf.script("grep -ls '^slee[p]' /proc/[0-9]*/cmdline || :", &[])?;
    ensure!(left.is_empty(), "what the hook started still runs: {left}");
    // The host asks for a thaw even so.
    thaw(&mut host)?;
    hook(&shelf, "20-second", "")?;
    noted(&shelf)?;
    round(&shelf, &[&point], &mut host).context("once the hook lets it be")?;
    stage.expect_working(&mut host)
}

/// Whoever may write to a hook could run what he likes as root.
pub(in super::super) fn unsafe_one(stage: &mut VssStage<'_>) -> Result<()> {
    let shelf = Shelf::new(stage)?;
    let point = shelf.make(Kind::Ext4, "ext4")?;
    hook(&shelf, "10-first", "")?;
    hook(&shelf, "20-second", "")?;
    let path = format!("{DIRECTORY}/20-second");
    let mut host = stage.connect()?;
    for (worse, better) in [("chmod 777", "chmod 755"), ("chown 1", "chown 0")] {
        shelf.script(&format!("{worse} \"$0\""), &[&path])?;
        expect_failure(host.freeze()?, &format!("a FREEZE after {worse} of a hook"))?;
        shelf.expect_thawed(&[&point], "after a FREEZE that failed")?;
        let told = noted(&shelf)?;
        ensure!(
            !told.iter().any(|told| told.starts_with("20-second")),
            "the hook was run after {worse}: {told:?}"
        );
        thaw(&mut host)?;
        shelf.script(&format!("{better} \"$0\""), &[&path])?;
        noted(&shelf)?;
        round(&shelf, &[&point], &mut host).context("once the hook is safe")?;
        noted(&shelf)?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn fails(stage: &mut VssStage<'_>) -> Result<()> {
    refused(stage, "[ \"$1\" != freeze ]")
}

pub(in super::super) fn hangs(stage: &mut VssStage<'_>) -> Result<()> {
    refused(stage, "[ \"$1\" != freeze ] || sleep 600")
}

pub(in super::super) fn goes_on(stage: &mut VssStage<'_>) -> Result<()> {
    let shelf = Shelf::new(stage)?;
    let point = shelf.make(Kind::Ext4, "ext4")?;
    hook(&shelf, "10-first", "exit 1")?;
    shelf.configure("[vss.hooks]\non-failure = \"go-on\"")?;
    let mut host = stage.connect()?;
    expect(host.freeze()?, Status::OK, "a FREEZE whose hook failed")?;
    shelf.expect_frozen(&[&point], "although its hook failed")?;
    thaw(&mut host)?;
    shelf.expect_thawed(&[&point], "after a THAW")?;
    expect_noted(&shelf, &["10-first freeze", "10-first thaw"], "in all")?;
    stage.expect_working(&mut host)
}

/// A hook that hangs, the first time that it is told this.
fn hanging_once(shelf: &Shelf, action: &str) -> Result<()> {
    let does = format!(
        "[ \"$1\" != {action} ] || [ -e {NOTES}/hung ] || {{ echo $$ >{NOTES}/hung; exec sleep 600; }}"
    );
    hook(shelf, "10-first", &does)
}

fn wait_hanging(shelf: &Shelf) -> Result<()> {
    let there = format!("[ -s {NOTES}/hung ]");
    until(SETTLE_TIME, "the hook to hang", || {
        Ok(shelf.script(&there, &[]).ok())
    })?;
    Ok(())
}

/// An agent that is to end waits for no hook, and leaves no application at rest.
pub(in super::super) fn stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let shelf = Shelf::new(stage)?;
    let point = shelf.make(Kind::Ext4, "ext4")?;
    hanging_once(&shelf, "freeze")?;
    let mut host = stage.connect()?;
    host.send(&Operation::Freeze)?;
    wait_hanging(&shelf)?;
    stage.machine().stop().context("stopping the program")?;
    let told = ["10-first freeze", "10-first freeze-failed"];
    expect_noted(&shelf, &told, "by a program that was stopped meanwhile")?;
    let gone = format!("! kill -0 $(cat {NOTES}/hung) 2>/dev/null");
    shelf
        .script(&gone, &[])
        .context("the hook still runs after the program was stopped")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    round(&shelf, &[&point], &mut host)?;
    stage.expect_working(&mut host)
}

/// An agent is killed while a hook is told of the thaw; gives the file system.
fn killed(stage: &mut VssStage<'_>) -> Result<(Shelf, String)> {
    let shelf = Shelf::new(stage)?;
    let point = shelf.make(Kind::Ext4, "ext4")?;
    hanging_once(&shelf, "thaw")?;
    hook(&shelf, "05-before", "")?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    host.send(&Operation::Thaw)?;
    wait_hanging(&shelf)?;
    stage.machine().kill()?;
    shelf.script(&format!("kill $(cat {NOTES}/hung)"), &[])?;
    let told = ["05-before freeze", "10-first freeze", "10-first thaw"];
    expect_noted(&shelf, &told, "until the program was killed")?;
    Ok((shelf, point))
}

/// What hooks are told by whoever ends what the killed agent has begun.
const ENDED: [&str; 2] = ["10-first thaw", "05-before thaw"];

/// The next agent tells those that were not told.
pub(in super::super) fn killed_then_started(stage: &mut VssStage<'_>) -> Result<()> {
    let (shelf, point) = killed(stage)?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect(host.thaw()?, Status::FAIL, "a THAW after it was killed")?;
    expect_noted(&shelf, &ENDED, "by the next program")?;
    round(&shelf, &[&point], &mut host)?;
    stage.expect_working(&mut host)
}

/// So does `hyperv-agent thaw`, where no agent runs.
pub(in super::super) fn killed_then_by_hand(stage: &mut VssStage<'_>) -> Result<()> {
    let (shelf, point) = killed(stage)?;
    shelf.program(&["thaw"]).context("`hyperv-agent thaw`")?;
    expect_noted(&shelf, &ENDED, "by `hyperv-agent thaw`")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect(host.thaw()?, Status::FAIL, "a THAW after it was killed")?;
    expect_noted(&shelf, &[], "by the next program")?;
    round(&shelf, &[&point], &mut host)?;
    stage.expect_working(&mut host)
}
