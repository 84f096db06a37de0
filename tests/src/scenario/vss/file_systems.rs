//! File systems that a scenario makes, looks at, and copies.
//!
//! All of it is done by commands in the guest, which every small Linux system
//! has. Mount points are below a tmpfs, loop files on another: neither can be
//! frozen, so that what is done here does not wait for a thaw. Where the guest
//! has RAM disks these carry the file systems, since some programs leave out
//! loop devices.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::super::Skip;
use super::super::stage::{SETTLE_TIME, VssStage};
use crate::volumes::Volumes;
use crate::wait::until;

/// Makes a file system in a file of another one, of which nothing waits to be
/// written.
pub(crate) const IN_A_FILE: &str = r#"
    set -e
    dd if=/dev/zero of="$1/file" bs=1M count=16 2>/dev/null
    mkfs.ext4 -q -F "$1/file"
    mkdir "$0"
    mount -t ext4 -o loop,noinit_itable "$1/file" "$0"
    sync -f "$0"
"#;

/// Where file systems are mounted.
pub(crate) const MOUNTS: &str = "/mnt/vss";

/// Where everything else is: loop files, and what scripts note.
pub(crate) const NOTES: &str = "/run/vss";

/// The agent's configuration.
const CONFIGURATION: &str = "/etc/hyperv-agent/config.toml";

/// Thaws what an earlier scenario left, and takes it away.
const CLEAR: &str = r#"
DM_DISABLE_UDEV=1 dmsetup resume upper 2>/dev/null
for pid in $(cat /run/vss/writers 2>/dev/null); do kill -9 $pid 2>/dev/null; done
seen=' '
while read -r _ _ device _ point _; do
    case $point in / | /mnt/vss/*) ;; *) continue ;; esac
    case $seen in *" $device "*) continue ;; esac
    seen="$seen$device "
    fsfreeze --unfreeze "$point" 2>/dev/null
done </proc/self/mountinfo
umount -l /mnt/vss 2>/dev/null
umount /sys/kernel/rcu_expedited 2>/dev/null
for disk in $(cat /run/vss/disks 2>/dev/null); do
    DM_DISABLE_UDEV=1 dmsetup remove upper
    losetup -d "$disk"
done
rm -rf /run/vss /run/hyperv-agent /etc/hyperv-agent
set -e
mkdir -p /mnt/vss /run/vss /etc/hyperv-agent/vss.d
mount -t tmpfs -o mode=755 vss /mnt/vss
"#;

/// Makes a file system: its name, type, size, and how it is made.
const MAKE: &str = r#"
set -e
name=$0 kind=$1 size=$2
shift 2
device=
for disk in /dev/ram*; do
    [ -b "$disk" ] || continue
    case $(cat /run/vss/*.at 2>/dev/null) in *"$disk."*) continue ;; esac
    device=$disk
    break
done
if [ -n "$device" ]; then
    option=rw
else
    device=/run/vss/$name.img option=loop
    truncate -s "$size" "$device"
fi
echo "$device." >"/run/vss/$name.at"
"$@" "$device" >/dev/null 2>/run/vss/made || { cat /run/vss/made >&2; exit 1; }
mkdir "/mnt/vss/$name"
mount -t "$kind" -o "$option" "$device" "/mnt/vss/$name"
"#;

/// Says whether a file system is frozen, and leaves it as it is.
const PROBE: &str = r#"
if error=$(fsfreeze --freeze "$0" 2>&1); then
    fsfreeze --unfreeze "$0" 2>/dev/null || :
    echo thawed
else
    case $error in
        *busy*) echo frozen ;;
        *"not supported"*) echo thawed ;;
        *) echo "$error" ;;
    esac
fi
"#;

/// Puts a file in the place of `/sys/kernel/rcu_expedited`, which is
/// the whole machine's.
const SWITCH: &str = r#"
set -e
echo 0 >/run/vss/rcu_expedited
mount --bind /run/vss/rcu_expedited /sys/kernel/rcu_expedited
"#;

/// A type of file system that stands still for a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    fn maker(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-F"],
            // Smaller than is supported for real use.
            Self::Xfs => &["mkfs.xfs", "-q", "-f", "--unsupported"],
            Self::Btrfs => &["mkfs.btrfs", "-q", "-f", "--mixed"],
        }
    }

    /// Looks a file system over that is not mounted.
    pub(crate) fn checker(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["e2fsck", "-f", "-n"],
            Self::Xfs => &["xfs_repair", "-n"],
            Self::Btrfs => &["btrfs", "check"],
        }
    }
}

/// Bytes of a file system.
const SIZE: &str = "32M";

/// The file systems of a scenario.
#[derive(Clone)]
pub(crate) struct FileSystems(Arc<dyn Volumes>);

impl FileSystems {
    /// An empty one, with the agent's configuration as it is by default.
    pub(crate) fn new(stage: &mut VssStage<'_>) -> Result<Self> {
        if stage.machine().pid().is_some() {
            bail!("the program runs before its file systems are there");
        }
        let volumes = stage.machine().volumes();
        let file_systems = Self(volumes.map_err(|error| Skip(format!("{error:#}")))?);
        file_systems.script(CLEAR, &[]).context("clearing away")?;
        file_systems.configure("")?;
        Ok(file_systems)
    }

    /// Runs a script with these arguments, the first being `$0`.
    pub(crate) fn script(&self, script: &str, arguments: &[&str]) -> Result<String> {
        self.0.script(script, arguments)
    }

    /// Runs the program with these arguments, beside the one that serves.
    pub(crate) fn program(&self, arguments: &[&str]) -> Result<String> {
        self.0.run(&[&[self.path()], arguments].concat())
    }

    /// Path of the program, in the guest.
    pub(crate) fn path(&self) -> &str {
        self.0.program()
    }

    /// Gives the agent these lines of configuration, when it starts.
    pub(crate) fn configure(&self, lines: &str) -> Result<()> {
        let text = format!("[services]\nvss = true\n{lines}\n");
        self.write(CONFIGURATION, &text)
    }

    /// Makes or replaces a file.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        let script = "printf %s \"$1\" >\"$0\"";
        self.script(script, &[path, text]).map(drop)
    }

    /// Makes a file system, mounts it, and returns the mount point.
    pub(crate) fn make(&self, kind: Kind, name: &str) -> Result<String> {
        self.make_by(kind.maker(), kind.name(), name)
    }

    /// Makes a file system of any type with this command, and mounts it; gives
    /// where.
    pub(crate) fn make_by(&self, maker: &[&str], kind: &str, name: &str) -> Result<String> {
        self.script(MAKE, &[&[name, kind, SIZE], maker].concat())
            .with_context(|| format!("making {name}, a file system of type {kind}"))?;
        Ok(format!("{MOUNTS}/{name}"))
    }

    /// `/`, where that is a file system which can be frozen.
    pub(crate) fn root(&self) -> Result<Option<String>> {
        let on_disk = self.source("/")?.contains("/dev/");
        Ok(on_disk.then(|| "/".to_owned()))
    }

    /// What is mounted at a place.
    pub(crate) fn source(&self, point: &str) -> Result<String> {
        let script = r#"while read -r source point _; do
            [ "$point" != "$0" ] || echo "$source"; done </proc/self/mounts"#;
        Ok(self.script(script, &[point])?.trim().to_owned())
    }

    /// The device or loop file that carries a file system made here.
    pub(crate) fn carrier(&self, name: &str) -> Result<String> {
        let point = self.script("cat /run/vss/$0.at", &[name])?;
        Ok(point.trim_end().trim_end_matches('.').to_owned())
    }

    /// Freezes a file system, as somebody else than the program.
    pub(crate) fn freeze(&self, point: &str) -> Result<()> {
        self.0.run(&["fsfreeze", "--freeze", point]).map(drop)
    }

    /// Thaws it.
    pub(crate) fn thaw(&self, point: &str) -> Result<()> {
        self.0.run(&["fsfreeze", "--unfreeze", point]).map(drop)
    }

    /// Sets up a file in the place of the guest's `/sys/kernel/rcu_expedited`.
    pub(crate) fn own_rcu_expedited(&self) -> Result<()> {
        let made = self.script(SWITCH, &[]);
        made.map_err(|error| Skip(format!("no file for rcu_expedited: {error:#}")))?;
        Ok(())
    }

    /// Sets that switch.
    pub(crate) fn set_rcu_expedited(&self, text: &str) -> Result<()> {
        self.write("/sys/kernel/rcu_expedited", text)
    }

    /// Expects it to be off.
    pub(crate) fn expect_rcu_expedited_off(&self, when: &str) -> Result<()> {
        let set = self.script("cat /sys/kernel/rcu_expedited", &[])?;
        ensure!(
            set.starts_with('0'),
            "expected /sys/kernel/rcu_expedited to be 0 {when}; it is {set:?}"
        );
        Ok(())
    }

    /// Whether it is frozen.
    pub(crate) fn is_frozen(&self, point: &str) -> Result<bool> {
        match self.script(PROBE, &[point])?.trim() {
            "frozen" => Ok(true),
            "thawed" => Ok(false),
            other => bail!("whether {point} is frozen: {other}"),
        }
    }

    /// Expects each of these to be frozen.
    pub(crate) fn expect_frozen<P: AsRef<str>>(&self, points: &[P], when: &str) -> Result<()> {
        for point in points {
            let point = point.as_ref();
            ensure!(
                self.is_frozen(point)?,
                "expected {point} to be frozen {when}; it is not"
            );
        }
        Ok(())
    }

    /// Expects none of these to be frozen.
    pub(crate) fn expect_thawed<P: AsRef<str>>(&self, points: &[P], when: &str) -> Result<()> {
        for point in points {
            let point = point.as_ref();
            ensure!(
                !self.is_frozen(point)?,
                "expected {point} not to be frozen {when}; it is"
            );
        }
        Ok(())
    }

    /// Waits until each of these is thawed.
    pub(crate) fn wait_thawed<P: AsRef<str>>(&self, points: &[P], when: &str) -> Result<()> {
        for point in points {
            let point = point.as_ref();
            until(SETTLE_TIME, &format!("{point} to be thawed {when}"), || {
                Ok((!self.is_frozen(point)?).then_some(()))
            })?;
        }
        Ok(())
    }
}
