//! Backups: what is tried with file systems that stand still for a moment, and
//! with all that may go wrong meanwhile.

pub(super) mod faults;
pub(super) mod freeze;
pub(super) mod hooks;
pub(super) mod image;
pub(super) mod messages;
pub(super) mod reach;
pub(super) mod rehearsal;
pub(crate) mod shelf;
pub(super) mod stacks;
pub(super) mod stuck;
pub(super) mod telling;
pub(super) mod waits;

use anyhow::Result;
use hyperv_vmbus::ic::Status;

use self::shelf::{Kind, Shelf};
use super::stage::{VssStage, expect};
use crate::vss::VssHost;

/// Two file systems, and `/` where that can be frozen too.
fn two(stage: &mut VssStage<'_>) -> Result<(Shelf, Vec<String>)> {
    let shelf = Shelf::new(stage)?;
    let mut points = vec![
        shelf.make(Kind::Ext4, "one")?,
        shelf.make(Kind::Xfs, "two")?,
    ];
    points.extend(shelf.root()?);
    Ok((shelf, points))
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
fn round<P: AsRef<str>>(shelf: &Shelf, points: &[P], host: &mut VssHost) -> Result<()> {
    freeze(host)?;
    shelf.expect_frozen(points, "after a FREEZE")?;
    thaw(host)?;
    shelf.expect_thawed(points, "after a THAW")
}
