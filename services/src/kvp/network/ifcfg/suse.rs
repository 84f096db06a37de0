//! The files of SUSE, with the host's configuration in them.

use std::fmt::Write;
use std::net::IpAddr;

use super::variables::Variables;
use crate::kvp::network::plan::HEADER;
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::network::target::Target;

/// The variable that remembers which DNS servers of the machine are this interface's. It means
/// nothing to wicked.
const OWN_DNS: &str = "HYPERV_AGENT_DNS";

/// The start of the keys of an address; the rest of the key tells which one.
const OF_ADDRESS: [&str; 7] = [
    "IPADDR",
    "PREFIXLEN",
    "NETMASK",
    "BROADCAST",
    "REMOTE_IPADDR",
    "LABEL",
    "SCOPE",
];

/// Renders the `ifcfg` file: `previous` with the addresses and methods replaced of the families
/// that the host configures. Returns what cannot stay, too.
pub(in crate::kvp::network) fn render(
    previous: &str,
    settings: &Settings,
) -> (String, Vec<String>) {
    let mut file = Variables::parse(previous);
    let mode = file.last("STARTMODE");
    if matches!(mode.as_deref(), None | Some("manual" | "off")) {
        file.set("STARTMODE", "'auto'");
    }
    let (v4, v6) = match file.last("BOOTPROTO").unwrap_or_default().as_str() {
        "dhcp" => (true, true),
        "dhcp4" => (true, false),
        "dhcp6" => (false, true),
        _ => (false, false),
    };
    let v4 = match settings.families.has_v4() {
        true => settings.dhcp4,
        false => v4,
    };
    let protocol = match (v4, v6) {
        (true, true) => "dhcp",
        (true, false) => "dhcp4",
        (false, true) => "dhcp6",
        (false, false) => "static",
    };
    file.set("BOOTPROTO", format!("'{protocol}'"));
    let replaced: Vec<String> = suffixes(&file)
        .filter(|(_, ip)| settings.replaces(*ip))
        .map(|(suffix, _)| suffix)
        .collect();
    let removed = file.remove(|key| {
        let suffix = OF_ADDRESS.iter().find_map(|start| key.strip_prefix(start));
        suffix.is_some_and(|suffix| replaced.iter().any(|replaced| replaced == suffix))
    });
    let is_lost = |key: &str| {
        let kinds = ["REMOTE_IPADDR", "LABEL", "SCOPE"];
        kinds.iter().any(|start| key.starts_with(start))
    };
    let lost = removed.iter().filter(|(key, _)| is_lost(key));
    let lost = lost.map(|(key, value)| format!("{key}={value}")).collect();
    let mut number = 0;
    let taken: Vec<String> = suffixes(&file).map(|(suffix, _)| suffix).collect();
    for (ip, prefix) in settings.addresses() {
        while taken.contains(&format!("_{number}")) {
            number += 1;
        }
        file.set(&format!("IPADDR_{number}"), format!("'{ip}/{prefix}'"));
        number += 1;
    }
    if !settings.dns.is_empty() {
        file.set(OWN_DNS, format!("'{}'", joined(&settings.dns, " ")));
    }
    file.comment(HEADER.trim_end());
    (file.to_string(), lost)
}

/// Returns the suffix of the keys of each address.
fn suffixes(file: &Variables) -> impl Iterator<Item = (String, IpAddr)> {
    file.assignments().filter_map(|(key, value)| {
        let suffix = key.strip_prefix("IPADDR")?.to_owned();
        let ip = value.split('/').next()?.trim().parse().ok()?;
        Some((suffix, ip))
    })
}

/// Renders the `ifroute` file: `previous` with the default routes replaced of the families that
/// the host configures.
pub(in crate::kvp::network) fn render_routes(
    target: &Target,
    settings: &Settings,
    previous: &str,
) -> String {
    let mut text = String::new();
    let is_replaced = |line: &&str| {
        let mut words = line.split_whitespace();
        let family = match (words.next(), words.next()) {
            (Some("default"), gateway) => gateway.and_then(|gateway| gateway.parse().ok()),
            (Some("0.0.0.0/0"), _) => Some(IpAddr::from([0; 4])),
            (Some("::/0"), _) => Some(IpAddr::from([0; 16])),
            _ => return false,
        };
        settings.replaces(family.unwrap_or(IpAddr::from([0; 4])))
    };
    for line in previous.lines().filter(|line| !is_replaced(line)) {
        let _ = writeln!(text, "{line}");
    }
    for route in settings.routes() {
        let metric = route.metric_after(" metric ");
        let _ = writeln!(text, "default {} - {}{metric}", route.gateway, target.name);
    }
    text
}

/// Renders the machine's `config`, with the DNS servers of this interface first. `ifcfg` is the
/// interface's previous file. Servers of other adapters stay, if there are others.
pub(super) fn render_dns(
    settings: &Settings,
    config: &str,
    ifcfg: &str,
    has_others: bool,
) -> String {
    const KEY: &str = "NETCONFIG_DNS_STATIC_SERVERS";
    let mut file = Variables::parse(config);
    let words = |text: Option<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let mut servers: Vec<String> = settings.dns.iter().map(IpAddr::to_string).collect();
    let own = words(Variables::parse(ifcfg).last(OWN_DNS));
    for server in words(file.last(KEY)).into_iter().filter(|_| has_others) {
        if !own.contains(&server) && !servers.contains(&server) {
            servers.push(server);
        }
    }
    file.set(KEY, format!("\"{}\"", servers.join(" ")));
    file.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::request::{Family, IpInfo};

    const FILE: &str = "\
BOOTPROTO='dhcp6'
STARTMODE='hotplug'
MTU='1400'
ETHTOOL_OPTIONS='-K iface tso off'
ZONE=internal
IPADDR='192.168.7.7/24'
LABEL='1'
IPADDR_0='fd07::7/64'
IPADDR_x='192.168.7.8'
PREFIXLEN_x='24'
";

    fn settings(family: Family, dhcp: bool, addresses: &str, subnets: &str) -> Settings {
        let info = IpInfo {
            family,
            dhcp,
            addresses: addresses.to_owned(),
            subnets: subnets.to_owned(),
            dns: if addresses.is_empty() { "" } else { "1.1.1.1" }.to_owned(),
            ..IpInfo::default()
        };
        Settings::parse(&info).unwrap()
    }

    #[test]
    fn everything_but_the_addresses_of_the_family_is_kept() {
        let v4 = settings(Family::V4, false, "10.0.0.5", "/24");
        let (text, lost) = render(FILE, &v4);
        assert_eq!(
            text,
            format!(
                "{HEADER}\
STARTMODE='hotplug'
MTU='1400'
ETHTOOL_OPTIONS='-K iface tso off'
ZONE=internal
IPADDR_0='fd07::7/64'
BOOTPROTO='dhcp6'
IPADDR_1='10.0.0.5/24'
HYPERV_AGENT_DNS='1.1.1.1'
"
            )
        );
        assert_eq!(lost, ["LABEL=1"]);
        assert_eq!(render(&text, &v4), (text, Vec::new()));
    }

    #[test]
    fn each_family_has_its_dhcp() {
        let v4 = settings(Family::V4, false, "10.0.0.5", "/24");
        let v4_dhcp = settings(Family::V4, true, "", "");
        let v6 = settings(Family::V6, false, "", "");
        for (settings, previous, expected) in [
            (&v4, "dhcp", "dhcp6"),
            (&v4, "dhcp4", "static"),
            (&v4_dhcp, "static", "dhcp4"),
            (&v4_dhcp, "dhcp6", "dhcp"),
            (&v6, "dhcp", "dhcp"),
            (&v6, "static", "static"),
        ] {
            let (text, _) = render(&format!("BOOTPROTO={previous}\n"), settings);
            let found = Variables::parse(&text).last("BOOTPROTO");
            assert_eq!(found.as_deref(), Some(expected), "{previous}");
        }
    }

    #[test]
    fn servers_of_other_adapters_stay() {
        let v4 = settings(Family::V4, false, "10.0.0.5", "/24");
        let config = "A=1\nNETCONFIG_DNS_STATIC_SERVERS=\"1.1.1.2 9.9.9.9\"\n";
        let own = "HYPERV_AGENT_DNS='1.1.1.2'\n";
        for (ifcfg, has_others, expected) in [
            ("", false, "1.1.1.1"),
            ("", true, "1.1.1.1 1.1.1.2 9.9.9.9"),
            (own, true, "1.1.1.1 9.9.9.9"),
        ] {
            assert_eq!(
                render_dns(&v4, config, ifcfg, has_others),
                format!("A=1\nNETCONFIG_DNS_STATIC_SERVERS=\"{expected}\"\n")
            );
        }
    }
}
