//! Makes interfaces of the kernel's messages.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};

use super::{Address, Interface};

/// A gateway of a default route.
struct Hop {
    metric: u32,
    interface: u32,
    gateway: IpAddr,
}

/// The interfaces that the messages speak of, by index.
pub(super) fn interfaces(messages: &[RouteNetlinkMessage]) -> Vec<Interface> {
    let mut interfaces = BTreeMap::new();
    let mut hops = Vec::new();
    for message in messages {
        match message {
            RouteNetlinkMessage::NewLink(link) => {
                if let Some(interface) = interface(link) {
                    interfaces.insert(interface.index, interface);
                }
            }
            RouteNetlinkMessage::NewRoute(route) => hops.extend(default_hops(route)),
            _ => {}
        }
    }
    for message in messages {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(interface) = interfaces.get_mut(&message.header.index)
        {
            interface.addresses.extend(address(message));
        }
    }
    hops.sort_by_key(|hop: &Hop| hop.metric);
    for hop in hops {
        if let Some(interface) = interfaces.get_mut(&hop.interface)
            && !interface.gateways.contains(&hop.gateway)
        {
            interface.gateways.push(hop.gateway);
        }
    }
    interfaces.into_values().collect()
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let mut name = None;
    let mut mac = None;
    let mut master = None;
    let mut kind = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value)
                if link.header.link_layer_type == LinkLayerType::Ether =>
            {
                mac = value.as_slice().try_into().ok();
            }
            LinkAttribute::Controller(index) if *index != 0 => master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Interface {
        index: link.header.index,
        name: name?,
        mac,
        up: link.header.flags.contains(LinkFlags::Up),
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        master,
        kind,
        addresses: Vec::new(),
        gateways: Vec::new(),
    })
}

fn address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link the other attribute is the peer's address.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
    let ip = local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })
    })?;
    let flags = message.header.flags;
    Some(Address {
        ip,
        prefix: message.header.prefix_len,
        dynamic: !flags.contains(AddressHeaderFlags::Permanent),
        // An optimistic address is used while it is being checked.
        tentative: flags.contains(AddressHeaderFlags::Dadfailed)
            || flags.contains(AddressHeaderFlags::Tentative)
                && !flags.contains(AddressHeaderFlags::Optimistic),
    })
}

/// The gateways of this route; none if it is not a default route of the main
/// table.
fn default_hops(route: &RouteMessage) -> Vec<Hop> {
    let header = &route.header;
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut own = (None, None);
    let mut several = &[][..];
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => own.0 = Some(*index),
            RouteAttribute::MultiPath(hops) => several = hops,
            other => own.1 = own.1.or_else(|| gateway(other)),
        }
    }
    let is_default = matches!(
        header.address_family,
        AddressFamily::Inet | AddressFamily::Inet6
    ) && header.kind == RouteType::Unicast
        && header.destination_prefix_length == 0
        && header.source_prefix_length == 0
        && table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && !header.flags.contains(RouteFlags::Cloned);
    if !is_default {
        return Vec::new();
    }
    let several = several.iter().map(|hop| {
        let interface = hop.interface_index;
        (Some(interface), hop.attributes.iter().find_map(gateway))
    });
    std::iter::once(own)
        .chain(several)
        .filter_map(|(interface, gateway)| {
            Some(Hop {
                metric,
                interface: interface?,
                gateway: gateway?,
            })
        })
        .collect()
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::InfoKind;
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 1, 2, 3];

    fn link(index: u32, name: &str, attributes: &[LinkAttribute]) -> RouteNetlinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.header.flags = LinkFlags::Up;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::Address(MAC.to_vec()));
        link.attributes.extend_from_slice(attributes);
        RouteNetlinkMessage::NewLink(link)
    }

    fn on(
        index: u32,
        flags: AddressHeaderFlags,
        attributes: &[AddressAttribute],
    ) -> RouteNetlinkMessage {
        let mut address = AddressMessage::default();
        address.header.index = index;
        address.header.prefix_len = 24;
        address.header.flags = flags;
        address.attributes = attributes.to_vec();
        RouteNetlinkMessage::NewAddress(address)
    }

    fn default_route(attributes: &[RouteAttribute]) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.attributes = attributes.to_vec();
        route
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn by(gateway: &str) -> RouteAttribute {
        RouteAttribute::Gateway(ip(gateway).into())
    }

    #[test]
    fn a_link_is_what_its_attributes_say() {
        let mut lo = LinkMessage::default();
        lo.header.index = 1;
        lo.header.link_layer_type = LinkLayerType::Loopback;
        lo.header.flags = LinkFlags::Up | LinkFlags::Loopback;
        lo.attributes.push(LinkAttribute::IfName("lo".to_owned()));
        lo.attributes.push(LinkAttribute::Address(vec![0; 6]));
        let bridge = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]);
        let messages = [
            link(3, "br0", &[bridge]),
            link(2, "enP1", &[LinkAttribute::Controller(7)]),
            RouteNetlinkMessage::NewLink(lo),
        ];
        let [lo, vf, bridge] = &interfaces(&messages)[..] else {
            panic!("not three interfaces");
        };
        assert_eq!((lo.index, lo.name.as_str(), lo.mac), (1, "lo", None));
        assert!(lo.loopback && lo.up);
        assert_eq!((vf.mac, vf.master, &vf.kind), (Some(MAC), Some(7), &None));
        assert!(!vf.loopback);
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        assert_eq!(bridge.master, None);
    }

    #[test]
    fn an_address_is_the_machines_own_and_not_its_peers() {
        let permanent = AddressHeaderFlags::Permanent;
        let messages = [
            link(2, "ppp0", &[]),
            on(
                2,
                permanent,
                &[
                    AddressAttribute::Address(ip("10.0.0.1")),
                    AddressAttribute::Local(ip("10.0.0.2")),
                ],
            ),
            on(2, permanent, &[AddressAttribute::Address(ip("fd00::2"))]),
            on(9, permanent, &[AddressAttribute::Address(ip("10.9.9.9"))]),
        ];
        let found = interfaces(&messages);
        let ips: Vec<_> = found[0]
            .addresses
            .iter()
            .map(|address| address.ip)
            .collect();
        assert_eq!(ips, [ip("10.0.0.2"), ip("fd00::2")]);
    }

    #[test]
    fn flags_tell_what_an_address_is_good_for() {
        use AddressHeaderFlags as Flags;
        let cases = [
            (Flags::Permanent, false, false),
            (Flags::empty(), true, false),
            (Flags::Permanent | Flags::Tentative, false, true),
            (Flags::Tentative | Flags::Optimistic, true, false),
            (Flags::Permanent | Flags::Dadfailed, false, true),
        ];
        for (flags, dynamic, tentative) in cases {
            let address = [AddressAttribute::Address(ip("fe80::1"))];
            let found = interfaces(&[link(2, "eth0", &[]), on(2, flags, &address)]);
            let address = found[0].addresses[0];
            assert_eq!(
                (address.dynamic, address.tentative),
                (dynamic, tentative),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn gateways_come_by_metric() {
        let oif = RouteAttribute::Oif(2);
        let via = RouteVia::Inet6("fe80::1".parse().unwrap());
        let mut hop = RouteNextHop::default();
        hop.interface_index = 2;
        hop.attributes = vec![by("10.0.0.3")];
        let other = RouteNextHop::default();
        let routes = [
            default_route(&[oif.clone(), by("10.0.0.9"), RouteAttribute::Priority(900)]),
            default_route(&[
                RouteAttribute::MultiPath(vec![hop, other]),
                RouteAttribute::Priority(20),
            ]),
            default_route(&[
                oif.clone(),
                RouteAttribute::Via(via),
                RouteAttribute::Priority(10),
            ]),
            default_route(&[oif.clone(), by("10.0.0.9")]),
            default_route(&[oif]),
        ];
        let mut messages = vec![link(2, "eth0", &[]), link(3, "eth1", &[])];
        messages.extend(routes.map(RouteNetlinkMessage::NewRoute));
        let found = interfaces(&messages);
        let expected = [ip("10.0.0.9"), ip("fe80::1"), ip("10.0.0.3")];
        assert_eq!(found[0].gateways, expected);
        assert!(found[1].gateways.is_empty());
    }

    #[test]
    fn other_routes_have_no_gateways() {
        let usual = || default_route(&[RouteAttribute::Oif(2), by("10.0.0.1")]);
        let count = |route| {
            let route = RouteNetlinkMessage::NewRoute(route);
            interfaces(&[link(2, "eth0", &[]), route])[0].gateways.len()
        };
        assert_eq!(count(usual()), 1);
        let mut route = usual();
        route.header.destination_prefix_length = 8;
        assert_eq!(count(route), 0);
        let mut route = usual();
        route.header.kind = RouteType::Unreachable;
        assert_eq!(count(route), 0);
        let mut route = usual();
        route.header.table = 100;
        assert_eq!(count(route.clone()), 0);
        route.attributes.push(RouteAttribute::Table(254));
        assert_eq!(count(route), 1);
        let mut route = usual();
        route.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(count(route), 0);
        let mut route = usual();
        route.header.flags = RouteFlags::Cloned;
        assert_eq!(count(route), 0);
    }
}
