//! The `route` and `route6` files of Red Hat: arguments of `ip route`, a line a route.

use std::net::IpAddr;

use crate::kvp::network::settings::Settings;

/// Returns the file without the default routes of a family that the host configures, and with
/// gateways marked as on-link that are in none of the new subnets. Adds to `lost` what cannot stay
/// of the other routes.
pub(super) fn replace(text: &str, settings: &Settings, lost: &mut Vec<String>) -> String {
    let lines = text.lines().filter_map(|line| {
        let is_comment = line.trim_start().starts_with('#');
        match is_comment || line.trim().is_empty() || is_variable(line) {
            true => Some(unreached_variable(line, settings, lost)),
            false => route(line, settings, lost),
        }
    });
    lines.map(|line| line + "\n").collect()
}

/// Returns whether this is a line of the other format, such as `GATEWAY0=192.168.7.1`.
fn is_variable(line: &str) -> bool {
    line.contains('=')
}

/// The other format cannot mark a gateway as on-link.
fn unreached_variable(line: &str, settings: &Settings, lost: &mut Vec<String>) -> String {
    let gateway = line.trim().strip_prefix("GATEWAY");
    let gateway = gateway.and_then(|rest| {
        rest.split_once('=')?
            .1
            .trim_matches(['"', '\''])
            .parse()
            .ok()
    });
    if gateway.is_some_and(|gateway| !settings.reaches(gateway)) {
        lost.push(line.trim().to_owned());
    }
    line.to_owned()
}

fn route(line: &str, settings: &Settings, lost: &mut Vec<String>) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |key: &str| {
        let place = words.iter().position(|word| *word == key)?;
        words.get(place + 1).copied()
    };
    let ip = |key: &str| -> Option<IpAddr> { after(key)?.parse().ok() };
    let gateway = ip("via");
    let destination = words.iter().find(|word| **word != "to");
    let is_default = match destination.copied() {
        Some("0.0.0.0/0") => settings.families.has_v4(),
        Some("::/0") => settings.families.has_v6(),
        Some("default") => gateway.is_some_and(|gateway| settings.replaces(gateway)),
        _ => false,
    };
    if is_default && matches!(after("table"), None | Some("main" | "254")) {
        return None;
    }
    let source = ip("src").filter(|source| {
        settings.replaces(*source) && !settings.addresses().any(|(own, _)| own == *source)
    });
    let mut line = line.to_owned();
    if let Some(source) = source {
        let place = words
            .iter()
            .position(|word| *word == "src")
            .unwrap_or_default();
        let kept = words.iter().enumerate();
        let kept = kept.filter(|(index, _)| *index != place && *index != place + 1);
        line = kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ");
        lost.push(format!("src {source}"));
    }
    if !words.contains(&"onlink") && gateway.is_some_and(|gateway| !settings.reaches(gateway)) {
        line = format!("{} onlink", line.trim_end());
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::request::{Family, IpInfo};

    #[test]
    fn routes_stay_but_for_the_default_ones() {
        let info = IpInfo {
            family: Family::V4,
            addresses: "10.0.0.5".to_owned(),
            subnets: "/24".to_owned(),
            gateways: "10.0.0.1".to_owned(),
            ..IpInfo::default()
        };
        let settings = Settings::parse(&info).unwrap();
        let mut lost = Vec::new();
        let text = "\
# of the administrator
default via 192.168.7.254 dev eth0
0.0.0.0/0 via 192.168.7.254
0.0.0.0/0 via 192.168.7.254 table 200
10.50.0.0/16 via 192.168.7.1 dev eth0 src 192.168.7.7 metric 5
10.51.0.0/16 via 10.0.0.2 dev eth0
default via fd07::1 dev eth0

ADDRESS0=10.52.0.0
GATEWAY0=192.168.7.1
";
        let expected = "\
# of the administrator
0.0.0.0/0 via 192.168.7.254 table 200 onlink
10.50.0.0/16 via 192.168.7.1 dev eth0 metric 5 onlink
10.51.0.0/16 via 10.0.0.2 dev eth0
default via fd07::1 dev eth0

ADDRESS0=10.52.0.0
GATEWAY0=192.168.7.1
";
        assert_eq!(replace(text, &settings, &mut lost), expected);
        assert_eq!(lost, ["src 192.168.7.7", "GATEWAY0=192.168.7.1"]);
        let mut again = Vec::new();
        assert_eq!(replace(expected, &settings, &mut again), expected);
    }
}
