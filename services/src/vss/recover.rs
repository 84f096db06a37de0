//! Thawing what somebody else has frozen: an agent that is gone, or whoever left
//! a file system frozen that the administrator wants back.

use std::path::PathBuf;

use rustix::io::Errno;

use super::freeze::hint;
use super::plan::{self, DeviceNumber, FileSystem, PlanError};
use super::{Config, Patterns, open};
use crate::kernel;

/// A file system that was to be thawed.
#[derive(Debug)]
pub struct Tried {
    /// The kernel's number for it.
    pub device: DeviceNumber,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Whether it was frozen, or why it could not be thawed, in words.
    pub outcome: Result<bool, String>,
}

/// Thaws those of `noted` that are mounted, in the reverse order.
///
/// # Errors
///
/// Where it cannot be told what is mounted.
pub fn thaw_noted(config: &Config, noted: &[DeviceNumber]) -> Result<Vec<Tried>, PlanError> {
    let mounted = mounted(config)?;
    let of = |device: &DeviceNumber| mounted.iter().find(|it| it.device == *device);
    Ok(noted
        .iter()
        .rev()
        .filter_map(of)
        .map(|it| thaw(config, it))
        .collect())
}

/// Thaws everything that could have been frozen.
///
/// # Errors
///
/// Where it cannot be told what is mounted.
pub fn thaw_all(config: &Config) -> Result<Vec<Tried>, PlanError> {
    let mounted = mounted(config)?;
    Ok(mounted.iter().rev().map(|it| thaw(config, it)).collect())
}

/// Whatever can be frozen, in the order of freezing: what is configured may have
/// been another thing then.
fn mounted(config: &Config) -> Result<Vec<FileSystem>, PlanError> {
    let everything = Config {
        include: Patterns::default(),
        exclude: Patterns::default(),
        other_namespaces: true,
        ..config.clone()
    };
    let plan = plan::make(&everything)?;
    let blocked = plan.blocked.into_iter().map(|it| it.file_system);
    Ok(plan.freeze.into_iter().chain(blocked).collect())
}

fn thaw(config: &Config, file_system: &FileSystem) -> Tried {
    let opened = match open::open(file_system, &config.root) {
        Ok(opened) => opened,
        Err(error) => {
            return Tried {
                device: file_system.device,
                mount_point: file_system.mount_point().to_owned(),
                outcome: Err(crate::in_words(&error)),
            };
        }
    };
    Tried {
        device: opened.device,
        outcome: match kernel::thaw(&opened.fd) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL) => Ok(false),
            Err(errno) => Err(format!("{errno}{}", hint(errno))),
        },
        mount_point: opened.mount_point,
    }
}
