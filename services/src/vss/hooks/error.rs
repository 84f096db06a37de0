//! Errors of hooks.

use std::io;
use std::path::PathBuf;

use super::config::MAX_HOOKS;
use crate::subprocess::{RunError, StartError};
use crate::trusted::Refusal;

/// Applications were not quiesced.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The directory cannot be read.
    #[error("cannot read the hook directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// There are too many hooks.
    #[error(
        "{} has more than {MAX_HOOKS} hooks; let one of them run the others", .0.display()
    )]
    TooMany(PathBuf),

    /// Others than root can write to a hook or to the hook directory, so that it is not run as
    /// root.
    #[error("{} will not be run", path.display())]
    Refused {
        /// The hook or directory.
        path: PathBuf,
        /// Why not.
        source: Refusal,
    },

    /// A hook cannot be run, as its file shows.
    #[error("{} cannot be run", path.display())]
    Unfit {
        /// The hook.
        path: PathBuf,
        /// Why not.
        source: StartError,
    },

    /// A hook failed, or could not be started.
    #[error("hook {hook} failed at {action}")]
    Failed {
        /// Its name.
        hook: String,
        /// Its argument.
        action: &'static str,
        /// What happened, with its output.
        source: RunError,
    },
}

impl HookError {
    /// Returns whether a hook was started.
    pub(super) fn started(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.started())
    }

    /// Returns whether a hook was killed because the service is being stopped.
    pub(super) fn stopped(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        matches!(source, RunError::Stopped { .. })
    }
}
