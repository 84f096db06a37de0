//! The wall clock of the program, which steps while the machine's does not.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use hyperv_agent::status::Document;

use crate::files::Files;
use crate::volumes::Volumes;

/// Where the library is in the program's root.
const LIBRARY: &str = "/lib/libfaketime.so";

/// Where the library reads by how much the clock is off.
const OFFSET: &str = "/run/clock";

/// Has the program and its children read the wall clock through the library, each
/// time; the monotonic clock and the times of files stay as they are.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("LD_PRELOAD", LIBRARY),
    ("FAKETIME_TIMESTAMP_FILE", OFFSET),
    ("FAKETIME_NO_CACHE", "1"),
    ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ("NO_FAKE_STAT", "1"),
];

/// What the clock is off by, in turns: steps of seconds to years, both ways.
const STEPS: [&str; 6] = ["-20y", "+0", "+3600", "-30d", "+10y", "-2"];

/// Less than the first step.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The clock of the program.
pub(super) struct Clock {
    files: Arc<dyn Files>,
    steps: usize,
}

/// Where Debian, Fedora and Arch have the library.
fn library() -> Option<PathBuf> {
    let triplets = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut places: Vec<PathBuf> = triplets.map(|it| it.path().join("faketime")).collect();
    places.extend(["/usr/lib/faketime", "/usr/lib64/faketime"].map(PathBuf::from));
    let files = places.iter().map(|place| place.join("libfaketimeMT.so.1"));
    files.into_iter().find(|file| file.is_file())
}

/// Why the program can have no clock of its own, if so.
pub(super) fn unavailable() -> Option<String> {
    library()
        .is_none()
        .then(|| "libfaketime is missing: install faketime".to_owned())
}

impl Clock {
    /// A clock that is off by years at first.
    pub(super) fn new(files: Arc<dyn Files>) -> Result<Self> {
        let library = library().with_context(|| unavailable().unwrap_or_default())?;
        let content = fs::read(&library).with_context(|| library.display().to_string())?;
        files.write(LIBRARY.as_ref(), &content)?;
        let mut clock = Self { files, steps: 0 };
        clock.step()?;
        Ok(clock)
    }

    /// Steps the clock.
    pub(super) fn step(&mut self) -> Result<()> {
        let offset = STEPS.iter().cycle().nth(self.steps).unwrap_or(&"+0");
        self.steps = (self.steps + 1) % STEPS.len();
        self.files.write(OFFSET.as_ref(), offset.as_bytes())
    }

    /// Expects the program to have started at a time by this clock.
    pub(super) fn expect_started_by(volumes: &dyn Volumes) -> Result<()> {
        let status = volumes.run(&[volumes.program(), "status", "--json"])?;
        let status: Document = serde_json::from_str(&status).context("the status")?;
        let off = SystemTime::now()
            .duration_since(status.since)
            .unwrap_or_default();
        ensure!(off > YEAR, "started {off:?} ago: the clock has no effect");
        Ok(())
    }
}
