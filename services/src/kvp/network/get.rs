//! Reads the IP configuration of an interface (GET_IP_INFO). Protocol section 7.
//!
//! The interface is found by its MAC address (`mac`); for a port of a bridge, bond or team, the
//! topmost master answers, which has the port's addresses. Its addresses and gateways are the
//! kernel's; whether it uses DHCP and its DNS servers are known to the network managers only
//! (`managers`), or to the distribution's `scripts` if the configuration names them.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use slog::{Logger, debug};

use super::scripts::hv_get;
use super::{mac, managers};
use crate::kvp::config::Config;
use crate::kvp::interfaces::{Interface, Interfaces};
use crate::kvp::request::{Family, IpAddress, IpConfiguration, Origin};
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

/// Returns the IP configuration of the interface with this MAC address, or of its topmost master.
/// Addresses, including link-local ones, gateways and DNS servers are those of the given families;
/// no family means both.
///
/// # Errors
///
/// [`IpInfoError`] if the interfaces cannot be listed, or none has this MAC address.
pub fn get(
    config: &Config,
    interfaces: &Interfaces,
    adapter: &str,
    family: Family,
    log: &Logger,
) -> Result<IpConfiguration, IpInfoError> {
    let interfaces = interfaces.list().map_err(IpInfoError::Interfaces)?;
    let answer = explain(config, &interfaces, adapter, family, log)?;
    let nobody = "nobody";
    debug!(
        log,
        "{}: DHCP is known from {}, DNS servers from {}",
        answer.interface,
        answer.dhcp_from.unwrap_or(nobody),
        answer.dns_from.unwrap_or(nobody)
    );
    Ok(answer.info)
}

/// Returns what [`get`] does, of these interfaces, and where it comes from.
pub(super) fn explain(
    config: &Config,
    interfaces: &[Interface],
    adapter: &str,
    family: Family,
    log: &Logger,
) -> Result<Answer, IpInfoError> {
    let interface = mac::parse(adapter)
        .and_then(|mac| mac::find(interfaces, mac))
        .ok_or_else(|| IpInfoError::NoInterface(adapter.to_owned()))?;
    Ok(answer(config, interface, family, log))
}

/// What the host is told of an interface, and who knows it.
pub(super) struct Answer {
    /// The name of the interface.
    pub(super) interface: String,
    pub(super) info: IpConfiguration,
    /// `None` if nobody knew, so that the addresses decided.
    pub(super) dhcp_from: Option<&'static str>,
    /// `None` if nobody knows a server.
    pub(super) dns_from: Option<&'static str>,
}

fn answer(config: &Config, interface: &Interface, family: Family, log: &Logger) -> Answer {
    let family = if family.0 == 0 { Family::BOTH } else { family };

    let (mut dhcp, mut dns) = (None, None);
    if let Some(directory) = &config.network.scripts {
        let deadline = Instant::now() + IP_SCRIPTS;
        let run = |script| hv_get::output(directory, script, &interface.name, deadline, log);
        let from_script = run("hv_get_dhcp_info").map(|lines| lines.starts_with("Enabled"));
        dhcp = from_script.map(|dhcp| (dhcp, "hv_get_dhcp_info"));
        let from_script = run("hv_get_dns_info").map(|lines| hv_get::servers(&lines));
        dns = from_script.map(|dns| (dns, "hv_get_dns_info"));
    }
    if dhcp.is_none() || dns.is_none() {
        let known = managers::read(&config.environment.root, interface);
        dhcp = dhcp.or(known.dhcp);
        dns = dns.or(known.dns);
    }
    let mut addresses = interface.addresses.iter();
    let leased = addresses.any(|address| address.dynamic && address.ip.is_ipv4());
    let (dhcp, dhcp_from) = dhcp.unzip();
    let (dns, dns_from) = dns.unzip();
    // If no manager knows: an address with a lifetime is leased.
    let dhcp = dhcp.unwrap_or(leased);
    // Some DHCP clients set no lifetime.
    let v4_automatic = dhcp && !leased;

    let addresses = interface.addresses.iter();
    let mut addresses: Vec<_> = addresses
        .filter(|address| !address.tentative && family.includes(address.ip))
        .collect();
    addresses.sort_by_key(|address| interface.order(address));
    let addresses = addresses.into_iter().map(|address| IpAddress {
        ip: address.ip,
        prefix: address.prefix,
        origin: match address.dynamic
            || address.is_link_local()
            || address.ip.is_ipv4() && v4_automatic
        {
            true => Origin::Automatic,
            false => Origin::Static,
        },
    });
    // Those of other tables only where the main one has none: a host that sends what it has read
    // must not make a second default route of them.
    let is_routed = |ip: &IpAddr| {
        let mut main = interface.gateways.iter();
        main.any(|gateway| gateway.is_ipv4() == ip.is_ipv4())
    };
    let by_policy = interface.policy_gateways.iter().filter(|ip| !is_routed(ip));
    let gateways = interface.gateways.iter().chain(by_policy).copied();
    let dns = dns.unwrap_or_default().into_iter();
    let info = IpConfiguration {
        dhcp,
        addresses: addresses.collect(),
        gateways: gateways.filter(|ip| family.includes(*ip)).collect(),
        dns: dns.filter(|ip| family.includes(*ip)).collect(),
    };
    Answer {
        interface: interface.name.clone(),
        info,
        dhcp_from,
        dns_from,
    }
}
