//! Puts the configuration of the host into a profile, and keeps the rest of it.

use std::net::IpAddr;

use super::key_file::KeyFile;
use super::nmcli::PRIORITY;
use super::routes;
use crate::kvp::network::settings::{Route, Settings, joined};

/// Replaces the addresses, gateways, DNS servers and methods of the families that the host
/// configures. The rest stays: MTU, search domains, static routes, 802.1X… Returns what cannot
/// stay, as `section.key=value`.
pub(in crate::kvp::network) fn replace(file: &mut KeyFile, settings: &Settings) -> Vec<String> {
    let mut lost = Vec::new();
    file.remove("connection", |key| key == "timestamp");
    file.set("connection", "autoconnect", true);
    file.set("connection", "autoconnect-priority", PRIORITY);
    let has_v4 = settings.families.has_v4();
    if has_v4 {
        let method = match (settings.dhcp4, settings.v4.is_empty()) {
            (true, _) => "auto",
            (false, false) => "manual",
            (false, true) => "disabled",
        };
        let previous = file.remove("ipv4", |key| key == "method");
        if let Some((_, value)) = previous.iter().rfind(|(_, value)| value == "shared") {
            lost.push(format!("ipv4.method={value}"));
        }
        file.add("ipv4", "method", method);
        addresses(file, "ipv4", settings, &mut lost);
    }
    dns(file, "ipv4", settings, has_v4);
    let has_v6 = settings.families.has_v6();
    if has_v6 {
        // The host does not decide on router advertisements.
        let method = match (file.last("ipv6", "method"), settings.v6.is_empty()) {
            (Some("manual"), false) => "manual",
            (Some("dhcp"), _) => "dhcp",
            _ => "auto",
        };
        file.set("ipv6", "method", method);
        addresses(file, "ipv6", settings, &mut lost);
    }
    dns(file, "ipv6", settings, has_v6);
    lost
}

fn is_of(section: &str, ip: IpAddr) -> bool {
    ip.is_ipv4() == (section == "ipv4")
}

/// Replaces the addresses and default routes of a family.
fn addresses(file: &mut KeyFile, section: &str, settings: &Settings, lost: &mut Vec<String>) {
    let is_address = |key: &str| {
        let key = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
        matches!(key, "address" | "addresses" | "gateway")
    };
    file.remove(section, is_address);
    let labels = file.remove(section, |key| key.starts_with("address-label"));
    lost.extend(
        labels
            .iter()
            .map(|(key, value)| format!("{section}.{key}={value}")),
    );
    let addresses = settings.addresses().filter(|(ip, _)| is_of(section, *ip));
    for (number, (ip, prefix)) in (1..).zip(addresses) {
        file.add(
            section,
            &format!("address{number}"),
            format!("{ip}/{prefix}"),
        );
    }
    let defaults: Vec<Route> = settings
        .routes()
        .filter(|route| is_of(section, route.gateway))
        .collect();
    if !defaults.is_empty() {
        file.remove(section, |key| key == "never-default");
    }
    let kept = routes::take(file, section, settings, lost);
    // Routes, since `gateway` needs a static address.
    let new = defaults.iter().map(|route| {
        let (destination, metric) = (route.destination(), route.metric_after(","));
        let options = match route.on_link {
            true => "onlink=true".to_owned(),
            false => String::new(),
        };
        (format!("{destination},{}{metric}", route.gateway), options)
    });
    for (number, (route, options)) in (1..).zip(new.chain(kept)) {
        file.add(section, &format!("route{number}"), route);
        if !options.is_empty() {
            file.add(section, &format!("route{number}_options"), options);
        }
    }
}

/// Replaces the DNS servers of a family: where the host configures the family, or has servers of
/// it.
fn dns(file: &mut KeyFile, section: &str, settings: &Settings, replaced: bool) {
    let servers = settings.dns.iter().filter(|ip| is_of(section, **ip));
    let servers = joined(servers, ";");
    if replaced || !servers.is_empty() {
        file.remove(section, |key| key == "dns");
    }
    if !servers.is_empty() {
        file.add(section, "dns", format!("{servers};"));
    }
    // There would be no server at all.
    if section == "ipv4" && settings.dhcp4 && settings.dns.is_empty() {
        file.remove(section, |key| key == "ignore-auto-dns");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::settings;
    use crate::kvp::request::Family;

    const PROFILE: &str = "\
# of the administrator
[connection]
id=wired
uuid=11111111-2222-3333-4444-555555555555
type=ethernet
interface-name=eth0
timestamp=1700000000
zone=internal

[ethernet]
mtu=1400
cloned-mac-address=02:00:00:00:00:01

[802-1x]
eap=peap;
password=secret 

[ipv4]
address-labels=eth0:1
address1=192.168.7.7/24,192.168.7.254
addresses2=192.168.7.8/24
dhcp-hostname=replica
dns=9.9.9.9;
dns-search=corp.example;
ignore-auto-dns=true
method=manual
never-default=true
route-metric=50
route1=0.0.0.0/0,192.168.7.253
route2=10.50.0.0/16,192.168.7.1,20
route2_options=mtu=1300,src=192.168.7.7
route10=0.0.0.0/0,10.0.0.9
route10_options=table=200
routes3=10.51.0.0/16,10.0.0.2
routing-rule1=priority 5 from 192.168.7.7 table 200

[ipv6]
addr-gen-mode=eui64
address1=fd07::7/64
dns=fd07::53;
ip6-privacy=2
method=manual
route1=fd50::/64,fd07::1
";

    fn v4() -> Settings {
        settings(
            Family::V4,
            false,
            ["10.0.0.5", "/24", "10.0.0.1", "1.1.1.1"],
        )
    }

    fn replaced(text: &str, settings: &Settings) -> (String, Vec<String>) {
        let mut file = KeyFile::parse(text);
        let lost = replace(&mut file, settings);
        (file.to_string(), lost)
    }

    #[test]
    fn everything_but_the_addresses_of_the_family_is_kept() {
        let (text, lost) = replaced(PROFILE, &v4());
        let end = PROFILE.find("[ipv6]").unwrap();
        assert_eq!(
            text,
            "\
# of the administrator
[connection]
id=wired
uuid=11111111-2222-3333-4444-555555555555
type=ethernet
interface-name=eth0
zone=internal
autoconnect=true
autoconnect-priority=999

[ethernet]
mtu=1400
cloned-mac-address=02:00:00:00:00:01

[802-1x]
eap=peap;
password=secret 

[ipv4]
dhcp-hostname=replica
dns-search=corp.example;
ignore-auto-dns=true
route-metric=50
routing-rule1=priority 5 from 192.168.7.7 table 200
method=manual
address1=10.0.0.5/24
route1=0.0.0.0/0,10.0.0.1
route2=10.50.0.0/16,192.168.7.1,20
route2_options=mtu=1300,onlink=true
route3=10.51.0.0/16,10.0.0.2
route4=0.0.0.0/0,10.0.0.9
route4_options=table=200
dns=1.1.1.1;

"
            .to_owned()
                + &PROFILE[end..]
        );
        assert_eq!(
            lost,
            [
                "ipv4.address-labels=eth0:1",
                "ipv4.route2_options=src=192.168.7.7"
            ]
        );
    }

    #[test]
    fn ipv6_alone_leaves_ipv4() {
        let v6 = settings(Family::V6, false, ["fd00::5", "/64", "fd00::1", ""]);
        let (text, lost) = replaced(PROFILE, &v6);
        let v4 = |text: &str| {
            let (start, end) = (text.find("[ipv4]").unwrap(), text.find("[ipv6]").unwrap());
            text[start..end].to_owned()
        };
        assert_eq!(v4(&text), v4(PROFILE));
        let end = text.find("[ipv6]").unwrap();
        assert_eq!(
            &text[end..],
            "[ipv6]\naddr-gen-mode=eui64\nip6-privacy=2\nmethod=manual\naddress1=fd00::5/64\n\
             route1=::/0,fd00::1\nroute2=fd50::/64,fd07::1\nroute2_options=onlink=true\n"
        );
        assert_eq!(lost, [""; 0]);
        // Servers do not make a family the host's.
        let dns = settings(Family::V6, false, ["fd00::5", "/64", "", "1.1.1.1"]);
        let (text, _) = replaced(PROFILE, &dns);
        assert!(
            text.contains("address1=192.168.7.7/24,192.168.7.254\n"),
            "{text}"
        );
        assert!(
            text.contains("dns=1.1.1.1;\n") && !text.contains("9.9.9.9"),
            "{text}"
        );
    }

    #[test]
    fn methods_are_those_of_the_host() {
        let slaac = settings(Family::V6, false, ["", "", "", ""]);
        let dhcp = settings(Family::V4, true, ["", "", "", ""]);
        let v6 = settings(Family::BOTH, false, ["fd00::5", "/64", "", ""]);
        for (settings, text, section, expected) in [
            (&slaac, PROFILE, "ipv6", "auto"),
            (&slaac, "[ipv6]\nmethod=dhcp\n", "ipv6", "dhcp"),
            (&slaac, "[ipv6]\nmethod=disabled\n", "ipv6", "auto"),
            (&slaac, PROFILE, "ipv4", "manual"),
            (&v6, "", "ipv6", "auto"),
            (&v6, PROFILE, "ipv4", "disabled"),
            (&dhcp, PROFILE, "ipv4", "auto"),
        ] {
            let mut file = KeyFile::parse(text);
            replace(&mut file, settings);
            assert_eq!(file.last(section, "method"), Some(expected), "{text}");
        }
        let (text, lost) = replaced("[ipv4]\nmethod=shared\nignore-auto-dns=true\n", &dhcp);
        assert_eq!(lost, ["ipv4.method=shared"]);
        assert!(!text.contains("ignore-auto-dns"), "{text}");
    }

    proptest! {
        #[test]
        fn twice_is_once(text in "(\\[(connection|ipv4|ipv6)\\]\n|(method|dns|routes?[0-9]?|\
                                  route1_options)=[ -~]{0,9}\n|[ -~]{0,9}\n){0,9}") {
            for settings in [v4(), settings(Family::V4, true, ["", "", "", ""])] {
                let (once, _) = replaced(&text, &settings);
                let (twice, lost) = replaced(&once, &settings);
                let sorted = |text: &str| {
                    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                    lines.sort();
                    lines
                };
                prop_assert_eq!(sorted(&twice), sorted(&once));
                prop_assert_eq!(lost, [""; 0]);
            }
        }
    }
}
