//! Instructions of the guest, where the machine that this runs in is emulated
//! and counts them: `tests/vm/count.c`.

use std::fs;
use std::ops::Sub;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use hyperv_vm::sys::ask_for_counts;

/// The file that the emulator writes.
pub(super) struct Counter(pub(super) PathBuf);

/// What was counted so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    /// Instructions of programs.
    pub(super) programs: u64,
    /// Instructions of the kernel.
    pub(super) kernel: u64,
    /// How often the guest was entered.
    pub(super) entries: u64,
}

impl Counter {
    pub(super) fn read(&self) -> Result<Counts> {
        ask_for_counts();
        let path = self.0.display();
        let text = fs::read_to_string(&self.0).with_context(|| path.to_string())?;
        Counts::parse(&text).with_context(|| format!("{path} has no counts: {text:?}"))
    }
}

impl Counts {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            programs: next()?,
            kernel: next()?,
            entries: next()?,
        })
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            programs: self.programs - earlier.programs,
            kernel: self.kernel - earlier.kernel,
            entries: self.entries - earlier.entries,
        }
    }
}
