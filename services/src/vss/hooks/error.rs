//! Why applications were not brought to rest.

use std::io;
use std::path::PathBuf;

use super::config::MAX_HOOKS;
use crate::subprocess::{RunError, StartError};
use crate::trusted::Refusal;

/// Why applications were not brought to rest.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The directory cannot be read.
    #[error("cannot read the directory of hooks, {}", path.display())]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// There are too many.
    #[error(
        "{} has more than {MAX_HOOKS} hooks; let one of them run the others", .0.display()
    )]
    TooMany(PathBuf),

    /// A hook, or the directory of all, is not root's alone, so that it will not
    /// be run as root.
    #[error("{} will not be run", path.display())]
    Refused {
        /// Which hook or directory.
        path: PathBuf,
        /// Why not.
        source: Refusal,
    },

    /// A hook cannot be run, as can be seen without trying.
    #[error("{} cannot be run", path.display())]
    Unfit {
        /// Which hook.
        path: PathBuf,
        /// Why not.
        source: StartError,
    },

    /// A hook was run, or was to be run, and did not succeed.
    #[error("hook {hook} failed at {action}")]
    Failed {
        /// Its name.
        hook: String,
        /// What it was run with.
        action: &'static str,
        /// What happened, and what it said.
        source: RunError,
    },
}

impl HookError {
    /// Whether a hook has begun to do anything.
    pub(super) fn started(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.started())
    }

    /// Whether a hook was killed because the service is to end.
    pub(super) fn stopped(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        matches!(source, RunError::Stopped { .. })
    }
}
