//! Why a request fails, in words for the administrator and as a status for the
//! host.

use std::path::PathBuf;
use std::time::Duration;

use hyperv_vmbus::ic::Status;
use rustix::io::Errno;

use super::freeze::FreezeError;
use super::hooks::HookError;
use super::open::OpenError;
use super::plan::PlanError;
use super::wire::Malformed;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Malformed(#[from] Malformed),

    #[error(transparent)]
    Plan(#[from] PlanError),

    #[error(transparent)]
    Open(#[from] OpenError),

    #[error(transparent)]
    Hook(#[from] HookError),

    #[error(transparent)]
    Freeze(#[from] FreezeError),

    #[error(transparent)]
    Spoiled(#[from] Spoiled),

    #[error("cannot thaw the file system at {path:?}; try `hyperv-agent thaw`")]
    NotThawed { path: PathBuf, source: Errno },
}

/// Why the backup that the host is about to finish is not consistent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Spoiled {
    #[error(
        "the host did not ask for a thaw within {} s, so all was thawed without it and this \
         backup is not consistent",
        .0.as_secs()
    )]
    TimeLimit(Duration),

    #[error("the guard process ended, so all was thawed and this backup is not consistent")]
    GuardGone,

    #[error(
        "the agent ended or lost its device while file systems were frozen, so all was thawed \
         and this backup is not consistent"
    )]
    Restarted,

    #[error(
        "the file system at {0:?} was thawed by somebody else before, so this backup is not \
         consistent"
    )]
    Early(PathBuf),
}

impl Error {
    /// What the host is told. The one place where that is decided.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Malformed(malformed) => malformed.status(),
            Self::Plan(_)
            | Self::Open(_)
            | Self::Hook(_)
            | Self::Freeze(_)
            | Self::Spoiled(_)
            | Self::NotThawed { .. } => Status::FAIL,
        }
    }
}
