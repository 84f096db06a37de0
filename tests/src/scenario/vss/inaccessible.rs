//! File systems that are not to be reached like others: in the way of no backup
//! where nobody can write to them, and otherwise named in time.

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;
use serde_json::Value;

use super::super::Skip;
use super::super::stage::{SETTLE_TIME, VssStage, expect};
use super::file_systems::{FileSystems, Kind, MOUNTS};
use super::{freeze, round, thaw};
use crate::vss::{Operation, VssHost};
use crate::wait::until;

/// What `hyperv-agent vss plan --json` says.
fn plan(file_systems: &FileSystems) -> Result<Value> {
    let plan = file_systems.program(&["vss", "plan", "--json"])?;
    Ok(serde_json::from_str(&plan)?)
}

/// The file system in `list` of the plan that is mounted there.
fn find<'a>(plan: &'a Value, list: &str, point: &str) -> Result<&'a Value> {
    let all = plan.get(list).and_then(Value::as_array);
    let is_there = |it: &&Value| {
        let points = it.get("mount_points").and_then(Value::as_array);
        points.is_some_and(|points| points.iter().any(|it| it == point))
    };
    let found = all.into_iter().flatten().find(is_there);
    found.with_context(|| format!("expected {point} among {list:?}; the plan is {plan}"))
}

/// Expects the plan to have it in `list`, with these words in the reason.
fn expect_reason(file_systems: &FileSystems, list: &str, point: &str, words: &str) -> Result<()> {
    let plan = plan(file_systems)?;
    let reason = find(&plan, list, point)?.get("reason");
    ensure!(
        reason
            .and_then(Value::as_str)
            .is_some_and(|reason| reason.contains(words)),
        "expected the plan to say {words:?} of {point}; it says {reason:?}"
    );
    Ok(())
}

/// Expects a FREEZE to fail with these words in the log, and all to go on.
fn expect_refused(
    stage: &mut VssStage<'_>,
    file_systems: &FileSystems,
    points: &[&str],
    host: &mut VssHost,
    words: &[&str],
) -> Result<()> {
    expect(
        host.freeze()?,
        Status::FAIL,
        "a FREEZE that something is in the way of",
    )?;
    file_systems.expect_thawed(points, "after a FREEZE that failed")?;
    stage.expect_logged(words)
}

pub(in super::super) fn made_read_only(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (good, bad) = (
        file_systems.make(Kind::Ext4, "good")?,
        file_systems.make(Kind::Ext4, "bad")?,
    );
    let script = r#"
        set -e
        mount -o remount,errors=remount-ro "$0"
        device=$1
        echo error >"/sys/fs/ext4/${device##*/}/trigger_fs_error"
        ! (: >"$0/file") 2>/dev/null
        # From Linux 6.12 to 6.14 nothing shows it: only the freeze itself is refused.
        ! grep -q " $0 .* - ext4 .*\(emergency_ro\| ro,\)" /proc/self/mountinfo || echo shown
    "#;
    let device = file_systems.source(&bad)?;
    let shown = file_systems
        .script(script, &[&bad, &device])
        .context("making it read-only")?;
    let shown = shown.trim() == "shown";
    if shown {
        expect_reason(&file_systems, "left_out", &bad, "read-only after an error")?;
    }
    let mut host = stage.connect()?;
    round(&file_systems, &[&good], &mut host)?;
    if shown {
        let words = [bad.as_str(), "is left out: the kernel made it read-only"];
        stage.expect_logged(&words)?;
    }
    stage.expect_working(&mut host)
}

/// Nothing says so but that nothing can be read any more.
pub(in super::super) fn shut_down(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let good = file_systems.make(Kind::Ext4, "good")?;
    let bad = [Kind::Xfs, Kind::Ext4]
        .map(|kind| file_systems.make(kind, &format!("bad-{}", kind.name())));
    let [xfs, ext4] = bad;
    let (xfs, ext4) = (xfs?, ext4?);
    // Before Linux 6.15 an ext4 does not show it.
    let script = r#"
        set -e
        xfs_io -x -c shutdown "$0"
        xfs_io -x -c shutdown "$1"
        grep -q " $1 .*,shutdown" /proc/self/mountinfo || umount "$1"
    "#;
    file_systems.script(script, &[&xfs, &ext4])?;
    expect_reason(&file_systems, "left_out", &xfs, "shut down")?;
    let mut host = stage.connect()?;
    round(&file_systems, &[&good], &mut host)?;
    stage.expect_logged(&[&xfs, "is left out: it was shut down"])?;
    stage.expect_working(&mut host)
}

/// Mounts a FUSE file system over a directory whose server never says anything;
/// whoever looks up a path in there waits. It ends with this process.
const HANG: &str = r#"
    set -e
    mknod /run/vss/fuse c 10 229
    exec 3<>/run/vss/fuse
    mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hangs "$0"
    sleep 1000 >/dev/null 2>&1 </dev/null &
    echo $! >>/run/vss/writers
"#;

/// The path to a loop device's file leads through what does not answer.
pub(in super::super) fn path_hangs(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let data = file_systems.make(Kind::Ext4, "data")?;
    let upper = format!("{MOUNTS}/upper");
    let file = format!("{MOUNTS}/server/share/image");
    let script = r#"
        set -e
        mkdir -p "$1/server/share" "$1/server/below" "$0"
        mount --move "$3" "$1/server/below"
        mount -t tmpfs share "$1/server/share"
        truncate -s 20M "$2"
        mkfs.ext4 -q -F "$2"
        mount -t ext4 -o loop "$2" "$0"
    "#;
    let below = file_systems.make(Kind::Ext4, "below")?;
    file_systems.script(script, &[&upper, MOUNTS, &file, &below])?;
    if let Err(error) = file_systems.script(HANG, &[&format!("{MOUNTS}/server")]) {
        return Err(Skip(format!("no FUSE: {error:#}")).into());
    }
    let silent = format!("{file}, which it lies on, does not answer");
    expect_reason(&file_systems, "blocked", &upper, &silent)?;
    // What is below it can be reached all the same.
    let below = format!("{MOUNTS}/server/below");
    for point in [&data, &below] {
        find(&plan(&file_systems)?, "freeze", point)?;
    }
    let mut host = stage.connect()?;
    // The second one waits for nothing.
    for _ in 0..2 {
        let words = [upper.as_str(), &silent];
        expect_refused(stage, &file_systems, &[&data, &upper], &mut host, &words)?;
    }
    stage.expect_working(&mut host)?;

    // What is left out is not looked for.
    stage.machine().stop()?;
    file_systems.configure(&format!("[vss.exclude]\nmount-points = [{upper:?}]"))?;
    expect_reason(&file_systems, "left_out", &upper, "excludes it")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    round(&file_systems, &[data], &mut host)?;
    stage.expect_working(&mut host)
}

/// File systems of which the last one has something yet to be written that waits for
/// a disk: a file of the one before it, which somebody else has frozen.
fn to_be_written(file_systems: &FileSystems) -> Result<[String; 3]> {
    let (data, lower) = (
        file_systems.make(Kind::Ext4, "data")?,
        file_systems.make(Kind::Ext4, "lower")?,
    );
    let upper = format!("{MOUNTS}/upper");
    let script = r#"
        set -e
        dd if=/dev/zero of="$1/image" bs=1M count=20 2>/dev/null
        mkfs.ext4 -q -F "$1/image"
        mkdir "$0"
        mount -t ext4 -o loop "$1/image" "$0"
        sync -f "$0" "$1"
        fsfreeze --freeze "$1"
        echo text >"$0/text"
    "#;
    file_systems.script(script, &[&upper, &lower])?;
    Ok([data, lower, upper])
}

pub(in super::super) fn write_out_hangs(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let [data, lower, upper] = to_be_written(&file_systems)?;
    file_systems.configure("[vss]\nprepare-limit = 3")?;
    let mut host = stage.connect()?;
    let words = ["cannot write out", upper.as_str(), "does not answer"];
    expect_refused(stage, &file_systems, &[&data], &mut host, &words)?;
    // At once: the first one waits still.
    expect_refused(stage, &file_systems, &[&data], &mut host, &words)?;
    file_systems.thaw(&lower)?;
    // And is not in the way any longer than that.
    file_systems.script("sync -f \"$0\"", &[&upper])?;
    file_systems.expect_thawed(&[&data], "when nobody waits for the FREEZE any more")?;
    let points = [data, lower, upper];
    round(&file_systems, &points, &mut host)?;
    stage.expect_working(&mut host)
}

/// The program ends while that waits, and another one serves.
pub(in super::super) fn write_out_stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let points = to_be_written(&file_systems)?;
    let mut host = stage.connect()?;
    host.send(&Operation::Freeze)?;
    let waits = r#"grep -qE '^[0-9]+ \((vss-write-out|vss-job)\) D' /proc/[0-9]*/task/*/stat"#;
    until(SETTLE_TIME, "the disk to be waited for", || {
        Ok(file_systems.script(waits, &[]).ok())
    })?;
    stage.machine().stop()?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)?;
    file_systems.thaw(&points[1])?;
    file_systems.wait_thawed(&points, "after the disk answers")?;
    round(&file_systems, &points, &mut host)?;
    stage.expect_working(&mut host)
}

/// A disk is mounted over the directory in which others are, as the temporary disk
/// of a cloud is over `/mnt`.
pub(in super::super) fn hidden(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (data, cover) = (
        file_systems.make(Kind::Xfs, "data")?,
        file_systems.make(Kind::Ext4, "cover")?,
    );
    let (hidden, over) = (format!("{MOUNTS}/mnt/data"), format!("{MOUNTS}/mnt"));
    let script = r#"
        set -e
        mkdir -p "$2/mnt/data"
        mount --move "$0" "$2/mnt/data"
        exec 3<"$2/mnt/data"
        mount --move "$1" "$2/mnt"
        sleep 1000 >/dev/null 2>&1 </dev/null &
        echo $! >>/run/vss/writers
    "#;
    file_systems.script(script, &[&data, &cover, MOUNTS])?;
    let plan = plan(&file_systems)?;
    let under = find(&plan, "freeze", &hidden)?.get("hidden_under");
    ensure!(
        under.and_then(Value::as_str) == Some(&over),
        "expected {hidden} to be hidden under {over}; the plan is {plan}"
    );
    // By a process that has it open.
    let script = "echo \"/proc/$(sed -n '$p' /run/vss/writers)/fd/3\"";
    let reached = file_systems.script(script, &[])?;
    let points = [reached.trim().to_owned(), over];
    let mounts = "grep -c . /proc/self/mountinfo";
    let before = file_systems.script(mounts, &[])?;
    let mut host = stage.connect()?;
    for _ in 0..2 {
        round(&file_systems, &points, &mut host)?;
    }
    let after = file_systems.script(mounts, &[])?;
    ensure!(
        before == after,
        "expected the {before} mounts as before; there are {after}"
    );
    stage.expect_working(&mut host)
}

/// As in a container, or in a service with `RootImage=`.
pub(in super::super) fn other_namespaces(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (data, inner) = (
        file_systems.make(Kind::Ext4, "data")?,
        file_systems.make(Kind::Xfs, "inner")?,
    );
    let script = r#"
        set -e
        unshare -m sh -c '
            sleep 1000 >/dev/null 2>&1 </dev/null &
            echo $! >>/run/vss/writers
        '
        umount "$0"
        echo "/proc/$(sed -n '$p' /run/vss/writers)/root$0"
    "#;
    let reached = file_systems.script(script, &[&inner])?.trim().to_owned();
    find(&plan(&file_systems)?, "freeze", &reached)?;
    let mut host = stage.connect()?;
    round(&file_systems, &[&data, &reached], &mut host)?;
    stage.expect_working(&mut host)?;

    stage.machine().stop()?;
    file_systems.configure("[vss]\nother-namespaces = false")?;
    expect_reason(&file_systems, "left_out", &reached, "other-namespaces")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&[&data], "after a FREEZE")?;
    file_systems.expect_thawed(&[&reached], "after a FREEZE without it")?;
    thaw(&mut host)?;
    stage.expect_working(&mut host)
}
