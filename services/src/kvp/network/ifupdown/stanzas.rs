//! The stanzas of a configuration.

use std::fmt::{Display, Write};
use std::net::Ipv4Addr;

use super::interfaces::Family;
use super::kept::{Kept, Part};
use super::metric::Metrics;
use crate::kvp::network::settings::{Settings, joined};

/// The program that reads the stanzas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Debian's ifupdown.
    Ifupdown,
    /// BusyBox, which knows neither SLAAC nor prefix lengths.
    BusyBox,
}

/// Renders a stanza for each family: what the host states and what stays of the previous ones.
pub(super) fn by_family(
    logical: &str,
    dialect: Dialect,
    settings: &Settings,
    metrics: Metrics,
    kept: &Kept,
) -> String {
    let mut text = String::new();
    let mut dns = joined(&settings.dns, " ");
    let mut stanza = |family: &str, lines: &[String], part: &Part, up: &[String]| {
        let _ = writeln!(text, "\niface {logical} {family}");
        // Once is enough, in the first stanza.
        let dns = servers(std::mem::take(&mut dns), part);
        let own = part.options.iter().map(line);
        let hooks = part.hooks.iter().map(line);
        for line in lines
            .iter()
            .cloned()
            .chain(own)
            .chain(dns)
            .chain(up.iter().cloned())
            .chain(hooks)
        {
            let _ = writeln!(text, "    {line}");
        }
    };
    if settings.families.has_v4() {
        let part = kept.part(Family::V4);
        if settings.dhcp4 {
            // The method has no such option.
            let mtu = part
                .option("mtu")
                .map(|mtu| format!("pre-up ip link set dev $IFACE mtu {mtu}"));
            let is_new = |line: &String| !part.hooks.iter().any(|hook| self::line(hook) == *line);
            let mtu: Vec<String> = mtu.into_iter().filter(is_new).collect();
            stanza("inet dhcp", &mtu, part, &[]);
        } else if let Some((&(ip, prefix), further)) = settings.v4.split_first() {
            let lines = match dialect {
                Dialect::Ifupdown => vec![format!("address {ip}/{prefix}")],
                Dialect::BusyBox => {
                    vec![format!("address {ip}"), format!("netmask {}", mask(prefix))]
                }
            };
            let mut up: Vec<String> = further
                .iter()
                .map(|address| up_address("ip", *address))
                .collect();
            up.extend(routes4(settings, metrics));
            stanza("inet static", &lines, part, &up);
        } else if *part != Part::default() {
            stanza("inet manual", &[], part, &[]);
        }
    }
    if settings.families.has_v6() {
        let part = kept.part(Family::V6);
        let up = routes6(settings, metrics);
        let slaac = ["autoconf", "accept_ra"]
            .into_iter()
            .filter(|key| part.option(key).is_none());
        match (settings.v6.split_first(), dialect) {
            (None, Dialect::Ifupdown) => {
                let method = match &*part.method {
                    "dhcp" => "inet6 dhcp",
                    _ => "inet6 auto",
                };
                stanza(method, &[], part, &up);
            }
            (None, Dialect::BusyBox) => {
                if *part != Part::default() || !up.is_empty() {
                    stanza("inet6 manual", &[], part, &up);
                }
            }
            (Some((&(ip, prefix), further)), _) => {
                let lines = match dialect {
                    Dialect::Ifupdown => {
                        let address = format!("address {ip}/{prefix}");
                        let slaac = slaac.map(|key| format!("{key} 1"));
                        std::iter::once(address).chain(slaac).collect()
                    }
                    Dialect::BusyBox => {
                        vec![format!("address {ip}"), format!("netmask {prefix}")]
                    }
                };
                // With a stanza each, duplicate address detection would delay each in turn.
                let mut all: Vec<String> = further
                    .iter()
                    .map(|address| up_address("ip -6", *address))
                    .collect();
                all.extend(up);
                stanza("inet6 static", &lines, part, &all);
            }
        }
    }
    for (previous, part) in &kept.stanzas {
        let family = match previous.family {
            Some(Family::V6) => "inet6",
            _ => "inet",
        };
        stanza(&format!("{family} {}", previous.method), &[], part, &[]);
    }
    text
}

/// Renders the one stanza that ifupdown-ng has for an interface.
pub(super) fn of_interface(
    name: &str,
    settings: &Settings,
    metrics: Metrics,
    part: &Part,
) -> String {
    let mut lines: Vec<String> = settings
        .addresses()
        .map(|(ip, prefix)| format!("address {ip}/{prefix}"))
        .collect();
    lines.extend(settings.dhcp4.then(|| "use dhcp".to_owned()));
    lines.extend(part.options.iter().map(line));
    lines.extend(servers(joined(&settings.dns, " "), part));
    lines.extend(routes4(settings, metrics));
    lines.extend(routes6(settings, metrics));
    lines.extend(part.hooks.iter().map(line));
    let mut text = format!("\niface {name}\n");
    for line in lines {
        let _ = writeln!(text, "    {line}");
    }
    text
}

fn line((key, value): &(String, String)) -> String {
    let mut line = format!("{key} {value}").trim_end().to_owned();
    // A blank keeps it from continuing on the next line.
    if line.ends_with('\\') {
        line.push(' ');
    }
    line
}

/// Returns the line for the DNS servers of the host and those that stay.
fn servers(mut servers: String, part: &Part) -> Option<String> {
    for server in &part.dns {
        if !servers.split(' ').any(|other| other == server) {
            servers.extend([" ", server]);
        }
    }
    let servers = servers.trim_start();
    (!servers.is_empty()).then(|| format!("dns-nameservers {servers}"))
}

fn mask(prefix: u8) -> Ipv4Addr {
    let bits = u32::MAX.checked_shl(32 - u32::from(prefix));
    Ipv4Addr::from_bits(bits.unwrap_or_default())
}

fn up_address(ip: &str, (address, prefix): (impl Display, u8)) -> String {
    format!("up {ip} address replace {address}/{prefix} dev $IFACE")
}

/// Always `onlink`: ifupdown does not check where the gateway is either.
fn routes4(settings: &Settings, metrics: Metrics) -> Vec<String> {
    let routes = (0..).zip(settings.routes4());
    routes
        .map(|(place, route)| {
            let (gateway, further) = (route.gateway, route.metric_after(" metric "));
            match metrics.v4 {
                // `replace` without a metric would take the route of another interface.
                None => format!("up ip route add default via {gateway} dev $IFACE onlink{further}"),
                Some(first) => format!(
                    "up ip route replace default via {gateway} dev $IFACE onlink metric {}",
                    first.saturating_add(place)
                ),
            }
        })
        .collect()
}

/// Always with a metric of their own: the router may announce the same route.
fn routes6(settings: &Settings, metrics: Metrics) -> Vec<String> {
    let routes = (0..).zip(settings.routes6());
    routes
        .map(|(place, route)| {
            let (gateway, metric) = (route.gateway, metrics.v6.saturating_add(place));
            format!(
                "up ip -6 route replace default via {gateway} dev $IFACE onlink metric {metric}"
            )
        })
        .collect()
}
