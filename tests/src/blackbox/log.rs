//! What the program says: its output, and what it sends to syslog, in one file.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::syslog::Syslog;

/// The program's log.
pub(super) struct Log {
    file: PathBuf,
    pub(super) syslog: Syslog,
}

impl Log {
    /// Collects into `directory`.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let file = directory.join("log");
        let syslog = Syslog::new(&directory.join("syslog"), append(&file)?)?;
        Ok(Self { file, syslog })
    }

    /// A descriptor for the program's output.
    pub(super) fn output(&self) -> Result<File> {
        append(&self.file)
    }

    /// Everything up to now.
    pub(super) fn read(&self) -> String {
        self.syslog.flush();
        let bytes = std::fs::read(&self.file).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn append(file: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| file.display().to_string())
}
