//! Reads the IP configuration of an interface (GET_IP_INFO). Protocol section 7.
//!
//! The interface is found by its MAC address (`mac`). Its addresses and gateways are the
//! kernel's; whether it uses DHCP and its DNS servers are known to the network managers only
//! (`managers`), or to the distribution's `scripts` if the configuration names them. `lists`
//! formats the reply.

use std::io;
use std::time::Instant;

use slog::Logger;

use super::scripts::hv_get;
use super::{lists, mac, managers};
use crate::kvp::config::Config;
use crate::kvp::interfaces;
use crate::kvp::request::{Family, IpInfo};
use crate::timeouts::IP_SCRIPTS;

/// Why there is no IP configuration to return.
#[derive(Debug, thiserror::Error)]
pub enum IpInfoError {
    /// The kernel did not list the interfaces.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),
    /// No interface has this MAC address.
    #[error("no interface has the MAC address {0:?}")]
    NoInterface(String),
}

/// Returns the IP configuration of the interface with this MAC address. Addresses,
/// including link-local ones, and gateways are those of the given families; no family
/// means both.
///
/// # Errors
///
/// [`IpInfoError`] if the interfaces cannot be listed, or none has this MAC address.
pub fn get(
    config: &Config,
    adapter: &str,
    family: Family,
    log: &Logger,
) -> Result<IpInfo, IpInfoError> {
    let interfaces = interfaces::list().map_err(IpInfoError::Interfaces)?;
    let interface = mac::parse(adapter)
        .and_then(|mac| mac::find(&interfaces, mac))
        .ok_or_else(|| IpInfoError::NoInterface(adapter.to_owned()))?;
    let family = if family.0 == 0 { Family::BOTH } else { family };

    let (mut dhcp, mut dns) = (None, None);
    if let Some(directory) = &config.network.scripts {
        let deadline = Instant::now() + IP_SCRIPTS;
        let run = |script| hv_get::output(directory, script, &interface.name, deadline, log);
        dhcp = run("hv_get_dhcp_info").map(|lines| lines.starts_with("Enabled"));
        dns = run("hv_get_dns_info").map(|lines| hv_get::servers(&lines));
    }
    if dhcp.is_none() || dns.is_none() {
        let known = managers::read(&config.environment.root, interface);
        dhcp = dhcp.or(known.dhcp);
        dns = dns.or(Some(known.dns));
    }
    // If no manager knows: an address with a lifetime is leased.
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
