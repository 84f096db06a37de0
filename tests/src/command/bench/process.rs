//! What the kernel says of a process.

use std::fs;
use std::ops::AddAssign;

use anyhow::{Context, Result};
use hyperv_sim::resources::family;

/// Memory, in KiB.
#[derive(Default)]
pub(super) struct Memory {
    /// All that it has in memory, shared or not.
    pub(super) resident: u64,
    /// The same, with a share only of what others have too.
    pub(super) proportional: u64,
    /// What nobody else has.
    pub(super) private: u64,
    /// What is not the content of a file, so that it has to stay.
    pub(super) anonymous: u64,
}

impl Memory {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self {
            resident: sum(&rollup, "Rss:"),
            proportional: sum(&rollup, "Pss:"),
            private: sum(&rollup, "Private_"),
            anonymous: sum(&rollup, "Anonymous:"),
        })
    }
}

impl AddAssign for Memory {
    fn add_assign(&mut self, other: Self) {
        self.resident += other.resident;
        self.proportional += other.proportional;
        self.private += other.private;
        self.anonymous += other.anonymous;
    }
}

/// Those of its family that run the same program as a process, itself first.
pub(super) fn copies(pid: u32) -> Result<Vec<u32>> {
    let program = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe"));
    let own = program(&pid)?;
    let mut family = family(pid)?;
    family.retain(|it| program(it).is_ok_and(|program| program == own));
    Ok(family)
}

/// How often the process's threads have been switched to, all together.
pub(super) fn switches(pid: u32) -> Result<u64> {
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        switches += sum(&status, "voluntary_ctxt_switches:");
        switches += sum(&status, "nonvoluntary_ctxt_switches:");
    }
    Ok(switches)
}

/// Pages that the process had to ask the kernel for.
pub(super) fn page_faults(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a stat without a name")?;
    let mut fields = fields.split_whitespace().skip(7);
    let minor: u64 = fields.next().context("no page faults")?.parse()?;
    let major: u64 = fields.nth(1).context("no page faults")?.parse()?;
    Ok(minor + major)
}

/// Whether each thread of the process is traced.
pub(super) fn is_traced(pid: u32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status =
            fs::read_to_string(task?.path().join("status")).context("a thread ended meanwhile")?;
        if sum(&status, "TracerPid:") == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sum(text: &str, key: &str) -> u64 {
    text.lines()
        .filter(|line| line.starts_with(key))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}
