//! The static routes of a profile.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::key_file::KeyFile;
use crate::kvp::network::settings::Settings;

/// The number of the routing table `main`.
const MAIN: &str = "254";

/// What a key of options ends with, behind the key of the route.
const OPTIONS: &str = "_options";

/// Removes all routes of a section whose family the host configures, and returns those that stay
/// with their options: all but the default routes. Adds to `lost` what of them cannot stay.
pub(super) fn take(
    file: &mut KeyFile,
    section: &str,
    settings: &Settings,
    lost: &mut Vec<String>,
) -> Vec<(String, String)> {
    let removed = file.remove(section, |key| {
        number(key.strip_suffix(OPTIONS).unwrap_or(key)).is_some()
    });
    let mut routes = BTreeMap::new();
    let mut all_options = BTreeMap::new();
    for (key, value) in &removed {
        match (key.strip_suffix(OPTIONS), number(key)) {
            (Some(key), _) => all_options.insert(key, value.as_str()),
            (None, number) => routes.insert((number, key.as_str()), value.as_str()),
        };
    }
    let kept = routes.into_iter().filter_map(|((_, key), route)| {
        let options = all_options.get(key).copied().unwrap_or_default();
        let options: Vec<&str> = options.split(',').filter(|text| !text.is_empty()).collect();
        let (destination, gateway) = parse(route);
        if is_default(destination) && is_main(&options) {
            return None;
        }
        let (sources, mut options): (Vec<&str>, Vec<&str>) = options
            .into_iter()
            .partition(|option| is_foreign_source(option, settings));
        lost.extend(
            sources
                .iter()
                .map(|source| format!("{section}.{key}{OPTIONS}={source}")),
        );
        let is_on_link = options.iter().any(|option| option.starts_with("onlink="));
        if !is_on_link && gateway.is_some_and(|gateway| !settings.reaches(gateway)) {
            options.push("onlink=true");
        }
        Some((route.to_owned(), options.join(",")))
    });
    kept.collect()
}

/// Returns the number in the key of a route, 0 without a number; `None` for other keys.
fn number(key: &str) -> Option<u64> {
    let digits = key.strip_prefix("routes").or(key.strip_prefix("route"))?;
    match digits {
        "" => Some(0),
        _ => digits.parse().ok(),
    }
}

/// Returns the destination of a route, with its prefix length, and the gateway, if there is one.
/// NetworkManager takes `/`, `;` and `,` for separators.
fn parse(route: &str) -> (&str, Option<IpAddr>) {
    let (destination, rest) = route.split_once([',', ';']).unwrap_or((route, ""));
    let gateway = rest.split([',', ';']).next().unwrap_or_default();
    let gateway: Option<IpAddr> = gateway.trim().parse().ok();
    (
        destination.trim(),
        gateway.filter(|ip| !ip.is_unspecified()),
    )
}

fn is_default(destination: &str) -> bool {
    matches!(destination, "0.0.0.0/0" | "::/0" | "0.0.0.0" | "::")
}

fn is_main(options: &[&str]) -> bool {
    let table = options
        .iter()
        .find_map(|option| option.strip_prefix("table="));
    table.is_none_or(|table| table == MAIN || table == "0")
}

/// Returns whether the option is a source address that the interface will not have.
fn is_foreign_source(option: &str, settings: &Settings) -> bool {
    let source = option
        .strip_prefix("src=")
        .and_then(|text| text.parse().ok());
    source.is_some_and(|source: IpAddr| !settings.addresses().any(|(ip, _)| ip == source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_numbers_or_none() {
        for (key, expected) in [
            ("route", Some(0)),
            ("routes", Some(0)),
            ("route1", Some(1)),
            ("routes12", Some(12)),
            ("route-metric", None),
            ("route1_options", None),
            ("routing-rule1", None),
        ] {
            assert_eq!(number(key), expected, "{key}");
        }
    }

    #[test]
    fn routes_are_parsed() {
        for (route, destination, gateway) in [
            (
                "10.5.0.0/16,192.168.7.1,50",
                "10.5.0.0/16",
                Some("192.168.7.1"),
            ),
            ("10.5.0.0/16,0.0.0.0,50", "10.5.0.0/16", None),
            ("0.0.0.0/0;192.168.7.1;", "0.0.0.0/0", Some("192.168.7.1")),
            ("::/0, fe80::1", "::/0", Some("fe80::1")),
            ("10.5.0.0/16", "10.5.0.0/16", None),
        ] {
            let gateway = gateway.map(|text| text.parse().unwrap());
            assert_eq!(parse(route), (destination, gateway), "{route}");
        }
    }
}
