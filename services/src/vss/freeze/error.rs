//! Errors of freezing and thawing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::vss::guard::GuardError;

/// Why nothing is frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// There is no guard.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The kernel refused to freeze a file system.
    #[error(
        "cannot freeze the file system at {path:?}{}, all others are thawed again",
        hint(*source)
    )]
    FileSystem {
        /// Where it is mounted.
        path: PathBuf,
        /// The error of the kernel.
        source: Errno,
    },
    /// The time ran out before the last file system was frozen.
    #[error(
        "freezing took longer than {} s, all others are thawed again: {}",
        .limit.as_secs(),
        waited(.path.as_deref())
    )]
    TooSlow {
        /// The time limit.
        limit: Duration,
        /// The mount point of the file system that blocked the freeze, if one did.
        path: Option<PathBuf>,
    },
    /// The agent is being stopped.
    #[error("the agent is being stopped, so the file systems that were frozen are thawed again")]
    Stopped,
    /// The time ran out before the first file system was frozen.
    #[error(
        "preparing the freeze took too long, so nothing is frozen; see prepare-limit in \
         hyperv-agent.toml(5)"
    )]
    TooLate,
    /// A file system is still frozen since an earlier freeze.
    #[error("the file system at {path:?} is still frozen since an earlier backup: {why}")]
    Stuck {
        /// Where it is mounted.
        path: PathBuf,
        /// Why it is not thawed.
        why: NotThawed,
    },
    /// The guard ended during the freeze.
    #[error("the guard process ended during the freeze: everything is thawed again")]
    GuardGone,
    /// File systems are frozen already.
    #[error("the file systems are frozen already")]
    Frozen,
}

/// Returns advice, if there is any.
pub(super) fn hint(source: Errno) -> &'static str {
    match source {
        Errno::PERM | Errno::ACCESS => " (freezing requires root with CAP_SYS_ADMIN)",
        Errno::IO => " (see what the kernel logs about its disk; [vss.exclude] leaves it out)",
        _ => "",
    }
}

fn waited(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!(
            "the file system at {path:?} waits for its disk, or for another one that was frozen \
             before it; list it in [vss.exclude] to leave it out"
        ),
        None => "there are too many for that time".to_owned(),
    }
}

/// Why a file system is not thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotThawed {
    /// The kernel refuses.
    Refused(Errno),
    /// The call still hangs in the kernel.
    Waiting,
}

impl fmt::Display for NotThawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "{errno}{}", hint(*errno)),
            Self::Waiting => f.write_str(
                "it waits for its disk, or for another frozen file system; it is thawed as soon as \
                 that continues, and [vss.exclude] leaves it out of backups",
            ),
        }
    }
}
