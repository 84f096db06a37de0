//! Which file systems stand still.

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::super::stage::{VssStage, expect};
use super::file_systems::{FileSystems, Kind, MOUNTS};
use super::{freeze, round, thaw};

pub(in super::super) fn kinds(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let mut points = Vec::new();
    for kind in Kind::ALL {
        points.push(file_systems.make(kind, kind.name())?);
    }
    points.extend(file_systems.root()?);
    let mut host = stage.connect()?;
    for _ in 0..3 {
        file_systems.expect_thawed(&points, "before a FREEZE")?;
        round(&file_systems, &points, &mut host)?;
    }
    stage.expect_working(&mut host)
}

/// The same file system in several places, or parts of it.
pub(in super::super) fn mounted_often(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (ext4, btrfs) = (
        file_systems.make(Kind::Ext4, "ext4")?,
        file_systems.make(Kind::Btrfs, "btrfs")?,
    );
    let script = r#"
        set -e
        cd "$0"
        mkdir again bound "$1/part"
        mount -t ext4 "$2" again
        mount -o bind "$1/part" bound
        mkdir first second
        btrfs subvolume create "$3/first" >/dev/null
        btrfs subvolume create "$3/second" >/dev/null
        mount -t btrfs -o subvol=first "$4" first
        mount -t btrfs -o subvol=second "$4" second
    "#;
    let (ext4_on, btrfs_on) = (file_systems.source(&ext4)?, file_systems.source(&btrfs)?);
    file_systems.script(script, &[MOUNTS, &ext4, &ext4_on, &btrfs, &btrfs_on])?;
    let points: Vec<String> = ["ext4", "again", "bound", "btrfs", "first", "second"]
        .map(|name| format!("{MOUNTS}/{name}"))
        .into();
    let mut host = stage.connect()?;
    round(&file_systems, &points, &mut host)?;
    stage.expect_working(&mut host)
}

/// Mounts that grow from one by doubling.
const MANY: &str = r#"
    set -e
    mkdir "$0/many"
    mount -t tmpfs many "$0/many"
    mkdir "$0/many/0"
    n=0
    while [ $n -lt 45 ]; do
        mkdir "$0/many/0/$n"
        n=$((n + 1))
    done
    mkdir "$1/part"
    for place in "$0"/many/0/*; do
        mount -o bind "$1/part" "$place"
    done
    n=1
    while [ $n -lt 45 ]; do
        mkdir "$0/many/$n"
        mount -o rbind "$0/many/0" "$0/many/$n"
        n=$((n + 1))
    done
    grep -c " $0/many/" /proc/self/mountinfo
"#;

pub(in super::super) fn many_mounts(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    let mounts: u32 = file_systems
        .script(MANY, &[MOUNTS, &point])?
        .trim()
        .parse()?;
    ensure!(mounts >= 2000, "only {mounts} mounts were made");
    let mut host = stage.connect()?;
    for _ in 0..2 {
        round(&file_systems, &[&point], &mut host)?;
    }
    stage.expect_working(&mut host)
}

/// Were the lower one frozen first, the upper could not be written back to it.
pub(in super::super) fn loop_files(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let lower = file_systems.make(Kind::Ext4, "lower")?;
    let script = r#"
        set -e
        truncate -s 20M "$1/file"
        mkfs.ext4 -q -F "$1/file"
        mkdir "$0/upper" "$0/above"
        mount -t ext4 -o loop "$1/file" "$0/upper"
        truncate -s 8M "$0/upper/file"
        mkfs.ext4 -q -F "$0/upper/file"
        mount -t ext4 -o loop "$0/upper/file" "$0/above"
        echo text >"$0/above/text"
        echo text >"$0/upper/text"
        echo text >"$1/text"
    "#;
    file_systems.script(script, &[MOUNTS, &lower])?;
    let points = [lower, format!("{MOUNTS}/upper"), format!("{MOUNTS}/above")];
    let mut host = stage.connect()?;
    round(&file_systems, &points, &mut host)?;
    let last = file_systems.script("echo more >\"$0/above/more\" && sync", &[MOUNTS]);
    last.map(drop)?;
    stage.expect_working(&mut host)
}

/// What cannot or need not be frozen stands in nobody's way.
pub(in super::super) fn others(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (plain, read_only) = (
        file_systems.make(Kind::Ext4, "plain")?,
        file_systems.make(Kind::Xfs, "read-only")?,
    );
    let script = r#"
        set -e
        mount -o remount,ro "$2"
        cd "$0"
        mkdir memory overlay "$1/upper" "$1/work"
        mount -t tmpfs memory memory
        mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" over overlay
    "#;
    file_systems.script(script, &[MOUNTS, &plain, &read_only])?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&[&plain], "after a FREEZE")?;
    file_systems.expect_thawed(&[&read_only], "after a FREEZE")?;
    let script = "echo text >\"$0/memory/text\"";
    file_systems.script(script, &[MOUNTS]).map(drop)?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&[&plain], "after a THAW")?;
    let script = "echo text >\"$0/overlay/text\"";
    file_systems.script(script, &[MOUNTS]).map(drop)?;
    stage.expect_working(&mut host)
}

/// What somebody else froze is not the host's to thaw.
pub(in super::super) fn beforehand(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (theirs, ours) = (
        file_systems.make(Kind::Ext4, "theirs")?,
        file_systems.make(Kind::Xfs, "ours")?,
    );
    let mut host = stage.connect()?;
    file_systems.freeze(&theirs)?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&[&theirs, &ours], "after a FREEZE")?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&[&ours], "after a THAW")?;
    file_systems.expect_frozen(&[&theirs], "by somebody else, after a THAW")?;
    file_systems.thaw(&theirs)?;
    // What they thaw while it is ours is in no consistent backup.
    freeze(&mut host)?;
    file_systems.thaw(&theirs)?;
    file_systems.expect_frozen(&[&ours], "after a FREEZE")?;
    expect(
        host.thaw()?,
        Status::FAIL,
        "a THAW of what somebody else has thawed",
    )?;
    file_systems.expect_thawed(&[&theirs, &ours], "after a THAW")?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn twice(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    // What it is answered with is the guest's affair; it has to be true.
    match host.freeze()? {
        Status::OK => file_systems.expect_frozen(&[&point], "after a second FREEZE")?,
        _ => file_systems.expect_thawed(&[&point], "after a second FREEZE that failed")?,
    }
    thaw(&mut host)?;
    file_systems.expect_thawed(&[&point], "after one THAW")?;
    thaw(&mut host)?;
    stage.expect_working(&mut host)
}

/// Only what the configuration names.
pub(in super::super) fn configured(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (a, b, c) = (
        file_systems.make(Kind::Ext4, "data-a")?,
        file_systems.make(Kind::Ext4, "data-b")?,
        file_systems.make(Kind::Xfs, "other")?,
    );
    let lines = format!(
        "[vss.include]\nmount-points = [\"{MOUNTS}/data-*\"]\n\
         [vss.exclude]\nmount-points = [\"{b}\"]"
    );
    file_systems.configure(&lines)?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&[&a], "which is included")?;
    file_systems.expect_thawed(&[&b, &c], "which is not included, or is excluded")?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&[&a, &b, &c], "after a THAW")
}

/// What lies on a stack of devices is frozen before what carries the stack.
pub(in super::super) fn device_mapper(stage: &mut VssStage<'_>) -> Result<()> {
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
        dmsetup create upper --table "0 $size linear $disk 0"
        mkfs.ext4 -q -F /dev/mapper/upper
        mkdir "$0/upper"
        mount -t ext4 /dev/mapper/upper "$0/upper"
        echo text >"$0/upper/text"
    "#;
    file_systems.script(script, &[MOUNTS, &lower])?;
    let points = [lower, format!("{MOUNTS}/upper")];
    let mut host = stage.connect()?;
    round(&file_systems, &points, &mut host)?;
    stage.expect_working(&mut host)
}

/// There is nothing in a FAT that a freeze makes whole.
pub(in super::super) fn fat(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let (plain, fat) = (
        file_systems.make(Kind::Ext4, "plain")?,
        file_systems.make_by(&["mkfs.vfat"], "vfat", "fat")?,
    );
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    file_systems.expect_frozen(&[&plain], "after a FREEZE")?;
    let script = "echo text >\"$0/text\"";
    file_systems.script(script, &[&fat]).map(drop)?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&[&plain], "after a THAW")?;
    stage.expect_working(&mut host)
}
