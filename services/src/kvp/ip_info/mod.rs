//! What the host is told of an interface (GET_IP_INFO). Protocol section 7.
//!
//! `adapter` finds the interface, the kernel knows its addresses and gateways,
//! [`managers`] what only those know who configured it: DHCP and DNS. `lists`
//! writes it all as the reply has room for. `scripts` are those of the
//! distribution, which take the managers' place where the configuration wants
//! them.

use std::io;
use std::time::Instant;

use slog::Logger;

use super::config::Config;
use super::net;
use super::request::{Family, IpInfo};
use crate::timeouts::IP_SCRIPTS;

mod adapter;
mod lists;
pub mod managers;
mod scripts;

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

/// The IP configuration of the interface with this MAC address. Addresses, those
/// of a link among them, and gateways are of the families asked for, or of both
/// where none is.
///
/// # Errors
///
/// Any [`IpInfoError`].
pub fn get(
    config: &Config,
    adapter: &str,
    family: Family,
    log: &Logger,
) -> Result<IpInfo, IpInfoError> {
    let interfaces = net::interfaces().map_err(IpInfoError::Interfaces)?;
    let interface = adapter::parse(adapter)
        .and_then(|mac| adapter::find(&interfaces, mac))
        .ok_or_else(|| IpInfoError::NoInterface(adapter.to_owned()))?;
    let family = match family {
        Family(0) => Family::BOTH,
        family => family,
    };

    let (mut dhcp, mut dns) = (None, None);
    if let Some(directory) = &config.network.scripts {
        let deadline = Instant::now() + IP_SCRIPTS;
        dhcp = scripts::dhcp(directory, &interface.name, deadline, log);
        dns = scripts::dns(directory, &interface.name, deadline, log);
    }
    if dhcp.is_none() || dns.is_none() {
        let known = managers::query(&config.environment.root, interface);
        dhcp = dhcp.or(known.dhcp);
        dns = dns.or(Some(known.dns));
    }
    // Where nobody knows: an address with an end is a leased one.
    let leased = || {
        let mut addresses = interface.addresses.iter();
        addresses.any(|address| address.dynamic && address.ip.is_ipv4())
    };

    let lists = lists::addresses(&interface.addresses, family);
    Ok(IpInfo {
        adapter: adapter.to_owned(),
        family: lists.family,
        dhcp: dhcp.unwrap_or_else(leased),
        addresses: lists.addresses,
        subnets: lists.subnets,
        gateways: lists::gateways(&interface.gateways, family),
        dns: lists::dns(&dns.unwrap_or_default()),
    })
}
