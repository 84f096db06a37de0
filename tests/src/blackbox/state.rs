//! What programs keep below `/var/lib` and `/run`, which is the guest's own.
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

/// Where the agent has its socket and its lock.
const RUNTIME: &str = "/run/hyperv-agent";

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
    .context("the guest's pool files")?;
    fs::create_dir_all(RUNTIME).context(RUNTIME)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("mode=755");
    mount(Some("hyperv-sim"), RUNTIME, Some("tmpfs"), flags, options)
        .with_context(|| format!("covering {RUNTIME}"))
}
