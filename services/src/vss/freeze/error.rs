//! Why file systems are not frozen, or not thawed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::vss::guard::GuardError;

/// Why nothing is frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// Nobody would thaw if the agent went away.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// One file system refused.
    #[error(
        "cannot freeze the file system at {path:?}{}, all others are thawed again",
        hint(*source)
    )]
    FileSystem {
        /// Where it is mounted.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The time was over before the last one was frozen.
    #[error(
        "freezing took longer than {} s, all others are thawed again: {}",
        .limit.as_secs(),
        waited(.path.as_deref())
    )]
    TooSlow {
        /// How long it may take.
        limit: Duration,
        /// Where the file system is mounted that was waited for, where one was.
        path: Option<PathBuf>,
    },
    /// The agent was told to end before the last one was frozen.
    #[error("the agent is to end, so the file systems that were frozen are thawed again")]
    Stopped,
    /// There was no time left to begin.
    #[error(
        "it took too long until file systems could be frozen, and nothing is frozen; see \
         prepare-limit in hyperv-agent.toml(5)"
    )]
    TooLate,
    /// What an earlier freeze has left is still frozen.
    #[error("the file system at {path:?} is frozen since an earlier backup: {why}")]
    Stuck {
        /// Where it is mounted.
        path: PathBuf,
        /// Why it is not thawed.
        why: NotThawed,
    },
    /// The guard has ended meanwhile.
    #[error("the guard process ended during the freeze, all is thawed again")]
    GuardGone,
    /// All that was to be frozen is frozen already.
    #[error("the file systems are frozen already")]
    Frozen,
}

/// What helps, where that is known.
pub(super) fn hint(source: Errno) -> &'static str {
    match source {
        Errno::PERM | Errno::ACCESS => " (that takes root, with the capability CAP_SYS_ADMIN)",
        Errno::IO => " (see what the kernel says of its disk; [vss.exclude] leaves it out)",
        _ => "",
    }
}

fn waited(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!(
            "the file system at {path:?} waits for its disk, or for another one that was frozen \
             before it; name it in [vss.exclude] to leave it out"
        ),
        None => "there are too many of them for that time".to_owned(),
    }
}

/// Why a file system is not thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotThawed {
    /// The kernel refuses it.
    Refused(Errno),
    /// The kernel has not come back from it.
    Waits,
}

impl fmt::Display for NotThawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "{errno}{}", hint(*errno)),
            Self::Waits => f.write_str(
                "it waits for its disk, or for another file system that is frozen; it is thawed \
                 as soon as that goes on, and [vss.exclude] leaves it out of backups",
            ),
        }
    }
}
