//! The file systems of a guest: small ones of type ext4 on loop devices, whose
//! files are in memory.

use std::fmt;

use anyhow::{Context, Result};
use hyperv_sim::volumes::Volumes;

use super::slow_disks;

/// Lets loop devices look like disks: some programs leave them out, by what
/// `/sys` says of them.
const DISKS: &str = r#"
    set -e
    mount -t tmpfs disks /sys/dev/block
    cd /sys/dev/block
    n=0
    while [ $n -lt 256 ]; do
        mkdir -p disks/loop$n/slaves
        ln -s disks/loop$n 7:$n
        n=$((n + 1))
    done
"#;

/// Makes file systems, so many and of this size, mounted where nothing else can be
/// frozen, in files of a directory. Those of a program are there already.
const MAKE: &str = r#"
    set -e
    count=$0 size=$1 directory=$2
    mount -t tmpfs -o mode=755 mounts /mnt
    truncate -s "$size" /run/image
    mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /run/image
    n=0
    while [ $n -lt "$count" ]; do
        name=$(printf %04d $n)
        mkdir "/mnt/$name"
        if [ "$directory" = /run ]; then
            cp --sparse=always /run/image "/run/$name"
            mount -t ext4 -o loop "/run/$name" "/mnt/$name"
            rm "/run/$name"
        else
            cp --sparse=always /run/image "$directory/$name"
            loop=$(losetup --direct-io=on --show -f "$directory/$name")
            mount -t ext4 "$loop" "/mnt/$name"
            losetup -d "$loop"
        fi
        n=$((n + 1))
    done
"#;

/// Mounts a directory of the first one so often: 50 times, and all of those
/// again and again.
const BIND: &str = r#"
    set -e
    count=$0
    mkdir /mnt/0000/part /mnt/many
    n=0
    while [ $n -lt 50 ]; do
        mkdir -p "/mnt/many/0/$n"
        mount -o bind /mnt/0000/part "/mnt/many/0/$n"
        n=$((n + 1))
    done
    while [ $n -lt "$count" ]; do
        mkdir "/mnt/many/$n"
        mount -o rbind /mnt/many/0 "/mnt/many/$n"
        n=$((n + 50))
    done
"#;

const CLEAR: &str = "umount -l /mnt && rm /run/image";

/// What a guest has mounted, beside its root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) file_systems: u32,
    /// How often a directory of the first one is mounted elsewhere, in fifties.
    pub(super) bind_mounts: u32,
    /// Milliseconds that a write to a disk takes; each file system has one of its own.
    pub(super) delay: u64,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file_systems {
            1 => write!(f, "1 file system")?,
            many => write!(f, "{many} file systems")?,
        }
        if self.delay > 0 {
            write!(f, ", disks that take {} ms a write", self.delay)?;
        }
        match self.bind_mounts {
            0 => Ok(()),
            many => write!(f, ", {many} bind mounts"),
        }
    }
}

/// Lets a guest's loop devices look like disks.
pub(super) fn disks(volumes: &dyn Volumes) -> Result<()> {
    let output = volumes.script(DISKS, &[]);
    output
        .map(drop)
        .context("letting loop devices look like disks")
}

impl Layout {
    /// Mounts it, each file system being of so many MiB.
    pub(super) fn make(&self, volumes: &dyn Volumes, size: u64) -> Result<()> {
        let (count, size) = (self.file_systems.to_string(), format!("{size}M"));
        let directory = match self.delay {
            0 => "/run",
            _ => slow_disks::PLACE,
        };
        volumes
            .script(MAKE, &[&count, &size, directory])
            .with_context(|| format!("making {self}"))?;
        if self.bind_mounts > 0 {
            let count = self.bind_mounts.to_string();
            volumes
                .script(BIND, &[&count])
                .with_context(|| format!("making {self}"))?;
        }
        Ok(())
    }

    /// Takes it away.
    pub(super) fn clear(&self, volumes: &dyn Volumes) -> Result<()> {
        let output = volumes.script(CLEAR, &[]);
        output
            .map(drop)
            .with_context(|| format!("taking {self} away"))
    }

    /// Where they are mounted, in the order of their mounts.
    pub(super) fn points(&self) -> Vec<String> {
        let points = (0..self.file_systems).map(|number| format!("/mnt/{number:04}"));
        points.collect()
    }

    /// Files for applications: on the file systems that are first, in the middle,
    /// and last in the order of their mounts, and on the root, which comes last of
    /// all.
    pub(super) fn files(&self) -> Vec<String> {
        let points = self.points();
        let middle = points.get(points.len() / 2);
        let chosen = [points.first(), middle, points.last()].map(|point| point.map(String::as_str));
        let mut files: Vec<_> = chosen
            .into_iter()
            .flatten()
            .chain(["/root"])
            .map(|point| format!("{point}/application"))
            .collect();
        files.dedup();
        files
    }
}
