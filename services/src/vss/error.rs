//! Errors of requests.

use std::path::PathBuf;
use std::time::Duration;

use super::freeze::{FreezeError, NotThawed};
use super::hooks::HookError;
use super::plan::PlanError;
use super::prepare::PrepareError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Plan(#[from] PlanError),

    #[error(transparent)]
    Prepare(#[from] PrepareError),

    #[error(
        "no file system that is mounted and can be frozen matches [vss.include]; `hyperv-agent vss \
         plan` shows what there is"
    )]
    NothingIncluded,

    #[error("the file system at {0:?} may be frozen since an earlier backup and cannot be thawed")]
    StillFrozen(PathBuf),

    #[error(transparent)]
    Hook(#[from] HookError),

    #[error(transparent)]
    Freeze(#[from] FreezeError),

    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),

    #[error("cannot thaw the file system at {path:?}: {why}")]
    NotThawed { path: PathBuf, why: NotThawed },
}

/// Why a backup is not consistent although all file systems were frozen for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Inconsistent {
    #[error(
        "the host did not ask for a thaw within {} s: everything was thawed, and this backup is \
         not consistent",
        .0.as_secs()
    )]
    TimeLimit(Duration),

    #[error("the guard process ended: everything was thawed, and this backup is not consistent")]
    GuardGone,

    #[error(
        "the agent ended or lost its device while file systems were frozen: everything was \
         thawed, and this backup is not consistent"
    )]
    Restarted,

    #[error("another program thawed file systems early, so this backup is not consistent: {0:?}")]
    Early(Vec<PathBuf>),
}
