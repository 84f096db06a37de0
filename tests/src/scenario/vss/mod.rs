//! Backups: what is tried with file systems that stand still for a moment, and
//! with all that may go wrong meanwhile.

pub(super) mod faults;
pub(super) mod freeze;
pub(super) mod hooks;
pub(super) mod image;
pub(super) mod messages;
mod shelf;

use anyhow::Result;
use hyperv_vmbus::ic::Status;

use super::stage::expect;
use crate::vss::VssHost;

/// Lets everything stand still.
fn freeze(host: &mut VssHost) -> Result<()> {
    expect(host.freeze()?, Status::OK, "a FREEZE")
}

/// Lets everything go on.
fn thaw(host: &mut VssHost) -> Result<()> {
    expect(host.thaw()?, Status::OK, "a THAW")
}
