use proptest::prelude::*;

use super::*;

fn info(addresses: &str, subnets: &str) -> IpInfo {
    IpInfo {
        adapter: String::new(),
        family: Family::BOTH,
        dhcp: false,
        addresses: addresses.to_owned(),
        subnets: subnets.to_owned(),
        gateways: String::new(),
        dns: String::new(),
    }
}

fn parse(addresses: &str, subnets: &str) -> Result<Settings, Invalid> {
    Settings::parse(&info(addresses, subnets))
}

#[test]
fn a_full_configuration_is_parsed() {
    let settings = Settings::parse(&IpInfo {
        gateways: "10.0.0.1;fe80::1".to_owned(),
        dns: "10.0.0.2; fd00::53;".to_owned(),
        ..info(
            "10.0.0.5; 192.168.1.9 ;FD00::5;fd00::6;",
            "255.255.255.0;/16;/64;128",
        )
    })
    .unwrap();
    assert_eq!(
        settings.v4,
        [([10, 0, 0, 5].into(), 24), ([192, 168, 1, 9].into(), 16)]
    );
    assert_eq!(
        settings.v6,
        [
            ("fd00::5".parse().unwrap(), 64),
            ("fd00::6".parse().unwrap(), 128)
        ]
    );
    assert_eq!(settings.gateways4, [Ipv4Addr::new(10, 0, 0, 1)]);
    assert_eq!(settings.gateways6, ["fe80::1".parse::<Ipv6Addr>().unwrap()]);
    assert_eq!(joined(&settings.dns, " "), "10.0.0.2 fd00::53");
    assert_eq!(
        settings.to_string(),
        "10.0.0.5/24, 192.168.1.9/16, fd00::5/64, fd00::6/128, gateway 10.0.0.1, gateway \
         fe80::1, DNS 10.0.0.2, DNS fd00::53"
    );
}

#[test]
fn with_dhcp_ipv4_addresses_are_checked_and_ignored() {
    let info = IpInfo {
        dhcp: true,
        gateways: "10.0.0.1;fe80::1".to_owned(),
        dns: "1.1.1.1".to_owned(),
        ..info("10.0.0.5;fd00::5", "255.0.0.0;/64")
    };
    let settings = Settings::parse(&info).unwrap();
    assert!(settings.v4.is_empty() && settings.gateways4.is_empty());
    assert_eq!((settings.v6.len(), settings.gateways6.len()), (1, 1));
    assert_eq!(joined(&settings.left_to_dhcp, " "), "10.0.0.5 10.0.0.1");
    assert_eq!(joined(&settings.dns, " "), "1.1.1.1");
    let info = IpInfo {
        addresses: "10.0.0.999;fd00::5".to_owned(),
        ..info
    };
    assert!(Settings::parse(&info).is_err());
}

#[test]
fn routes_have_metrics_and_on_link() {
    let info = IpInfo {
        gateways: "10.0.1.1;10.0.0.1;fe80::1;fd01::1;fd00::1".to_owned(),
        ..info("10.0.0.5;fd00::5", "/24;/64")
    };
    let settings = Settings::parse(&info).unwrap();
    let routes: Vec<_> = settings
        .routes()
        .map(|route| (route.on_link, route.metric))
        .collect();
    assert_eq!(
        routes,
        [
            (true, None),
            (false, Some(1025)),
            (false, None),
            (true, Some(1025)),
            (false, Some(1026))
        ]
    );
}

#[test]
fn other_than_unicast_addresses_are_invalid() {
    for (address, subnet) in [
        ("0.0.0.0", "/8"),
        ("0.1.2.3", "/8"),
        ("127.0.0.1", "/8"),
        ("224.0.0.1", "/4"),
        ("255.255.255.255", "/32"),
        ("::", "/64"),
        ("::1", "/128"),
        ("ff02::1", "/64"),
        ("::ffff:10.0.0.1", "/96"),
    ] {
        let error = parse(address, subnet).unwrap_err();
        assert!(
            matches!(error, Invalid::NotUnicast(..)),
            "{address}: {error}"
        );
        let gateway = IpInfo {
            gateways: address.to_owned(),
            ..info("10.0.0.5;fd00::5", "/24;/64")
        };
        assert!(Settings::parse(&gateway).is_err(), "{address}");
    }
}

#[test]
fn other_texts_than_addresses_are_invalid() {
    for address in [
        "10.0.0",
        "10.0.0.05",
        "10.0.0.5/24",
        "10.0.0.5\n",
        "\t10.0.0.5",
        "10.0.0.5,10.0.0.6",
        "fe80::1%eth0",
        "example.org",
        "１0.0.0.5",
        "$(reboot)",
    ] {
        let error = parse(address, "/24").unwrap_err();
        assert_eq!(
            error,
            Invalid::Address(address.trim_end_matches(' ').to_owned())
        );
    }
    assert_eq!(
        parse(";10.0.0.5", "/8;/8").unwrap_err(),
        Invalid::Address(String::new())
    );
}

#[test]
fn subnets_are_masks_or_prefix_lengths() {
    for (address, subnet, prefix) in [
        ("10.0.0.5", "255.255.255.255", Some(32)),
        ("10.0.0.5", "128.0.0.0", Some(1)),
        ("10.0.0.5", "/32", Some(32)),
        ("10.0.0.5", "0.0.0.0", None),
        ("10.0.0.5", "255.0.255.0", None),
        ("10.0.0.5", "0.0.0.255", None),
        ("10.0.0.5", "/0", None),
        ("10.0.0.5", "/33", None),
        ("10.0.0.5", "+8", None),
        ("10.0.0.5", "/", None),
        ("10.0.0.5", "//8", None),
        ("10.0.0.5", "/256", None),
        ("10.0.0.5", "ffff::", None),
        ("fd00::5", "/128", Some(128)),
        ("fd00::5", "/129", None),
        ("fd00::5", "/0", None),
        ("fd00::5", "255.255.255.0", None),
        ("fd00::5", "ffff::", None),
    ] {
        let parsed = parse(address, subnet).ok();
        let found = parsed.and_then(|settings| Some(settings.addresses().next()?.1));
        assert_eq!(found, prefix, "{address} {subnet}");
    }
}

#[test]
fn contradictions_are_invalid() {
    assert!(matches!(
        parse("10.0.0.5;10.0.0.6", "/8"),
        Err(Invalid::Counts { .. })
    ));
    assert!(matches!(parse("", "/8"), Err(Invalid::Counts { .. })));
    assert!(matches!(
        parse("10.0.0.5;10.0.0.5", "/8;/9"),
        Err(Invalid::Duplicate(_))
    ));
    let many = |count| vec!["10.0.0.1"; count].join(";");
    assert_eq!(
        Settings::parse(&IpInfo {
            dns: many(65),
            ..info("10.0.0.5", "/8")
        })
        .unwrap_err(),
        Invalid::TooMany
    );
    assert!(
        Settings::parse(&IpInfo {
            dns: many(64),
            ..info("10.0.0.5", "/8")
        })
        .is_ok()
    );
    let unreachable = [
        IpInfo {
            gateways: "10.0.0.1".to_owned(),
            ..info("fd00::5", "/64")
        },
        IpInfo {
            dns: "10.0.0.1".to_owned(),
            ..info("fd00::5", "/64")
        },
    ];
    for info in unreachable {
        assert!(matches!(
            Settings::parse(&info),
            Err(Invalid::Unreachable(_))
        ));
    }
    assert_eq!(
        Settings::parse(&IpInfo {
            family: Family(4),
            ..info("10.0.0.5", "/8")
        })
        .unwrap_err(),
        Invalid::Family(4)
    );
    let family = |family| {
        Settings::parse(&IpInfo {
            family,
            ..info(" ", "")
        })
    };
    // It would remove IPv4 from the interface, which nobody asked for.
    for with_v4 in [Family::V4, Family::BOTH, Family(0)] {
        assert_eq!(family(with_v4).unwrap_err(), Invalid::Nothing);
    }
    // IPv6 without an address means SLAAC.
    let slaac = family(Family::V6).unwrap();
    let only_v6 = Settings {
        families: Family::V6,
        ..Settings::default()
    };
    assert_eq!(slaac, only_v6);
}

#[test]
fn a_family_that_the_host_does_not_state_is_left_as_it_is() {
    let (v4, v6) = (("10.0.0.5", "/8"), ("fd00::5", "/64"));
    let both = ("10.0.0.5;fd00::5", "/8;/64");
    for (sent, (addresses, subnets), gateways, dhcp, families) in [
        (Family::V4, v4, "10.0.0.1", false, Family::V4),
        (Family::V6, v6, "", false, Family::V6),
        (Family::V6, ("", ""), "fe80::1", false, Family::V6),
        // The text of an address or a gateway tells its family.
        (Family::V4, v6, "", false, Family::V6),
        (Family::V4, both, "", false, Family::BOTH),
        (Family::V4, v4, "fe80::1", false, Family::BOTH),
        (Family(0), v4, "", false, Family::V4),
        (Family(0), v6, "", false, Family::V6),
        (Family::V6, v4, "", false, Family::BOTH),
        // No IPv4 is wanted.
        (Family::BOTH, v6, "", false, Family::BOTH),
        (Family::BOTH, v4, "", false, Family::BOTH),
        // DHCP is IPv4's.
        (Family::V6, v6, "", true, Family::BOTH),
        (Family(0), ("", ""), "", true, Family::V4),
        (Family::V4, v4, "", true, Family::V4),
    ] {
        let info = IpInfo {
            family: sent,
            gateways: gateways.to_owned(),
            dhcp,
            ..info(addresses, subnets)
        };
        let settings = Settings::parse(&info).unwrap();
        assert_eq!(settings.families, families, "{sent:?} {addresses} {dhcp}");
    }
    let only = |family, addresses, subnets| {
        let info = IpInfo {
            family,
            // For a family that is left as it is, nobody knows what is reachable.
            dns: "10.0.0.53;fd00::53".to_owned(),
            ..info(addresses, subnets)
        };
        Settings::parse(&info).unwrap().to_string()
    };
    assert_eq!(
        only(Family::V6, "fd00::5", "/64"),
        "fd00::5/64, IPv4 left as it is, DNS 10.0.0.53, DNS fd00::53"
    );
    assert_eq!(
        only(Family::V4, "10.0.0.5", "/8"),
        "10.0.0.5/8, IPv6 left as it is, DNS 10.0.0.53, DNS fd00::53"
    );
}

/// A host that sends what it has read sends them.
#[test]
fn ipv6_link_local_addresses_are_dropped() {
    let info = info("fe80::5;10.0.0.5;febf::1;169.254.1.1", "/64;/8;/10;/16");
    let settings = Settings::parse(&info).unwrap();
    assert!(settings.v6.is_empty());
    assert_eq!(settings.v4.len(), 2);
    assert_eq!(settings.families, Family::BOTH);
    assert!(parse("fe80::5", "/129").is_err());
}

#[test]
fn empty_elements_are_passed_over() {
    let info = IpInfo {
        gateways: ";10.0.0.1; ;fe80::1;".to_owned(),
        dns: " ;10.0.0.53;;fd00::53".to_owned(),
        ..info(";10.0.0.5;;fd00::5", " ;/8;;/64;;")
    };
    let settings = Settings::parse(&info).unwrap();
    assert_eq!(
        settings.to_string(),
        "10.0.0.5/8, fd00::5/64, gateway 10.0.0.1, gateway fe80::1, DNS 10.0.0.53, DNS fd00::53"
    );
    let sixty_four = vec!["10.0.0.1"; 64].join(";;");
    let info = IpInfo {
        dns: sixty_four,
        ..info
    };
    assert_eq!(Settings::parse(&info).unwrap().dns.len(), 64);
    // A subnet without an address, and the other way round.
    assert!(matches!(
        parse("10.0.0.5;;10.0.0.6", "/8;/8;/8"),
        Err(Invalid::Address(_))
    ));
    assert!(matches!(
        parse("10.0.0.5;10.0.0.6;10.0.0.7", "/8;;/8"),
        Err(Invalid::Subnet { .. })
    ));
}

#[test]
fn a_gateway_that_stays_is_reached_or_not() {
    let reaches = |info: &IpInfo, gateway: &str| {
        let settings = Settings::parse(info).unwrap();
        settings.reaches(gateway.parse().unwrap())
    };
    let v4 = IpInfo {
        family: Family::V4,
        ..info("10.0.0.5", "/24")
    };
    assert!(reaches(&v4, "10.0.0.254"));
    assert!(!reaches(&v4, "192.168.7.254"));
    // IPv6 is left as it is.
    assert!(reaches(&v4, "fd00::1"));
    let both = info("10.0.0.5;fd00::5", "/24;/64");
    assert!(reaches(&both, "fd00::1") && reaches(&both, "fe80::1"));
    assert!(!reaches(&both, "fd01::1"));
    let dhcp = IpInfo { dhcp: true, ..both };
    assert!(!reaches(&dhcp, "10.0.0.254"));
}

#[test]
fn a_device_is_a_guid_in_either_case() {
    let text = "{F8615163-0000-1000-2000-00155D010203}";
    assert_eq!(device(text), device(&text.to_lowercase()));
    assert!(device(text).is_ok());
    for wrong in [
        "",
        "eth0",
        "../eth0",
        "{f8615163-0000-1000-2000-00155d01020}",
    ] {
        assert!(device(wrong).is_err(), "{wrong}");
    }
}

/// Returns the message for these settings.
fn sent(settings: &Settings) -> IpInfo {
    IpInfo {
        adapter: String::new(),
        family: settings.families,
        dhcp: settings.dhcp4,
        addresses: joined(settings.addresses().map(|(ip, _)| ip), ";"),
        subnets: joined(
            settings.addresses().map(|(_, prefix)| format!("/{prefix}")),
            ";",
        ),
        gateways: joined(settings.routes().map(|route| route.gateway), ";"),
        dns: joined(&settings.dns, ";"),
    }
}

fn almost_a_list() -> impl Strategy<Value = String> {
    let element = prop_oneof![
        8 => any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        8 => any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
        1 => "[0-9a-f:./ ;%$]{0,20}",
        1 => any::<String>(),
    ];
    proptest::collection::vec(element, 0..4).prop_map(|elements| elements.join(";"))
}

fn almost_subnets() -> impl Strategy<Value = String> {
    let element = prop_oneof![
        8 => (0..40u8).prop_map(|prefix| format!("/{prefix}")),
        2 => Just("255.255.255.0".to_owned()),
        1 => any::<String>(),
    ];
    proptest::collection::vec(element, 0..4).prop_map(|elements| elements.join(";"))
}

proptest! {
    #[test]
    fn no_text_panics(
        texts in proptest::array::uniform5(any::<String>()), family in 0..8u8, dhcp: bool
    ) {
        let [adapter, addresses, subnets, gateways, dns] = texts;
        let _ = device(&adapter);
        let family = Family(family);
        let _ = Settings::parse(&IpInfo {
            adapter, family, dhcp, addresses, subnets, gateways, dns,
        });
    }

    #[test]
    fn accepted_settings_contain_addresses_only(
        addresses in almost_a_list(), subnets in almost_subnets(),
        gateways in almost_a_list(), dns in almost_a_list(), dhcp: bool, family in 0..4u8
    ) {
        let family = Family(family);
        let info = IpInfo { family, gateways, dns, dhcp, ..info(&addresses, &subnets) };
        if let Ok(settings) = Settings::parse(&info) {
            let again = sent(&settings);
            for text in [&again.addresses, &again.subnets, &again.gateways, &again.dns] {
                prop_assert!(text.bytes().all(|byte| b"0123456789abcdef.:/;".contains(&byte)));
            }
            let left_to_dhcp = settings.left_to_dhcp.clone();
            prop_assert_eq!(
                Settings { left_to_dhcp, ..Settings::parse(&again).unwrap() },
                settings
            );
        }
    }
}
