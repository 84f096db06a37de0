//! The commands of a stanza (`up`, `down`, …): which of them are part of the address
//! configuration.

use std::net::IpAddr;

use super::interfaces::Family;
use crate::kvp::network::settings::Settings;

/// The keywords of commands.
pub(super) const KEYS: [&str; 6] = ["pre-up", "up", "post-up", "pre-down", "down", "post-down"];

/// What a simple command does to the address configuration.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// Adds or removes addresses of the interface.
    Address(Option<Family>),
    /// Adds or removes a default route of the main table.
    Default(Family),
    /// Adds or removes another route.
    Route {
        /// The program is `ip`, and not `route`.
        by_ip: bool,
        adds: bool,
        gateway: Option<IpAddr>,
    },
    Other,
}

/// Returns a command of the previous configuration of the interface `name` for the new one; `None`
/// if it cannot stay.
pub(super) fn adapt(command: &str, name: &str, settings: &Settings) -> Option<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut adapted: Vec<String> = Vec::new();
    let mut changed = false;
    for part in words.split_inclusive(|word| ends_command(word)) {
        let (simple, separator) = match part.split_last() {
            Some((last, rest)) if ends_command(last) && !last.ends_with(';') => (rest, Some(*last)),
            _ => (part, None),
        };
        let before = adapted.len();
        match action(simple, name) {
            Action::Address(None) => return None,
            Action::Address(Some(family)) | Action::Default(family) => {
                if replaces(settings, family) {
                    return None;
                }
                adapted.extend(simple.iter().map(|word| (*word).to_owned()));
            }
            Action::Route {
                by_ip,
                adds,
                gateway,
            } => {
                let out_of_reach = gateway.is_some_and(|ip| !settings.reaches(ip));
                if out_of_reach && !by_ip {
                    return None;
                }
                adapted.extend(without_old_source(simple, |ip| {
                    let mut addresses = settings.addresses();
                    settings.replaces(ip) && !addresses.any(|(new, _)| new == ip)
                }));
                if out_of_reach && adds && !simple.contains(&"onlink") {
                    insert_onlink(&mut adapted, before, name);
                }
            }
            Action::Other => adapted.extend(simple.iter().map(|word| (*word).to_owned())),
        }
        changed |= adapted.get(before..).is_some_and(|new| new != simple);
        adapted.extend(separator.map(str::to_owned));
    }
    Some(match changed {
        true => adapted.join(" "),
        // With its spaces, which quotes may contain.
        false => command.to_owned(),
    })
}

/// Returns whether the host configures the family.
pub(super) fn replaces(settings: &Settings, family: Family) -> bool {
    match family {
        Family::V4 => settings.families.has_v4(),
        Family::V6 => settings.families.has_v6(),
    }
}

/// Returns whether a command is one that the agent writes itself.
pub(super) fn is_own(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    let rest = match &*words {
        ["ip", "-6", rest @ ..] | ["ip", rest @ ..] => rest,
        _ => return false,
    };
    match rest {
        ["address", "add" | "replace", _, "dev", "$IFACE"] => true,
        [
            "route",
            "add" | "replace",
            "default",
            "via",
            _,
            "dev",
            "$IFACE",
            "onlink",
            rest @ ..,
        ] => {
            matches!(rest, [] | ["metric", _])
        }
        _ => false,
    }
}

/// Returns the metric of the IPv4 or IPv6 default route that a command adds.
pub(super) fn default_route(command: &str, name: &str, wanted: Family) -> Option<Option<u32>> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut parts = words.split(|word| ends_command(word));
    let part = parts.find(|part| action(part, name) == Action::Default(wanted))?;
    Some(after(part, "metric").and_then(|metric| metric.parse().ok()))
}

fn ends_command(word: &str) -> bool {
    matches!(word, "&&" | "||" | "|" | "&") || word.ends_with(';')
}

fn family_of(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Returns a word without quotes and what ends a command.
fn bare(word: &str) -> &str {
    word.trim_matches(['"', '\'', ';', '(', ')'])
}

fn address(word: &str) -> Option<IpAddr> {
    let word = bare(word);
    word.split('/').next().unwrap_or(word).parse().ok()
}

/// Returns the word behind a keyword.
fn after<'a>(words: &[&'a str], keyword: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == keyword)?;
    words.get(at + 1).map(|word| bare(word))
}

fn action(words: &[&str], name: &str) -> Action {
    // A command within `if`, a loop or braces.
    let inner = |word: &&&str| !matches!(**word, "then" | "else" | "do" | "{" | "!" | "(" | "sudo");
    let start = words.iter().position(|word| inner(&word));
    let words = start
        .and_then(|start| words.get(start..))
        .unwrap_or_default();
    let Some((program, arguments)) = words.split_first() else {
        return Action::Other;
    };
    match bare(program).rsplit('/').next() {
        Some("ip") => ip_action(arguments, name),
        Some("ifconfig") => ifconfig_action(arguments, name),
        Some("route") => route_action(arguments),
        _ => Action::Other,
    }
}

fn ip_action(arguments: &[&str], name: &str) -> Action {
    let options = arguments.iter().take_while(|word| word.starts_with('-'));
    let is_v6 = options.clone().any(|word| *word == "-6");
    let arguments = arguments.get(options.count()..).unwrap_or_default();
    let (object, verb, rest) = match arguments {
        [object, verb, rest @ ..] => (bare(object), bare(verb), rest),
        _ => return Action::Other,
    };
    // `ip` takes abbreviations.
    let is_any = |word: &str, of: &[&str]| of.iter().any(|full| full.starts_with(word));
    if is_any(verb, &["show", "list", "get"]) {
        return Action::Other;
    }
    let device = after(rest, "dev");
    let is_this = |device: &str| matches!(device, "$IFACE" | "${IFACE}" | "--") || device == name;
    let named = rest.iter().copied().find_map(address);
    if is_any(object, &["address"]) {
        // A flush names no address.
        let family = named.map(family_of).or(is_v6.then_some(Family::V6));
        return match device.is_some_and(is_this) {
            true => Action::Address(family),
            false => Action::Other,
        };
    }
    if !is_any(object, &["route"]) {
        return Action::Other;
    }
    let destination = rest.first().map(|word| bare(word)).unwrap_or_default();
    let is_default = matches!(destination, "default" | "0.0.0.0/0" | "::/0" | "0/0");
    let in_main = after(rest, "table").is_none_or(|table| matches!(table, "main" | "254"));
    let gateway = after(rest, "via").and_then(|gateway| match gateway {
        "inet" | "inet6" => after(rest, gateway).and_then(address),
        other => address(other),
    });
    if is_default && in_main && device.is_none_or(is_this) {
        let is_v6 = is_v6 || destination == "::/0" || gateway.is_some_and(|ip| ip.is_ipv6());
        return Action::Default(match is_v6 {
            true => Family::V6,
            false => Family::V4,
        });
    }
    Action::Route {
        by_ip: true,
        adds: !is_any(verb, &["delete", "flush"]),
        gateway: gateway.filter(|_| device.is_none_or(is_this)),
    }
}

/// `ifconfig` also has options: only one with an address is part of the configuration.
fn ifconfig_action(arguments: &[&str], name: &str) -> Action {
    let Some((device, rest)) = arguments.split_first() else {
        return Action::Other;
    };
    let device = bare(device);
    let of_this = ["$IFACE", "${IFACE}", name].into_iter().any(|this| {
        // It may be an alias.
        let rest = device.strip_prefix(this);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    });
    match rest.iter().copied().find_map(address) {
        Some(ip) if of_this => Action::Address(Some(family_of(ip))),
        _ => Action::Other,
    }
}

fn route_action(arguments: &[&str]) -> Action {
    let adds = arguments.contains(&"add");
    if !adds && !arguments.contains(&"del") {
        return Action::Other;
    }
    let gateway = after(arguments, "gw").and_then(address);
    let is_default = ["default", "0.0.0.0", "::/0", "0.0.0.0/0"];
    let target = arguments
        .iter()
        .skip_while(|word| !matches!(**word, "add" | "del"));
    let target = target.skip(1).find(|word| !word.starts_with('-'));
    if target.is_some_and(|target| is_default.contains(target)) {
        let is_v6 = arguments.contains(&"inet6") || gateway.is_some_and(|ip| ip.is_ipv6());
        return Action::Default(match is_v6 || target == Some(&"::/0") {
            true => Family::V6,
            false => Family::V4,
        });
    }
    Action::Route {
        by_ip: false,
        adds,
        gateway: gateway.filter(|_| adds),
    }
}

/// Leaves out `src` with an address that is gone.
fn without_old_source(words: &[&str], is_old: impl Fn(IpAddr) -> bool) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let source = words.peek().and_then(|next| address(next));
        if *word == "src" && source.is_some_and(&is_old) {
            words.next();
        } else {
            kept.push((*word).to_owned());
        }
    }
    kept
}

/// Makes the gateway of a route reachable, although no subnet has it.
fn insert_onlink(words: &mut Vec<String>, start: usize, name: &str) {
    let has_device = words.iter().skip(start).any(|word| word == "dev");
    let Some(last) = words.last_mut() else {
        return;
    };
    let ending = if last.ends_with(';') {
        last.pop();
        ";"
    } else {
        ""
    };
    if !has_device {
        words.extend(["dev".to_owned(), name.to_owned()]);
    }
    words.push(format!("onlink{ending}"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Adapts a command to 10.0.0.5/24, which replaces all of IPv4.
    fn adapted(command: &str) -> Option<String> {
        let settings = Settings {
            families: crate::kvp::request::Family::V4,
            v4: vec![([10, 0, 0, 5].into(), 24)],
            ..Settings::default()
        };
        adapt(command, "eth0", &settings)
    }

    #[test]
    fn commands_of_addresses_and_default_routes_go() {
        for command in [
            "ip addr add 192.168.7.8/24 dev $IFACE",
            "/sbin/ip -4 a a 192.168.7.8/24 dev eth0",
            "ip address del 192.168.7.8/24 dev \"$IFACE\" || true",
            "ip addr flush dev eth0",
            "ip route add default via 192.168.7.1",
            "ip r replace 0.0.0.0/0 via 192.168.7.1 dev eth0 table main",
            "if true; then ip route add default via 192.168.7.1; fi",
            "ifconfig $IFACE:1 192.168.7.8 netmask 255.255.255.0 up",
            "route add default gw 192.168.7.1",
            "route add -net 0.0.0.0 gw 192.168.7.1",
            "route add -net 10.50.0.0/16 gw 192.168.7.1",
        ] {
            assert_eq!(adapted(command), None, "{command}");
        }
    }

    #[test]
    fn other_commands_stay() {
        for command in [
            "echo 'a  b'",
            "ip addr show dev eth0",
            "ip -6 addr add fd00::8/64 dev $IFACE",
            "ip addr add 10.9.0.1/24 dev tun0",
            "ip -6 route add default via fe80::1 dev eth0",
            "ip route add default via 10.0.0.1 table 100",
            "ip route add default via 192.168.7.1 dev tun0",
            "ip link set dev $IFACE mtu 1400",
            "ip rule add from 192.168.7.7 table 100",
            "ip route add 10.50.0.0/16 via 10.0.0.9",
            "ip route add 10.50.0.0/16 dev $IFACE",
            "ip route del 10.50.0.0/16 via 192.168.7.254",
            "ifconfig eth0 mtu 1400 up",
            "ifconfig eth1 192.168.7.8 up",
            "route add -net 10.50.0.0/16 gw 10.0.0.9",
            "route del -net 10.50.0.0/16 gw 192.168.7.1",
            "",
            ";",
            "&& ||",
        ] {
            assert_eq!(adapted(command).as_deref(), Some(command));
        }
    }

    #[test]
    fn routes_get_a_gateway_that_is_on_link() {
        for (command, expected) in [
            (
                "ip route add 10.50.0.0/16 via 192.168.7.254 dev $IFACE",
                "ip route add 10.50.0.0/16 via 192.168.7.254 dev $IFACE onlink",
            ),
            (
                "ip route add 10.50.0.0/16 via 192.168.7.254; true",
                "ip route add 10.50.0.0/16 via 192.168.7.254 dev eth0 onlink; true",
            ),
            (
                "ip route add 10.50.0.0/16 via 192.168.7.254 src 192.168.7.7  || true",
                "ip route add 10.50.0.0/16 via 192.168.7.254 dev eth0 onlink || true",
            ),
            (
                "ip route add 10.50.0.0/16 via 10.0.0.9 src 192.168.7.7",
                "ip route add 10.50.0.0/16 via 10.0.0.9",
            ),
            (
                "ip route add 10.50.0.0/16 via 10.0.0.9 src 10.0.0.5",
                "ip route add 10.50.0.0/16 via 10.0.0.9 src 10.0.0.5",
            ),
            (
                "ip route add default via 192.168.7.1 table 100",
                "ip route add default via 192.168.7.1 table 100 dev eth0 onlink",
            ),
        ] {
            assert_eq!(adapted(command).as_deref(), Some(expected));
        }
    }

    #[test]
    fn the_metric_of_a_default_route_is_known() {
        for (command, family, expected) in [
            ("ip route add default via 10.0.0.1", Family::V4, Some(None)),
            (
                "ip route add default via 10.0.0.1 metric 7 || true",
                Family::V4,
                Some(Some(7)),
            ),
            ("ip route add default via 10.0.0.1", Family::V6, None),
            ("ip route add 10.0.0.0/8 via 10.0.0.1", Family::V4, None),
        ] {
            assert_eq!(
                default_route(command, "eth0", family),
                expected,
                "{command}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_stays_stays_again(command in "((ip|route|ifconfig|-6|add|del|default|via|dev|src|eth0|onlink|10\\.0\\.0\\.9|10\\.50\\.0\\.0/16|192\\.168\\.7\\.1|\\|\\||x;) ){0,12}") {
            if let Some(once) = adapted(&command) {
                let again = adapted(&once);
                prop_assert_eq!(again.as_deref(), Some(&*once), "{}", command);
            }
        }
    }
}
