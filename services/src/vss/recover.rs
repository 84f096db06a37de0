//! Thawing what somebody else has frozen: an agent that is gone, or whoever left
//! a file system frozen that the administrator wants back.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::freeze::{Freezer, THAWING, Tried, Waits};
use super::open::{self, Opened};
use super::plan::{self, DeviceNumber, FileSystem, PlanError};
use super::{Config, Patterns};
use crate::in_words;

/// How long it may take to open a file system: it may be behind a path that nobody
/// answers for.
const OPENING: Duration = Duration::from_secs(2);

/// Those file systems of `noted` that are mounted, in the order in which they were
/// frozen.
///
/// # Errors
///
/// Where it cannot be told what is mounted.
pub fn noted(
    config: &Config,
    noted: impl Iterator<Item = DeviceNumber>,
) -> Result<Vec<FileSystem>, PlanError> {
    let mounted = all(config)?;
    Ok(noted
        .filter_map(|device| mounted.iter().find(|it| it.device == device).cloned())
        .collect())
}

/// Whatever can be frozen, in the order of freezing: what is configured may have
/// been another thing then.
///
/// # Errors
///
/// Where it cannot be told what is mounted.
pub fn all(config: &Config) -> Result<Vec<FileSystem>, PlanError> {
    let everything = Config {
        include: Patterns::default(),
        exclude: Patterns::default(),
        ..config.clone()
    };
    Ok(plan::make(&everything)?.freeze)
}

/// Thaws these, in the reverse order, whoever has frozen them. The guard goes on
/// with what cannot be thawed in time.
pub fn thaw(
    freezer: &mut Freezer,
    file_systems: &[FileSystem],
    root: &Path,
    waits: Waits<'_>,
) -> Vec<Tried> {
    let mut found = Vec::with_capacity(file_systems.len());
    let mut failed = Vec::new();
    for file_system in file_systems {
        match open(file_system, root) {
            Ok(opened) => found.push(opened),
            Err(why) => failed.push(Tried {
                device: file_system.device,
                mount_point: file_system.mount_point().to_owned(),
                outcome: Err(why),
            }),
        }
    }
    let mut tried = freezer.thaw_found(found, THAWING, waits);
    tried.extend(failed);
    tried
}

fn open(file_system: &FileSystem, root: &Path) -> Result<Opened, String> {
    let (tell, opened) = mpsc::channel();
    let (file_system, root) = (file_system.clone(), root.to_owned());
    let opening = thread::Builder::new().spawn(move || {
        let _ = tell.send(open::open(&file_system, &root).map_err(|error| in_words(&error)));
    });
    match opening {
        Ok(_) => opened
            .recv_timeout(OPENING)
            .unwrap_or_else(|_| Err("it cannot be opened: it does not answer".to_owned())),
        Err(error) => Err(format!("there is no thread to open it: {error}")),
    }
}
