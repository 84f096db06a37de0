use super::*;
use crate::kvp::request::{Family, IpInfo};

fn target() -> Target {
    Target {
        name: "eth0".to_owned(),
        mac: Some([0, 0x15, 0x5d, 1, 2, 0xfe]),
        permanent: false,
        device: hyperv_vmbus::Guid::from_u128(1),
    }
}

fn settings(dhcp: bool) -> Settings {
    Settings::parse(&IpInfo {
        adapter: String::new(),
        family: Family::BOTH,
        dhcp,
        addresses: "10.0.0.5;172.16.0.5;fd00::5;fd01::5".to_owned(),
        subnets: "255.255.255.0;255.240.0.0;/64;/56".to_owned(),
        gateways: "10.0.0.1;10.0.0.2;fe80::1;fe80::2".to_owned(),
        dns: "1.1.1.1;fd00::53".to_owned(),
    })
    .unwrap()
}

#[test]
fn ifcfg_is_like_the_stock_daemons() {
    let full = |group: &str| format!("{group}:0000:0000:0000:0000:0000:0000:");
    assert_eq!(
        render_ifcfg(&target(), &settings(false)),
        format!(
            "HWADDR=00:15:5D:01:02:FE\nDEVICE=eth0\nBOOTPROTO=none\n\
             IPADDR0=10.0.0.5\nIPADDR1=172.16.0.5\nIPV6ADDR={}0005\nIPV6ADDR_1={}0005\n\
             NETMASK0=255.255.255.0\nNETMASK1=255.240.0.0\nIPV6NETMASK=/64\nIPV6NETMASK_1=/56\n\
             GATEWAY=10.0.0.1\nGATEWAY1=10.0.0.2\nIPV6_DEFAULTGW={}0001\nIPV6_DEFAULTGW_1={}0002\n\
             DNS1=1.1.1.1\nDNS2={}0053\n",
            full("fd00"),
            full("fd01"),
            full("fe80"),
            full("fe80"),
            full("fd00")
        )
    );
    let dhcp = render_ifcfg(&target(), &settings(true));
    assert!(
        dhcp.contains("BOOTPROTO=dhcp\nIPV6ADDR=") && !dhcp.contains("IPADDR0"),
        "{dhcp}"
    );
}

#[test]
fn keyfile_is_like_the_stock_daemons() {
    assert_eq!(
        render_keyfile(&target(), &settings(false)),
        "[connection]\ninterface-name=eth0\n\n[ethernet]\nmac-address=00:15:5D:01:02:FE\n\n\
         [ipv4]\nmethod=manual\naddress1=10.0.0.5/24\naddress2=172.16.0.5/12\n\
         gateway=10.0.0.1,10.0.0.2\ndns=1.1.1.1\n\n\
         [ipv6]\nmethod=manual\naddress1=fd00::5/64\naddress2=fd01::5/56\n\
         gateway=fe80::1,fe80::2\ndns=fd00::53\n"
    );
    let dhcp = render_keyfile(&target(), &settings(true));
    assert!(
        dhcp.contains("[ipv4]\nmethod=auto\ndns=1.1.1.1\n"),
        "{dhcp}"
    );
}

#[test]
fn masks_are_made_from_prefix_lengths() {
    for (prefix, mask) in [(1, "128.0.0.0"), (32, "255.255.255.255")] {
        let settings = Settings {
            v4: vec![([10, 0, 0, 5].into(), prefix)],
            ..Settings::default()
        };
        let text = render_ifcfg(&target(), &settings);
        assert!(text.contains(&format!("NETMASK0={mask}\n")), "{text}");
    }
}
