//! Why a request fails, in words for the administrator and as a status for the
//! host.

use std::io::ErrorKind;
use std::time::Duration;

use hyperv_vmbus::ic::Status;

use super::inject::InjectError;
use super::ip_info::IpInfoError;
use super::pool::PoolError;
use super::request::PoolId;
use super::wire::{Malformed, TooLong};

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Malformed(#[from] Malformed),

    #[error("no record has that key")]
    NoKey,

    #[error("there is nothing at that position")]
    NoItem,

    #[error("the configuration lets the host write no keys of pool {0} (writable-pools)")]
    NotWritable(PoolId),

    #[error("the configuration keeps IP configurations from the host (ip-info = false)")]
    IpInfoOff,

    #[error(transparent)]
    Pool(#[from] PoolError),

    #[error(transparent)]
    IpInfo(#[from] IpInfoError),

    #[error(transparent)]
    Inject(#[from] InjectError),

    #[error(transparent)]
    TooLong(#[from] TooLong),

    #[error(
        "a request is not done after {} s; is a file system frozen or gone? What it may still \
         change is taken back, and until then no other request is begun",
        .0.as_secs()
    )]
    TimedOut(Duration),

    #[error("its time was over before it could be begun")]
    Cancelled,
}

impl Error {
    /// What the host is told. The one place where that is decided.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Malformed(_)
            | Self::Pool(
                PoolError::EmptyKey
                | PoolError::KeyTooLong { .. }
                | PoolError::ValueTooLong { .. }
                | PoolError::Nul(_),
            ) => Status::INVALID_ARGUMENT,
            Self::NotWritable(_) | Self::IpInfoOff => Status::NOT_SUPPORTED,
            // What the stock daemon says of a key that is not there, too.
            Self::NoKey | Self::NoItem => Status::NO_MORE_ITEMS,
            Self::Pool(PoolError::File { source, .. }) => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Status::DISK_FULL,
                _ => Status::FAIL,
            },
            Self::IpInfo(IpInfoError::NoInterface(_)) => Status::GUID_NOT_FOUND,
            Self::Inject(error) => error.status(),
            Self::Pool(
                PoolError::Locked { .. }
                | PoolError::Changing(_)
                | PoolError::Cancelled(_)
                | PoolError::Untrusted { .. }
                | PoolError::NotAFile(_)
                | PoolError::TooLarge { .. },
            )
            | Self::IpInfo(IpInfoError::Interfaces(_))
            | Self::TooLong(_)
            | Self::TimedOut(_)
            | Self::Cancelled => Status::FAIL,
        }
    }

    /// Whether the request's time was over, so that nothing came of it.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Pool(PoolError::Cancelled(_)))
            || matches!(self, Self::Inject(error) if error.is_late())
    }

    /// Whether it is an answer like any other, and nothing to log.
    pub(super) fn is_expected(&self) -> bool {
        matches!(self, Self::NoKey | Self::NoItem)
    }
}
