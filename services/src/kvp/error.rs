//! Why a request fails: a message for the administrator and a status for the host.

use std::io::ErrorKind;
use std::time::Duration;

use hyperv_vmbus::ic::Status;

use super::network::{InjectError, IpInfoError};
use super::pool::PoolError;
use super::request::PoolId;
use super::wire::{Malformed, TooLong};

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Malformed(#[from] Malformed),

    #[error("no such key")]
    NoKey,

    #[error("no record at this index")]
    NoItem,

    #[error("the host may not write to pool {0} (see writable-pools in the configuration)")]
    NotWritable(PoolId),

    #[error("the host may not read IP configurations (ip-info = false in the configuration)")]
    IpInfoDisabled,

    #[error(transparent)]
    Pool(#[from] PoolError),

    #[error(transparent)]
    IpInfo(#[from] IpInfoError),

    #[error(transparent)]
    Inject(#[from] InjectError),

    #[error(transparent)]
    TooLong(#[from] TooLong),

    #[error(
        "the request timed out after {} s; is a file system frozen or not responding? \
         What it may still change is rolled back, and no other request is executed before that",
        .0.as_secs()
    )]
    TimedOut(Duration),

    #[error("the request timed out before it was executed")]
    Cancelled,
}

impl Error {
    /// Returns the status of the reply.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Malformed(_)
            | Self::Pool(
                PoolError::EmptyKey
                | PoolError::KeyTooLong { .. }
                | PoolError::ValueTooLong { .. }
                | PoolError::Nul(_),
            ) => Status::INVALID_ARGUMENT,
            Self::NotWritable(_) | Self::IpInfoDisabled => Status::NOT_SUPPORTED,
            // As the stock daemon replies for a missing key.
            Self::NoKey | Self::NoItem => Status::NO_MORE_ITEMS,
            Self::Pool(PoolError::File { source, .. }) => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Status::DISK_FULL,
                _ => Status::FAIL,
            },
            Self::IpInfo(IpInfoError::NoInterface(_)) => Status::GUID_NOT_FOUND,
            Self::Inject(error) => error.status(),
            _ => Status::FAIL,
        }
    }

    /// Whether the request was cancelled before it had an effect.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Pool(PoolError::Cancelled(_)))
            || matches!(self, Self::Inject(error) if error.is_late())
    }

    /// Whether it is a normal result, which needs no warning.
    pub(super) fn is_expected(&self) -> bool {
        matches!(self, Self::NoKey | Self::NoItem)
    }
}
