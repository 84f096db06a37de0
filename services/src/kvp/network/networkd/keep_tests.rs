use proptest::prelude::*;

use super::*;
use crate::kvp::network::ini::Syntax;
use crate::kvp::network::networkd::write::render;
use crate::kvp::network::target::Target;
use crate::kvp::request::IpInfo;

fn settings(family: Family, dhcp: bool, [addresses, gateways, dns]: [&str; 3]) -> Settings {
    let subnets = addresses.split(';').map(|ip| match ip.contains(':') {
        true => "/64",
        false => "/24",
    });
    let subnets: Vec<_> = subnets.collect();
    let info = IpInfo {
        family,
        dhcp,
        addresses: addresses.to_owned(),
        subnets: if addresses.is_empty() {
            String::new()
        } else {
            subnets.join(";")
        },
        gateways: gateways.to_owned(),
        dns: dns.to_owned(),
        ..IpInfo::default()
    };
    Settings::parse(&info).unwrap()
}

fn v4() -> Settings {
    settings(Family::V4, false, ["10.0.0.5", "10.0.0.1", "10.0.0.53"])
}

fn both() -> Settings {
    settings(
        Family::BOTH,
        false,
        ["10.0.0.5;fd00::5", "10.0.0.1;fe80::1", "10.0.0.53"],
    )
}

/// Returns the file on top of `base`, and what it loses of it.
fn over(base: &str, settings: &Settings) -> (String, Vec<String>) {
    let target = Target {
        name: "eth0".to_owned(),
        mac: None,
        permanent: false,
        device: "f8615163-0000-1000-2000-00155d010203".parse().unwrap(),
    };
    let document = Document::parse(base, Syntax::Unit);
    let kept = keep("10-eth0.network", &document, settings, &|device| {
        device != "absent"
    });
    let text = render(&target, settings, &kept);
    let (_, text) = text.split_once('\n').unwrap();
    (text.to_owned(), kept.lost)
}

/// Lines of every kind.
const BASE: &str = "
[Match]
Name=eth*
[Link]
MTUBytes=1400
RequiredForOnline=no
[Network]
VLAN=vlan10
VLAN=vlan20
MACVLAN=mv10
VXLAN=vx10
Domains=corp.example ~example.org
DNS=192.168.7.53 fd07::53%eth0 1.1.1.1:53#dns.example
DNS=[fd07::54]:53
NTP=ntp.example
DHCP=ipv6
Address=192.168.7.7/24
Address=fd07::7/64
Gateway=192.168.7.1
Gateway=fe80::7
IPv6AcceptRA=no
LinkLocalAddressing=no
IPForward=yes
[Address]
Address=192.168.7.8/24
Label=eth0:1
[Address]
Address=fd07::8/64
PreferredLifetime=0
[Route]
Destination=10.50.0.0/16
Gateway=192.168.7.254
PreferredSource=192.168.7.7
[Route]
Destination=10.60.0.0/16
Gateway=10.0.0.254
[Route]
Destination=fd50::/32
Gateway=fd07::fe
[Route]
Gateway=192.168.7.1
Metric=50
QuickAck=yes
[Route]
Destination=0.0.0.0/0
Gateway=192.168.7.2
Table=100
[Route]
Destination=::/0
Gateway=fe80::7
[Route]
Destination=0.0.0.0/0
Type=blackhole
Metric=9000
[NextHop]
Id=1
Gateway=192.168.7.9
[RoutingPolicyRule]
From=192.168.7.7
Table=100
[DHCPv4]
UseDNS=no
[Unheard]
Of=this
";

#[test]
fn what_the_host_does_not_state_is_kept() {
    let (text, lost) = over(BASE, &v4());
    assert_eq!(
        text,
        "[Match]
Name=eth0

[Network]
DHCP=ipv6
Address=10.0.0.5/24
DNS=10.0.0.53
VLAN=vlan10
VLAN=vlan20
MACVLAN=mv10
VXLAN=vx10
Domains=corp.example ~example.org
DNS=fd07::53%eth0
DNS=[fd07::54]:53
NTP=ntp.example
Address=fd07::7/64
Gateway=fe80::7
IPv6AcceptRA=no
LinkLocalAddressing=no
IPForward=yes

[Route]
Gateway=10.0.0.1
Metric=50
QuickAck=yes

[Link]
MTUBytes=1400
RequiredForOnline=no

[Address]
Address=fd07::8/64
PreferredLifetime=0

[Route]
Destination=10.50.0.0/16
Gateway=192.168.7.254
GatewayOnLink=yes

[Route]
Destination=10.60.0.0/16
Gateway=10.0.0.254

[Route]
Destination=fd50::/32
Gateway=fd07::fe

[Route]
Destination=0.0.0.0/0
Gateway=192.168.7.2
Table=100
GatewayOnLink=yes

[Route]
Destination=::/0
Gateway=fe80::7

[Route]
Destination=0.0.0.0/0
Type=blackhole
Metric=9000

[NextHop]
Id=1
Gateway=192.168.7.9
OnLink=yes

[RoutingPolicyRule]
From=192.168.7.7
Table=100

[DHCPv4]
UseDNS=no

[Unheard]
Of=this
"
    );
    assert_eq!(
        lost,
        [
            "10-eth0.network: [Address] Label=eth0:1",
            "10-eth0.network: [Route] PreferredSource=192.168.7.7",
        ]
    );
}

#[test]
fn a_family_of_the_host_is_replaced() {
    let v6 = settings(Family::V6, false, ["fd00::5", "fe80::1", "fd00::53"]);
    for (settings, words, gone) in [
        (
            &both(),
            &[
                "Address=fd00::5/64",
                "Gateway=fe80::1",
                "Destination=fd50::/32\nGateway=fd07::fe\nGatewayOnLink=yes",
            ][..],
            &[
                "fd07::7",
                "fd07::8",
                "fd07::53",
                "fe80::7",
                "192.168.7.53",
                "DNS=1.1.1.1",
            ][..],
        ),
        (
            &v6,
            &[
                "Address=192.168.7.7/24",
                "Gateway=192.168.7.1",
                "Label=eth0:1",
                "PreferredSource=192.168.7.7",
                "DNS=192.168.7.53 1.1.1.1:53#dns.example",
            ],
            &[
                "fd07::7",
                "fd07::8",
                "fd07::53",
                "fe80::7",
                "GatewayOnLink=yes\n\n[Route]\nDestination=10.60",
            ],
        ),
    ] {
        let (text, _) = over(BASE, settings);
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        for word in gone {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn dhcp_is_that_of_each_family() {
    let by_dhcp = settings(Family::V4, true, ["", "", ""]);
    let v6 = settings(Family::V6, false, ["", "", ""]);
    for (value, settings, expected) in [
        ("yes", &v4(), "ipv6"),
        ("no", &v4(), "no"),
        ("ipv4", &v4(), "no"),
        ("both", &by_dhcp, "yes"),
        ("no", &by_dhcp, "ipv4"),
        ("yes", &v6, "yes"),
        ("v4", &v6, "ipv4"),
        ("no", &v6, "no"),
    ] {
        let (text, _) = over(&format!("[Network]\nDHCP={value}\n"), settings);
        assert!(
            text.contains(&format!("\nDHCP={expected}\n")),
            "{value}: {text}"
        );
    }
}

#[test]
fn an_empty_value_resets_the_earlier_ones() {
    let base = "[Network]\nDomains=a\nVLAN=one\n[Network]\nDomains=\nDomains=b\nVLAN=\n";
    let (text, _) = over(base, &v4());
    assert!(
        text.contains("Domains=b") && !text.contains("Domains=a"),
        "{text}"
    );
    assert!(!text.contains("VLAN"), "{text}");
}

#[test]
fn an_address_that_stays_keeps_its_section() {
    let base = "[Address]\nAddress=10.0.0.5/24\nLabel=eth0:1\n";
    let (text, lost) = over(base, &v4());
    assert!(text.ends_with(&format!("\n{base}")), "{text}");
    assert_eq!(text.matches("10.0.0.5/24").count(), 1, "{text}");
    assert_eq!(lost, [""; 0]);
}

#[test]
fn devices_that_cannot_be_made_are_named() {
    let (text, lost) = over("[Network]\nVLAN=absent\nVLAN=there\n", &v4());
    assert!(
        text.contains("VLAN=there") && !text.contains("absent"),
        "{text}"
    );
    assert_eq!(lost, ["10-eth0.network: [Network] VLAN=absent"]);
}

#[test]
fn lines_of_a_default_route_that_is_gone_are_named() {
    let base = "[Route]\nGateway=10.9.9.9\nMetric=5\nQuickAck=yes\n";
    let by_dhcp = settings(Family::V4, true, ["", "", ""]);
    let (text, lost) = over(base, &by_dhcp);
    assert!(!text.contains("[Route]"), "{text}");
    assert_eq!(lost, ["10-eth0.network: [Route] QuickAck=yes"]);
    // The order of several gateways is the host's.
    let two = settings(Family::V4, false, ["10.0.0.5", "10.0.0.1;10.0.0.2", ""]);
    let (text, _) = over(base, &two);
    let routes =
        "[Route]\nGateway=10.0.0.1\nQuickAck=yes\n\n[Route]\nGateway=10.0.0.2\nMetric=1025\n";
    assert!(text.ends_with(routes), "{text}");
}

proptest! {
    /// A configuration that is applied again changes nothing.
    #[test]
    fn what_was_kept_is_kept_again(
        keys in prop::collection::vec((0..BASE.lines().count(), 0..4_usize), 0..60),
        which in 0..4_usize,
    ) {
        let lines: Vec<_> = BASE.lines().collect();
        // Lines in any order, some of them empty.
        let base: Vec<_> = keys.iter().map(|(line, variant)| match (variant, lines[*line].split_once('=')) {
            (0, Some((key, _))) => format!("{key}="),
            _ => lines[*line].to_owned(),
        }).collect();
        let settings = match which {
            0 => v4(),
            1 => both(),
            2 => settings(Family::V6, false, ["fd00::5;fd07::8", "fe80::1;fe80::2", "10.0.0.1;fd00::53"]),
            _ => settings(Family::V4, true, ["", "", "fd07::54"]),
        };
        let (once, _) = over(&base.join("\n"), &settings);
        let (twice, lost) = over(&once, &settings);
        prop_assert_eq!(once, twice);
        prop_assert_eq!(lost, [""; 0]);
    }
}
