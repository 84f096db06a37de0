//! Whatever goes wrong while file systems stand still, they go on.

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::ic::Status;

use super::super::Skip;
use super::super::stage::{SETTLE_TIME, VssStage, expect, expect_closed};
use super::file_systems::{FileSystems, Kind, NOTES};
use super::{freeze, round, thaw, two};
use crate::vss::{Operation, VssHost};
use crate::wait::until;

/// Two file systems, and everything stands still.
fn frozen(stage: &mut VssStage<'_>, lines: &str) -> Result<(FileSystems, Vec<String>, VssHost)> {
    let (file_systems, points) = two(stage)?;
    file_systems.configure(lines)?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&points, "after a FREEZE")?;
    Ok((file_systems, points, host))
}

/// Expects a freeze and a thaw to work again.
fn expect_rounds(
    stage: &VssStage<'_>,
    file_systems: &FileSystems,
    points: &[String],
    host: &mut VssHost,
) -> Result<()> {
    round(file_systems, points, host).context("the next one")?;
    stage.expect_working(host)
}

/// Expects everything to work again after what was frozen was thawed too early, of which
/// the host has to know: its backup is not consistent.
pub(super) fn expect_inconsistent(
    stage: &VssStage<'_>,
    file_systems: &FileSystems,
    points: &[String],
    host: &mut VssHost,
    when: &str,
) -> Result<()> {
    expect(host.thaw()?, Status::FAIL, &format!("a THAW {when}"))?;
    expect_rounds(stage, file_systems, points, host)
}

/// The guard's process, as the guest numbers it.
pub(super) fn guard(file_systems: &FileSystems) -> Result<String> {
    // Processes that end meanwhile are no failure.
    let script = "grep -ls 'vss-guar[d]' /proc/[0-9]*/cmdline || :";
    let found = file_systems.script(script, &[])?;
    let number = found.trim().split('/').nth(2);
    let number = number.filter(|_| found.lines().count() == 1);
    Ok(number
        .with_context(|| {
            format!("expected one process with `vss-guard` among its arguments; found {found:?}")
        })?
        .to_owned())
}

pub(in super::super) fn killed(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, _host) = frozen(stage, "")?;
    stage.machine().kill()?;
    file_systems.wait_thawed(&points, "after the program was killed")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after it was killed",
    )
}

pub(in super::super) fn guard_killed(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "")?;
    file_systems.script("kill -9 \"$0\"", &[&guard(&file_systems)?])?;
    file_systems.wait_thawed(&points, "after its guard was killed")?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "without its guard",
    )?;
    // While nothing is frozen there is none.
    let none = "! grep -qs 'vss-guar[d]' /proc/[0-9]*/cmdline";
    until(SETTLE_TIME, "the guard to end", || {
        Ok(file_systems.script(none, &[]).ok())
    })?;
    expect_rounds(stage, &file_systems, &points, &mut host)
}

/// A guard that was stopped answers nothing, and is not gone.
pub(in super::super) fn guard_stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "")?;
    let guard = guard(&file_systems)?;
    file_systems.script("kill -STOP \"$0\"", &[&guard])?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&points, "after a THAW with a guard that was stopped")?;
    file_systems.script("kill -CONT \"$0\"", &[&guard])?;
    expect_rounds(stage, &file_systems, &points, &mut host)
}

pub(in super::super) fn one_after_the_other(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, _host) = frozen(stage, "")?;
    file_systems.script("kill -9 \"$0\"", &[&guard(&file_systems)?])?;
    file_systems.wait_thawed(&points, "after its guard was killed")?;
    stage.machine().kill()?;
    file_systems.expect_thawed(&points, "after both were killed")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&points, "after a FREEZE")?;
    let guard = guard(&file_systems)?;
    stage.machine().kill()?;
    file_systems.wait_thawed(&points, "after the program was killed")?;
    // It ends by itself when there is nothing left to guard.
    let gone = "! kill -0 \"$0\" 2>/dev/null";
    until(SETTLE_TIME, "the guard to end", || {
        Ok(file_systems.script(gone, &[&guard]).ok())
    })?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect_rounds(stage, &file_systems, &points, &mut host)
}

/// Kills the program and its guard, so that neither can do anything for the other.
pub(super) fn kill_both(stage: &mut VssStage<'_>, file_systems: &FileSystems) -> Result<()> {
    let script = r#"
        set -e
        parent=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$0/status")
        kill -STOP "$parent"
        kill -9 "$0"
    "#;
    file_systems.script(script, &[&guard(file_systems)?])?;
    stage.machine().kill()
}

/// Nobody is left to thaw: the next agent finds what there is to do.
pub(in super::super) fn both_at_once(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, _host) = frozen(stage, "")?;
    kill_both(stage, &file_systems)?;
    file_systems.expect_frozen(&points, "with nobody left to thaw them")?;
    stage.machine().start()?;
    file_systems.wait_thawed(&points, "when the agent is started again")?;
    let mut host = stage.connect()?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after both were killed",
    )
}

/// Both die while they freeze, when the kernel hurries for them.
pub(in super::super) fn both_with_rcu_expedited(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points) = two(stage)?;
    file_systems.own_rcu_expedited()?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.expect_rcu_expedited_off("once all is frozen")?;
    kill_both(stage, &file_systems)?;
    // As it was a moment before.
    file_systems.set_rcu_expedited("1")?;
    file_systems
        .program(&["thaw"])
        .context("`hyperv-agent thaw`")?;
    file_systems.expect_rcu_expedited_off("after `hyperv-agent thaw`")?;
    file_systems.expect_thawed(&points, "after `hyperv-agent thaw`")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after both were killed",
    )?;

    freeze(&mut host)?;
    kill_both(stage, &file_systems)?;
    file_systems.set_rcu_expedited("1")?;
    stage.machine().start()?;
    file_systems.wait_thawed(&points, "when the agent is started again")?;
    let mut host = stage.connect()?;
    file_systems.expect_rcu_expedited_off("when the agent serves again")?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after both were killed",
    )?;
    // Who has the kernel hurry all the time has it so.
    file_systems.set_rcu_expedited("1")?;
    freeze(&mut host)?;
    kill_both(stage, &file_systems)?;
    stage.machine().start()?;
    file_systems.wait_thawed(&points, "when the agent is started again")?;
    let mut host = stage.connect()?;
    let set = file_systems.script("cat /sys/kernel/rcu_expedited", &[])?;
    ensure!(
        set.starts_with('1'),
        "expected /sys/kernel/rcu_expedited to stay as somebody else had set it; it is {set:?}"
    );
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after both were killed",
    )
}

pub(in super::super) fn stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, _host) = frozen(stage, "")?;
    stage.machine().stop().context("stopping the program")?;
    file_systems.wait_thawed(&points, "after the program was stopped")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after it was stopped",
    )
}

/// A package manager puts another file in the place of the program's.
pub(in super::super) fn upgraded(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "")?;
    thaw(&mut host)?;
    let script = "cp \"$0\" \"$0.new\" && mv \"$0.new\" \"$0\"";
    file_systems.script(script, &[file_systems.path()])?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&points, "after a FREEZE with another file in place")?;
    // The guard is of the same version as the program that runs.
    let file = file_systems.script("ls -l \"/proc/$0/exe\"", &[&guard(&file_systems)?])?;
    ensure!(
        file.trim_end().ends_with(" (deleted)"),
        "expected the guard to run from the program's old file; it runs from {file}"
    );
    stage.machine().stop().context("stopping the program")?;
    file_systems.wait_thawed(&points, "after the program was stopped")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect_inconsistent(stage, &file_systems, &points, &mut host, "after an upgrade")
}

/// Mounts where memory can be limited for a group of processes.
const GROUPS: &str = r#"
set -e
mkdir "$0"
if mount -t cgroup2 groups "$0" 2>/dev/null; then
    if grep -qw memory "$0/cgroup.controllers" &&
        echo +memory >"$0/cgroup.subtree_control"; then
        exit
    fi
    umount "$0"
fi
mount -t cgroup -o memory groups "$0"
"#;

/// Makes a group that may have 32 MiB and swaps nothing out, with the program in
/// it, its guard, and two that together take more than there is. The program is the
/// first that the kernel kills: neither of the two is as large as what its score is
/// raised by. The guard and the two see to it that they are never killed; where they
/// lack the privilege for that, the two are next, as larger ones than the guard.
const STARVE: &str = r#"
set -e
group=$0 guard=$1
program=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$guard/status")
mkdir "$group"
for limit in memory.max memory.limit_in_bytes; do
    [ ! -e "$group/$limit" ] || echo 32M >"$group/$limit"
done
for swap in memory.swap.max memory.swappiness; do
    [ ! -e "$group/$swap" ] || echo 0 >"$group/$swap"
done
for process in "$program" "$guard" $$; do
    echo "$process" >"$group/cgroup.procs"
done
echo 1000 >"/proc/$program/oom_score_adj"
if echo -1000 2>/dev/null >"/proc/$$/oom_score_adj"; then
    read -r guarded <"/proc/$guard/oom_score_adj"
    [ "$guarded" = -1000 ] || { echo "the kernel may kill the guard" >&2; exit 1; }
    # With nobody left that may be killed, what takes the memory would wait for ever.
    echo 0 >"/proc/$$/oom_score_adj"
fi
# The program is killed first; one of these may be, too.
dd if=/dev/zero bs=24M count=1 2>/dev/null |
    dd of=/dev/null bs=24M iflag=fullblock 2>/dev/null || :
"#;

pub(in super::super) fn out_of_memory(stage: &mut VssStage<'_>) -> Result<()> {
    let groups = format!("{NOTES}/groups");
    let group = format!("{groups}/hyperv-sim-{}", std::process::id());
    let (file_systems, points, _host) = frozen(stage, "")?;
    if let Err(error) = file_systems.script(GROUPS, &[&groups]) {
        bail!(Skip(format!("memory cannot be limited: {error:#}")));
    }
    let starved = (|| {
        let guard = guard(&file_systems)?;
        file_systems.script(STARVE, &[&group, &guard])?;
        until(SETTLE_TIME, "the kernel to kill the program", || {
            Ok((!stage.machine().is_running()).then_some(()))
        })?;
        file_systems.wait_thawed(&points, "after the kernel has killed the program")
    })();
    // Also where that failed: the groups are the machine's.
    let cleared = until(SETTLE_TIME, "the group to be empty", || {
        Ok(file_systems.script("rmdir \"$0\"", &[&group]).ok())
    });
    file_systems.script("umount \"$0\"", &[&groups])?;
    starved?;
    cleared?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    let when = "after the kernel has killed the program";
    expect_inconsistent(stage, &file_systems, &points, &mut host, when)
}

pub(in super::super) fn device_gone(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "")?;
    stage.rescind()?;
    expect_closed(&mut host)?;
    file_systems.wait_thawed(&points, "after the device went")?;
    let mut host = stage.connect().context("after the device returned")?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after the device went",
    )
}

pub(in super::super) fn reply_refused(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let points = vec![file_systems.make(Kind::Ext4, "one")?];
    let mut host = stage.connect()?;
    let pipe = host.pipe()?.clone();
    pipe.hold_writes()?;
    host.send(&Operation::Freeze)?;
    pipe.wait_for_held(SETTLE_TIME)?;
    file_systems.expect_frozen(&points, "when the guest replies to a FREEZE")?;
    pipe.refuse_writes();
    file_systems.wait_thawed(&points, "after the reply was refused")?;
    let mut host = stage.connect().context("after a refused reply")?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after a refused reply",
    )
}

/// Before a machine hibernates its kernel asks for a thaw by itself, and refuses the
/// reply: the host has not asked.
pub(in super::super) fn hibernates(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "")?;
    let pipe = host.pipe()?.clone();
    pipe.hold_writes()?;
    host.send(&Operation::Thaw)?;
    pipe.wait_for_held(SETTLE_TIME)?;
    pipe.refuse_writes();
    file_systems.expect_thawed(&points, "after the kernel's own THAW")?;
    let mut host = stage.connect().context("after a refused reply")?;
    expect_rounds(stage, &file_systems, &points, &mut host)
}

pub(in super::super) fn time_limit(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "[vss]\ntime-limit = 10")?;
    file_systems.wait_thawed(&points, "after its time limit")?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after the time limit",
    )
}

pub(in super::super) fn by_hand(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "")?;
    file_systems
        .program(&["thaw"])
        .context("`hyperv-agent thaw`")?;
    file_systems.wait_thawed(&points, "after `hyperv-agent thaw`")?;
    expect_inconsistent(
        stage,
        &file_systems,
        &points,
        &mut host,
        "after one by hand",
    )?;
    file_systems
        .program(&["thaw"])
        .context("`hyperv-agent thaw` with nothing frozen")?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn syslog_full(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, points, mut host) = frozen(stage, "")?;
    stage.machine().stall_syslog(true)?;
    let rounds = (|| {
        thaw(&mut host)?;
        file_systems.expect_thawed(&points, "after a THAW")?;
        for _ in 0..5 {
            round(&file_systems, &points, &mut host)?;
        }
        anyhow::Ok(())
    })();
    // Also where that failed: the program's log is asked for then.
    stage.machine().stall_syslog(false)?;
    rounds.context("with a full syslog that nobody reads")?;
    stage.expect_working(&mut host)
}
