//! What a new configuration keeps of the stanzas in force: all but the address configuration that
//! the host states.

use std::net::{IpAddr, Ipv4Addr};

use super::hook;
use super::interfaces::{Family, Stanza};
use crate::kvp::network::dns::server;
use crate::kvp::network::settings::Settings;

/// Options that belong to an address or a gateway.
const OF_ADDRESSES: [&str; 5] = ["address", "netmask", "network", "broadcast", "gateway"];

/// Options that belong to an address, and that the host does not know.
const UNKNOWN_TO_HOST: [&str; 4] = [
    "pointopoint",
    "point-to-point",
    "scope",
    "preferred-lifetime",
];

/// What stays of the stanzas of an interface.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// What stays of the stanzas of each family that the host configures, and of the stanzas
    /// without one.
    v4: Part,
    v6: Part,
    /// The stanzas of the families that the host leaves as they are.
    pub(super) stanzas: Vec<(Stanza, Part)>,
    /// What cannot stay.
    pub(super) lost: Vec<String>,
}

/// What stays of stanzas.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The method that the stanzas had.
    pub(super) method: String,
    /// Keywords and values, without those of DNS servers and commands.
    pub(super) options: Vec<(String, String)>,
    pub(super) dns: Vec<String>,
    /// Keywords and commands.
    pub(super) hooks: Vec<(String, String)>,
}

impl Kept {
    /// Filters the stanzas of the interface `name`, each of one family.
    pub(super) fn of_families(stanzas: Vec<Stanza>, name: &str, settings: &Settings) -> Self {
        let mut kept = Self::default();
        for stanza in stanzas {
            let family = stanza.family.unwrap_or(Family::V4);
            if hook::replaces(settings, family) {
                let part = match family {
                    Family::V4 => &mut kept.v4,
                    Family::V6 => &mut kept.v6,
                };
                part.add(&stanza, Some(family), name, settings, &mut kept.lost);
            } else {
                let mut part = Part::default();
                part.add(&stanza, Some(family), name, settings, &mut kept.lost);
                kept.stanzas.push((stanza, part));
            }
        }
        kept.v4.each_once();
        kept.v6.each_once();
        kept
    }

    /// Filters the stanzas of the interface `name` into one, which is for both families, as in
    /// ifupdown-ng.
    pub(super) fn of_interface(
        stanzas: Vec<Stanza>,
        name: &str,
        settings: &Settings,
    ) -> (Part, Vec<String>) {
        let (mut part, mut lost) = (Part::default(), Vec::new());
        for mut stanza in stanzas {
            if stanza.method == "dhcp" {
                let dhcp = ("use".to_owned(), "dhcp".to_owned());
                stanza.options.insert(0, dhcp);
            }
            take_netmask(&mut stanza.options);
            part.add(&stanza, None, name, settings, &mut lost);
        }
        let mut seen: Vec<(String, String)> = Vec::new();
        part.options.retain(|option| {
            let is_new = !seen.contains(option);
            seen.push(option.clone());
            is_new
        });
        (part, lost)
    }

    pub(super) fn part(&self, family: Family) -> &Part {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl Part {
    /// Adds what stays of a stanza. Without a `family`, the addresses themselves have one.
    fn add(
        &mut self,
        stanza: &Stanza,
        family: Option<Family>,
        name: &str,
        settings: &Settings,
        lost: &mut Vec<String>,
    ) {
        self.method.clone_from(&stanza.method);
        for (key, value) in &stanza.options {
            let option = (key.clone(), value.clone());
            let line = || format!("{key} {value}");
            let is_replaced = || {
                let v6 = Family::V6;
                let of_value = if value.contains(':') { v6 } else { Family::V4 };
                hook::replaces(settings, family.unwrap_or(of_value))
            };
            match &**key {
                key if hook::KEYS.contains(&key) => match hook::adapt(value, name, settings) {
                    Some(command) => self.hooks.push((key.to_owned(), command)),
                    None if hook::is_own(value) => {}
                    None => lost.push(line()),
                },
                "dns-nameservers" | "dns-nameserver" => {
                    let words = value.split_whitespace();
                    let stays = |word: &&str| server(word).is_none_or(|ip| !settings.replaces(ip));
                    self.dns.extend(words.filter(stays).map(str::to_owned));
                }
                key if OF_ADDRESSES.contains(&key) && is_replaced() => {}
                key if UNKNOWN_TO_HOST.contains(&key) && is_replaced() => lost.push(line()),
                "use" if value == "dhcp" && settings.families.has_v4() => {}
                _ => self.options.push(option),
            }
        }
    }

    /// Leaves one of each option, the last, since ifupdown refuses a stanza with an option twice.
    fn each_once(&mut self) {
        let mut once: Vec<(String, String)> = Vec::new();
        for (key, value) in self.options.drain(..) {
            match once.iter_mut().find(|(other, _)| *other == key) {
                Some(same) => same.1 = value,
                None => once.push((key, value)),
            }
        }
        self.options = once;
    }

    pub(super) fn option(&self, key: &str) -> Option<&str> {
        let mut options = self.options.iter();
        options.find_map(|(other, value)| (other == key).then_some(&**value))
    }
}

/// Writes a netmask into the addresses that it is for.
fn take_netmask(options: &mut Vec<(String, String)>) {
    let at = options.iter().position(|(key, _)| key == "netmask");
    let Some(netmask) = at.map(|at| options.remove(at).1) else {
        return;
    };
    let prefix = match netmask.parse::<Ipv4Addr>() {
        Ok(mask) => mask.to_bits().leading_ones().to_string(),
        Err(_) => netmask.trim_start_matches('/').to_owned(),
    };
    for (key, value) in options {
        if key == "address" && value.parse::<IpAddr>().is_ok() {
            *value = format!("{value}/{prefix}");
        }
    }
}
