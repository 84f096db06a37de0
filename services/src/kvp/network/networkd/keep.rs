//! What a new `.network` file keeps of the one in force: all but the addresses, gateways, DNS
//! servers and default routes of the families that the host configures.

use std::net::{IpAddr, Ipv4Addr};

use crate::kvp::network::ini::{Document, Section};
use crate::kvp::network::settings::Settings;
use crate::kvp::request::Family;

/// What is kept of a file.
#[derive(Debug, Default)]
pub(in crate::kvp::network) struct Kept {
    /// The lines of `[Network]`.
    pub(super) network: Vec<(String, String)>,
    /// The other sections.
    pub(super) sections: Vec<Section>,
    /// DHCP configures IPv4, IPv6.
    pub(super) dhcp: (bool, bool),
    /// Static addresses of the host that are in one of the sections.
    pub(super) addresses: Vec<IpAddr>,
    /// Lines of the first default routes of IPv4 and of IPv6, other than their gateways.
    pub(super) default_routes: [Option<Vec<(String, String)>>; 2],
    /// What is not kept.
    pub(super) lost: Vec<String>,
}

/// Keys of `[Network]` that create devices on top of the interface, by the device's name.
const STACKED: [&str; 9] = [
    "VLAN", "MACVLAN", "MACVTAP", "IPVLAN", "IPVTAP", "VXLAN", "MACsec", "Tunnel", "Xfrm",
];

/// Returns what is kept of a file of that name. Devices on top of the interface are those for which
/// `stacked` returns `true`.
pub(in crate::kvp::network) fn keep(
    name: &str,
    base: &Document,
    settings: &Settings,
    stacked: &dyn Fn(&str) -> bool,
) -> Kept {
    let mut keeper = Keeper {
        name,
        settings,
        kept: Kept::default(),
    };
    for section in &base.sections {
        match section.name.as_str() {
            "Match" => {}
            "Network" => section.lines.iter().for_each(|line| keeper.network(line)),
            "Link" => keeper.link(section),
            "Address" => keeper.address(section),
            "Route" => keeper.route(section),
            "NextHop" => keeper.next_hop(section),
            _ => keeper.kept.sections.push(section.clone()),
        }
    }
    keeper.stacked(stacked);
    keeper.default_routes();
    keeper.kept
}

impl Kept {
    /// Returns what a file has that replaces none.
    pub(in crate::kvp::network) fn nothing() -> Self {
        let network = [("LinkLocalAddressing", "ipv6"), ("IPv6AcceptRA", "yes")];
        Self {
            network: network
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Self::default()
        }
    }

    /// Returns whether there is a route.
    pub(super) fn has_route(&self) -> bool {
        self.sections.iter().any(|section| section.name == "Route")
    }
}

struct Keeper<'a> {
    name: &'a str,
    settings: &'a Settings,
    kept: Kept,
}

impl Keeper<'_> {
    fn lose(&mut self, section: &str, key: &str, value: &str) {
        let name = self.name;
        self.kept
            .lost
            .push(format!("{name}: [{section}] {key}={value}"));
    }

    fn network(&mut self, (key, value): &(String, String)) {
        if value.is_empty() {
            let lines = &mut self.kept.network;
            lines.retain(|(earlier, _)| earlier != key);
            return;
        }
        match key.as_str() {
            "Address" | "Gateway" if self.replaces(value) => {}
            "DefaultRouteOnDevice" if self.settings.families.has_v4() => {}
            "DHCP" => self.kept.dhcp = dhcp(value),
            "DNS" => {
                let servers = value.split_ascii_whitespace();
                let of_host = |server: &&str| {
                    let ip = server.parse();
                    self.replaces(server) || ip.is_ok_and(|ip| self.settings.dns.contains(&ip))
                };
                let kept: Vec<&str> = servers.filter(|server| !of_host(server)).collect();
                if !kept.is_empty() {
                    self.kept.network.push((key.clone(), kept.join(" ")));
                }
            }
            _ => self.kept.network.push((key.clone(), value.clone())),
        }
    }

    /// Returns whether a text is of a family that the host configures.
    fn replaces(&self, text: &str) -> bool {
        family(text).is_some_and(|family| self.has(family))
    }

    fn has(&self, family: Family) -> bool {
        self.settings.families.0 & family.0 != 0
    }

    fn link(&mut self, section: &Section) {
        let mut section = section.clone();
        section.lines.retain(|(key, _)| key != "Unmanaged");
        self.kept.sections.push(section);
    }

    fn address(&mut self, section: &Section) {
        let text = section.last("Address").unwrap_or_default();
        if !self.replaces(text) {
            self.kept.sections.push(section.clone());
            return;
        }
        let same = self.settings.addresses().find(|(ip, prefix)| {
            text == format!("{ip}/{prefix}") && !self.kept.addresses.contains(ip)
        });
        if let Some((ip, _)) = same {
            self.kept.addresses.push(ip);
            self.kept.sections.push(section.clone());
            return;
        }
        for (key, value) in &section.lines {
            if !["Address", "Broadcast"].contains(&key.as_str()) {
                self.lose("Address", key, value);
            }
        }
    }

    fn route(&mut self, section: &Section) {
        let mut section = section.clone();
        self.source(&mut section);
        let Some(family) = default_of(&section).filter(|family| self.has(*family)) else {
            self.on_link(&mut section, "GatewayOnLink");
            self.kept.sections.push(section);
            return;
        };
        let own = [
            "Destination",
            "Gateway",
            "GatewayOnLink",
            "MultiPathRoute",
            "Table",
        ];
        section
            .lines
            .retain(|(key, _)| !own.contains(&key.as_str()));
        let [v4, v6] = &mut self.kept.default_routes;
        let place = if family == Family::V4 { v4 } else { v6 };
        match place {
            None => *place = Some(section.lines),
            Some(_) => self.lose_route(&section.lines),
        }
    }

    /// A metric is part of the order of gateways, which the host states.
    fn lose_route(&mut self, lines: &[(String, String)]) {
        for (key, value) in lines.iter().filter(|(key, _)| key != "Metric") {
            self.lose("Route", key, value);
        }
    }

    /// Drops a preferred source address that the interface will not have.
    fn source(&mut self, section: &mut Section) {
        let settings = self.settings;
        let lines = std::mem::take(&mut section.lines);
        let (gone, lines): (Vec<_>, _) = lines.into_iter().partition(|(key, value)| {
            let ip: Option<IpAddr> = value.parse().ok();
            key == "PreferredSource"
                && ip.is_some_and(|ip| {
                    settings.replaces(ip) && settings.addresses().all(|(own, _)| own != ip)
                })
        });
        section.lines = lines;
        for (key, value) in gone {
            self.lose("Route", &key, &value);
        }
    }

    fn next_hop(&mut self, section: &Section) {
        let mut section = section.clone();
        self.on_link(&mut section, "OnLink");
        self.kept.sections.push(section);
    }

    /// A gateway in no subnet would make systemd-networkd reject the whole configuration.
    fn on_link(&self, section: &mut Section, key: &str) {
        let gateway = section.last("Gateway").and_then(|ip| ip.parse().ok());
        if gateway.is_some_and(|gateway| !self.settings.reaches(gateway)) {
            section.lines.retain(|(other, _)| other != key);
            section.push(key, "yes");
        }
    }

    /// Drops devices that cannot be made.
    fn stacked(&mut self, stacked: &dyn Fn(&str) -> bool) {
        let lines = std::mem::take(&mut self.kept.network);
        for (key, value) in lines {
            match STACKED.contains(&key.as_str()) && !stacked(&value) {
                true => self.lose("Network", &key, &value),
                false => self.kept.network.push((key, value)),
            }
        }
    }

    /// Gives lines of default routes to those of the host, if there are any.
    fn default_routes(&mut self) {
        let settings = self.settings;
        let counts = [settings.gateways4.len(), settings.gateways6.len()];
        let mut routes = std::mem::take(&mut self.kept.default_routes);
        for (lines, count) in routes.iter_mut().zip(counts) {
            match (lines.as_mut(), count) {
                (Some(lines), 0) => self.lose_route(lines),
                // The others have metrics that are higher than the first's usual one.
                (Some(lines), 2..) => lines.retain(|(key, _)| key != "Metric"),
                _ => {}
            }
        }
        self.kept.default_routes = routes;
    }
}

/// Returns the family of a default route of the main table; `None` for any other route.
fn default_of(route: &Section) -> Option<Family> {
    let is =
        |key: &str, values: &[&str]| route.last(key).is_none_or(|value| values.contains(&value));
    let plain = is("Table", &["main", "254"]) && is("Type", &["unicast"]) && is("Source", &[]);
    if !plain || !is("Destination", &["0.0.0.0/0", "::/0"]) {
        return None;
    }
    let mut keys = ["Destination", "Gateway", "MultiPathRoute"].into_iter();
    keys.find_map(|key| family(route.last(key)?))
}

/// Returns the family of an address with or without a prefix length, a port and the like, or of
/// what DHCP assigns.
fn family(text: &str) -> Option<Family> {
    let address = text.split(['#', '@', ' ']).next().unwrap_or_default();
    if ["_dhcp4", "_dhcp", "dhcp"].contains(&address) {
        return Some(Family::V4);
    }
    if address.split(':').nth(2).is_some() {
        return Some(Family::V6);
    }
    let ip = address.split(['/', ':', '%']).next()?;
    ip.parse::<Ipv4Addr>().ok().map(|_| Family::V4)
}

/// Returns whether a value of `DHCP=` enables DHCP for IPv4 and for IPv6. Old versions use
/// `both`, `v4`, `v6` and `none`.
pub(super) fn dhcp(value: &str) -> (bool, bool) {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
    let both = is(&["1", "yes", "y", "true", "t", "on", "both"]);
    (both || is(&["ipv4", "v4"]), both || is(&["ipv6", "v6"]))
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
