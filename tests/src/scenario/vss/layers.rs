//! What file systems lie on, and which of them the configuration means.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::stage::VssStage;
use super::file_systems::{FileSystems, Kind, MOUNTS, NOTES};
use super::{freeze, round, thaw};

/// What the program would do, as its JSON has it.
fn plan(file_systems: &FileSystems) -> Result<Value> {
    let json = file_systems.program(&["vss", "plan", "--json"])?;
    serde_json::from_str(&json).with_context(|| json)
}

/// Where file systems below [`MOUNTS`] are mounted, in the order of a list.
fn points<'a>(plan: &'a Value, list: &str) -> Result<Vec<&'a str>> {
    let items = array(plan, list)?.iter();
    let points = items.filter_map(|it| it.pointer("/mount_points/0")?.as_str());
    let is_below = |it: &&str| Path::new(it).parent() == Some(Path::new(MOUNTS));
    Ok(points.filter(is_below).collect())
}

/// A file system that is frozen.
fn item<'a>(plan: &'a Value, point: &str) -> Result<&'a Value> {
    let mut items = array(plan, "freeze")?.iter();
    let item = items.find(|it| it.pointer("/mount_points/0").is_some_and(|it| it == point));
    item.with_context(|| format!("{point} is not in {plan}"))
}

fn array<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    let array = value.get(name).and_then(Value::as_array);
    array.with_context(|| format!("there is no array {name:?} in {value}"))
}

/// Were the file system frozen first that has the log, or the journal, the others
/// could not be frozen: they would wait for it.
pub(in super::super) fn external_log(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let carrier = file_systems.make(Kind::Ext4, "carrier")?;
    // Each device goes by itself when its file system does.
    let script = r#"
        set -e
        attach() {
            truncate -s "$2" "$1"
            device=$(losetup -f)
            losetup "$device" "$1"
        }
        attach "$2/xfs.img" 40M
        xfs=$device
        attach "$1/log" 12M
        mkfs.xfs -q -f --unsupported -l "logdev=$device" "$xfs" 2>/dev/null
        mkdir "$0/xfs"
        mount -t xfs -o "logdev=$device" "$xfs" "$0/xfs"
        losetup -d "$device"
        losetup -d "$xfs"
        attach "$2/ext4.img" 8M
        ext4=$device
        attach "$1/journal" 3M
        mkfs.ext4 -q -F -b 1024 -O journal_dev "$device"
        mkfs.ext4 -q -F -b 1024 -J "device=$device" "$ext4"
        mkdir "$0/ext4"
        mount -t ext4 "$ext4" "$0/ext4"
        losetup -d "$device"
        losetup -d "$ext4"
    "#;
    file_systems.script(script, &[MOUNTS, &carrier, NOTES])?;
    let names = ["ext4", "xfs"].map(|name| format!("{MOUNTS}/{name}"));
    let plan = plan(&file_systems)?;
    let order = points(&plan, "freeze")?;
    // Frozen in another order, this would hang.
    ensure!(
        order.last() == Some(&&*carrier),
        "{carrier} is not frozen last: {order:?}"
    );
    for (point, file) in names.iter().zip(["journal", "log"]) {
        let layers = array(item(&plan, point)?, "layers")?;
        let file = format!("{carrier}/{file}");
        let is_file = |layer: &Value| layer.get("file").is_some_and(|it| *it == *file);
        ensure!(
            layers.iter().any(is_file),
            "{point} is not on {file}: {layers:?}"
        );
    }
    let points = [&[carrier][..], &names].concat();
    let mut host = stage.connect()?;
    for _ in 0..2 {
        round(&file_systems, &points, &mut host)?;
    }
    stage.expect_working(&mut host)
}

/// The plan lists a stack of devices down to its files, and a pattern may name any link
/// to a device.
pub(in super::super) fn layers(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let lower = file_systems.make(Kind::Xfs, "lower")?;
    let script = r#"
        set -e
        truncate -s 20M "$1/file"
        disk=$(losetup -f)
        losetup "$disk" "$1/file"
        size=$(cat "/sys/block/${disk##*/}/size")
        echo "$disk" >>/run/vss/disks
        export DM_DISABLE_UDEV=1
        dmsetup create upper --uuid LVM-made-up --table "0 $size linear $disk 0"
        mkfs.ext4 -q -F /dev/mapper/upper
        mkdir -p "$0/upper" /dev/group
        ln -sf ../mapper/upper /dev/group/volume
        mount -t ext4 /dev/mapper/upper "$0/upper"
        echo "$disk"
    "#;
    let disk = file_systems.script(script, &[MOUNTS, &lower])?;
    let disk = disk.trim();
    let upper = format!("{MOUNTS}/upper");
    let before = plan(&file_systems)?;
    let item = item(&before, &upper)?;
    let layers = array(item, "layers")?;
    let expected = [
        serde_json::json!({
            "device": item.pointer("/devices/0"),
            "kind": "lvm",
            "name": "upper",
            "below": [disk],
        }),
        serde_json::json!({
            "device": disk,
            "kind": "loop",
            "file": format!("{lower}/file"),
            "below": [],
        }),
    ];
    ensure!(*layers == expected, "{layers:?} is not {expected:?}");

    file_systems.configure("[vss.exclude]\ndevices = [\"/dev/group/volume\"]")?;
    let after = plan(&file_systems)?;
    ensure!(
        points(&after, "freeze")? == [lower.as_str()] && points(&after, "left_out")? == [upper],
        "a device is not excluded by a link to it: {after}"
    );
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)
}

/// Patterns as people write them, and some that mean nothing.
pub(in super::super) fn patterns(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (a, b, c) = (
        file_systems.make(Kind::Ext4, "a")?,
        file_systems.make(Kind::Ext4, "b")?,
        file_systems.make(Kind::Ext4, "c")?,
    );
    let link = format!("{NOTES}/link");
    file_systems
        .script("ln -s \"$0\" \"$1\"", &[&b, &link])
        .map(drop)?;
    for wrong in ["mount-points = [\"mnt\"]", "devices = [\"sdb\"]"] {
        file_systems.configure(&format!("[vss.exclude]\n{wrong}"))?;
        match file_systems.program(&["check-config"]) {
            Err(error) if format!("{error:#}").contains("line 4,") => {}
            other => bail!("{wrong} in the configuration: {other:?}"),
        }
    }
    file_systems.configure(&format!(
        "[vss.exclude]\nmount-points = [\"{MOUNTS}//a/\", \"{link}\", \"/nowhere\"]\ntypes = [\"xsf\"]"
    ))?;
    let plan = plan(&file_systems)?;
    let unmatched = array(&plan, "unmatched_patterns")?;
    let patterns = unmatched.iter().filter_map(|it| it.get("pattern"));
    let patterns: Vec<_> = patterns.collect();
    ensure!(patterns == ["/nowhere", "xsf"], "{unmatched:?}");
    // The log also has the lines of an earlier program.
    let count = |stage: &mut VssStage<'_>| {
        let log = stage.machine().log();
        log.matches("\"/nowhere\" in mount-points of [vss.exclude] matches no file system")
            .count()
    };
    let before = count(stage);
    let mut host = stage.connect()?;
    for _ in 0..2 {
        freeze(&mut host)?;
        file_systems.expect_frozen(&[&c], "which is not excluded")?;
        file_systems.expect_thawed(&[&a, &b], "which are excluded")?;
        thaw(&mut host)?;
    }
    stage
        .expect_logged(&["\"/nowhere\" in mount-points of [vss.exclude] matches no file system"])?;
    let times = count(stage) - before;
    ensure!(
        times == 1,
        "a pattern that matches nothing was logged {times} times"
    );
    stage.expect_working(&mut host)
}
