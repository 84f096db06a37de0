//! The `ifcfg` file of Red Hat, with the host's configuration in it.

use std::fmt::Display;
use std::net::IpAddr;

use super::variables::Variables;
use crate::kvp::network::dns::server;
use crate::kvp::network::networkmanager::nmcli::PRIORITY;
use crate::kvp::network::plan::HEADER;
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::network::target::Target;

/// Renders a file of the agent's own.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings) -> String {
    let mut file = Variables::parse("");
    file.set("DEVICE", &target.name);
    file.set("NAME", target.stem());
    file.set("UUID", target.uuid());
    if let Some(mac) = target.permanent_mac() {
        file.set("HWADDR", mac.to_ascii_uppercase());
    }
    file.set("TYPE", "Ethernet");
    replace(&mut file, settings);
    file.to_string()
}

/// Replaces the addresses, gateways, DNS servers and methods of the families that the host
/// configures, and keeps the rest. Returns what cannot stay.
pub(super) fn replace(file: &mut Variables, settings: &Settings) -> Vec<String> {
    let mut lost = Vec::new();
    file.set("ONBOOT", "yes");
    // NetworkManager may have other profiles for the interface.
    file.set("AUTOCONNECT_PRIORITY", PRIORITY);
    if settings.families.has_v4() {
        v4(file, settings, &mut lost);
    }
    if settings.families.has_v6() {
        v6(file, settings);
    }
    dns(file, settings);
    file.comment(HEADER.trim_end());
    lost
}

fn v4(file: &mut Variables, settings: &Settings, lost: &mut Vec<String>) {
    file.remove(|key| {
        let key = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let keys = [
            "IPADDR",
            "NETMASK",
            "PREFIX",
            "GATEWAY",
            "BROADCAST",
            "NETWORK",
        ];
        keys.contains(&key)
    });
    file.set("BOOTPROTO", if settings.dhcp4 { "dhcp" } else { "none" });
    // `GATEWAY` counts for the address without a number only.
    for (number, (ip, prefix)) in (0..).zip(&settings.v4) {
        let number = match number {
            0 => String::new(),
            number => number.to_string(),
        };
        file.set(&format!("IPADDR{number}"), ip);
        file.set(&format!("PREFIX{number}"), prefix);
    }
    if let Some(gateway) = settings.gateways4.first() {
        file.set("GATEWAY", gateway);
        file.remove(|key| key == "DEFROUTE");
    }
    let is_own = |text: String| {
        let ip: Option<IpAddr> = text.parse().ok();
        settings.addresses().any(|(own, _)| Some(own) == ip)
    };
    if file.last("SRCADDR").is_some_and(|source| !is_own(source)) {
        let removed = file.remove(|key| key == "SRCADDR");
        lost.extend(removed.iter().map(|(key, value)| format!("{key}={value}")));
    }
}

fn v6(file: &mut Variables, settings: &Settings) {
    let keys = [
        "IPV6ADDR",
        "IPV6ADDR_SECONDARIES",
        "IPV6_DEFAULTGW",
        "IPV6_DISABLED",
    ];
    file.remove(|key| keys.contains(&key));
    file.set("IPV6INIT", "yes");
    // The host does not decide on router advertisements, unless it sets no address.
    if settings.v6.is_empty() || file.last("IPV6_AUTOCONF").is_none() {
        file.set("IPV6_AUTOCONF", "yes");
    }
    let text = |(ip, prefix): &(_, u8)| format!("{}/{prefix}", ip as &dyn Display);
    if let Some((first, further)) = settings.v6.split_first() {
        file.set("IPV6ADDR", text(first));
        if !further.is_empty() {
            let further = joined(further.iter().map(text), " ");
            file.set("IPV6ADDR_SECONDARIES", format!("\"{further}\""));
        }
    }
    if let Some(gateway) = settings.gateways6.first() {
        file.set("IPV6_DEFAULTGW", gateway);
        file.remove(|key| key == "IPV6_DEFROUTE");
    }
}

/// Replaces the DNS servers of the families that the host configures.
fn dns(file: &mut Variables, settings: &Settings) {
    let is_server = |key: &str| {
        let number = key.strip_prefix("DNS");
        number.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let previous = file.remove(is_server);
    let kept = previous
        .iter()
        .filter_map(|(_, value)| server(value))
        .filter(|ip| !settings.replaces(*ip) && !settings.dns.contains(ip));
    let servers = settings.dns.iter().copied().chain(kept);
    for (number, ip) in (1..).zip(servers) {
        file.set(&format!("DNS{number}"), ip);
    }
    // `no` keeps DHCP's servers out, and with the network scripts those of the file, too.
    if !settings.dhcp4 || settings.dns.is_empty() {
        file.set("PEERDNS", "yes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::settings;
    use crate::kvp::request::Family;

    const FILE: &str = "\
# of the administrator
DEVICE=eth0
UUID=11111111-2222-3333-4444-555555555555
NAME=\"System eth0\"
TYPE=Ethernet
BOOTPROTO=none
ONBOOT=no
MTU=1400
DOMAIN=corp.example
ZONE=internal
ETHTOOL_OPTS=\"-K ${DEVICE} tso off\"
IPADDR0=192.168.7.7
NETMASK0=255.255.255.0
IPADDR1=192.168.7.8
PREFIX1=24
GATEWAY=192.168.7.254
GATEWAYDEV=eth0
SRCADDR=192.168.7.7
DEFROUTE=no
PEERDNS=no
DNS1=9.9.9.9
DNS2=fd07::53
IPV6INIT=yes
IPV6_AUTOCONF=no
IPV6ADDR=fd07::7/64
IPV6_DEFAULTGW=fd07::1
";

    fn replaced(family: Family, dhcp: bool, lists: [&str; 4]) -> (Variables, Vec<String>) {
        let mut file = Variables::parse(FILE);
        let lost = replace(&mut file, &settings(family, dhcp, lists));
        (file, lost)
    }

    #[test]
    fn everything_but_the_addresses_of_the_family_is_kept() {
        let lists = ["10.0.0.5;10.0.0.6", "/24;/16", "10.0.0.1", "1.1.1.1"];
        let (file, lost) = replaced(Family::V4, false, lists);
        assert_eq!(
            file.to_string(),
            format!(
                "{HEADER}\
# of the administrator
DEVICE=eth0
UUID=11111111-2222-3333-4444-555555555555
NAME=\"System eth0\"
TYPE=Ethernet
MTU=1400
DOMAIN=corp.example
ZONE=internal
ETHTOOL_OPTS=\"-K ${{DEVICE}} tso off\"
GATEWAYDEV=eth0
IPV6INIT=yes
IPV6_AUTOCONF=no
IPV6ADDR=fd07::7/64
IPV6_DEFAULTGW=fd07::1
ONBOOT=yes
AUTOCONNECT_PRIORITY=999
BOOTPROTO=none
IPADDR=10.0.0.5
PREFIX=24
IPADDR1=10.0.0.6
PREFIX1=16
GATEWAY=10.0.0.1
DNS1=1.1.1.1
DNS2=fd07::53
PEERDNS=yes
"
            )
        );
        assert_eq!(lost, ["SRCADDR=192.168.7.7"]);
    }

    #[test]
    fn ipv6_alone_leaves_ipv4() {
        let (file, lost) = replaced(Family::V6, false, ["fd00::5", "/64", "fd00::1", ""]);
        for (key, value) in [
            ("BOOTPROTO", "none"),
            ("IPADDR0", "192.168.7.7"),
            ("GATEWAY", "192.168.7.254"),
            ("DEFROUTE", "no"),
            ("DNS1", "9.9.9.9"),
            ("IPV6ADDR", "fd00::5/64"),
            ("IPV6_DEFAULTGW", "fd00::1"),
            ("IPV6_AUTOCONF", "no"),
        ] {
            assert_eq!(file.last(key).as_deref(), Some(value), "{key}");
        }
        assert_eq!((file.last("DNS2"), lost), (None, Vec::new()));
        let (slaac, _) = replaced(Family::V6, false, [""; 4]);
        assert_eq!(slaac.last("IPV6_AUTOCONF").as_deref(), Some("yes"));
        assert_eq!(slaac.last("IPV6ADDR"), None);
    }

    #[test]
    fn servers_of_a_lease_stay_out_where_the_host_has_some() {
        for (dns, expected) in [("1.1.1.1", "no"), ("", "yes")] {
            let (file, _) = replaced(Family::V4, true, ["", "", "", dns]);
            assert_eq!(file.last("PEERDNS").as_deref(), Some(expected), "{dns}");
            assert_eq!(file.last("BOOTPROTO").as_deref(), Some("dhcp"));
            assert_eq!(file.last("IPADDR0"), None);
        }
    }
}
