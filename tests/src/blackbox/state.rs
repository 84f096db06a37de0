//! What programs keep below `/var/lib`, which is the guest's own.
//!
//! Everything here runs in the guest's mount namespace.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::cover::cover;

/// Where every program has its pool files.
const POOLS: &str = "/var/lib/hyperv";

/// Where the agent keeps what outlives it.
const AGENT: &str = "/var/lib/hyperv-agent";

/// Replaces what the machine itself has of these; `pools`, a directory of the
/// machine, becomes that of the pool files.
pub(super) fn prepare(pools: &Path) -> Result<()> {
    cover("/var/lib", &["hyperv", "hyperv-agent"])?;
    for directory in [POOLS, AGENT] {
        fs::create_dir(directory).context(directory)?;
    }
    mount(
        Some(pools),
        POOLS,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .context("the guest's pool files")
}
