//! Backups: what is tried with file systems that stand still for a moment, and
//! with all that may go wrong meanwhile.

pub(super) mod backup_status;
pub(super) mod early;
pub(super) mod faults;
pub(crate) mod file_systems;
pub(super) mod freeze;
pub(super) mod hooks;
pub(super) mod image;
pub(super) mod inaccessible;
pub(super) mod layers;
pub(super) mod messages;
pub(super) mod other_services;
pub(super) mod rehearsal;
pub(super) mod stuck;

use anyhow::Result;
use hyperv_vmbus::ic::Status;

use self::file_systems::{FileSystems, Kind};
use super::stage::{VssStage, expect};
use crate::vss::VssHost;

/// Two file systems, and `/` where that can be frozen too.
fn two(stage: &mut VssStage<'_>) -> Result<(FileSystems, Vec<String>)> {
    let file_systems = FileSystems::new(stage)?;
    let mut points = vec![
        file_systems.make(Kind::Ext4, "one")?,
        file_systems.make(Kind::Xfs, "two")?,
    ];
    points.extend(file_systems.root()?);
    Ok((file_systems, points))
}

/// Lets everything stand still.
fn freeze(host: &mut VssHost) -> Result<()> {
    expect(host.freeze()?, Status::OK, "a FREEZE")
}

/// Lets everything go on.
fn thaw(host: &mut VssHost) -> Result<()> {
    expect(host.thaw()?, Status::OK, "a THAW")
}

/// Lets everything stand still and go on, and expects these file systems to.
fn round<P: AsRef<str>>(
    file_systems: &FileSystems,
    points: &[P],
    host: &mut VssHost,
) -> Result<()> {
    freeze(host)?;
    file_systems.expect_frozen(points, "after a FREEZE")?;
    thaw(host)?;
    file_systems.expect_thawed(points, "after a THAW")
}
