//! Decodes interfaces from the kernel's messages.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::{parse_ip, parse_string, parse_u32};
use nix::libc;
use zerocopy::FromBytes;

use super::interface::{Address, Interface};
use super::message::{AddressHeader, LinkHeader, Message, NextHopHeader, RouteHeader, attributes};

/// A next hop of a default route.
struct NextHop {
    /// The route is in the main table.
    is_main: bool,
    metric: u32,
    interface: u32,
    gateway: Option<IpAddr>,
}

/// `RTA_VIA`, which the headers of some C libraries lack.
const RTA_VIA: u16 = 18;

/// Returns the interfaces in the messages, by index.
pub(super) fn interfaces(messages: &[Message]) -> Vec<Interface> {
    let mut interfaces = BTreeMap::new();
    let mut hops = Vec::new();
    let mut addresses = Vec::new();
    for message in messages {
        match message.kind {
            libc::RTM_NEWLINK => {
                if let Some(interface) = interface(&message.body) {
                    interfaces.insert(interface.index, interface);
                }
            }
            libc::RTM_NEWADDR => addresses.extend(address(&message.body)),
            libc::RTM_NEWROUTE => hops.extend(default_next_hops(&message.body)),
            _ => {}
        }
    }
    for (index, address) in addresses {
        if let Some(interface) = interfaces.get_mut(&index) {
            interface.addresses.push(address);
        }
    }
    hops.sort_by_key(|hop: &NextHop| hop.metric);
    for hop in hops {
        let Some(interface) = interfaces.get_mut(&hop.interface) else {
            continue;
        };
        interface.default_route = true;
        let gateways = match hop.is_main {
            true => &mut interface.gateways,
            false => &mut interface.policy_gateways,
        };
        gateways.extend(hop.gateway.filter(|gateway| !gateways.contains(gateway)));
    }
    interfaces.into_values().collect()
}

fn interface(link: &[u8]) -> Option<Interface> {
    let (header, rest) = LinkHeader::read_from_prefix(link).ok()?;
    let mut name = None;
    let mut mac = None;
    let mut permanent_mac = None;
    let mut master = None;
    let mut link = None;
    let mut is_elsewhere = false;
    let mut kind = None;
    for (attribute, value) in attributes(rest) {
        match attribute {
            libc::IFLA_IFNAME => name = parse_string(value).ok(),
            libc::IFLA_ADDRESS if header.hardware == libc::ARPHRD_ETHER => {
                mac = value.try_into().ok();
            }
            libc::IFLA_PERM_ADDRESS if header.hardware == libc::ARPHRD_ETHER => {
                permanent_mac = value.try_into().ok();
            }
            // An interface with none below it names itself, or 0.
            libc::IFLA_LINK => {
                link = parse_u32(value).ok();
                link = link.filter(|index| *index != 0 && *index != header.index);
            }
            libc::IFLA_LINK_NETNSID => is_elsewhere = true,
            libc::IFLA_MASTER => master = parse_u32(value).ok().filter(|index| *index != 0),
            libc::IFLA_LINKINFO => {
                kind = attributes(value)
                    .find(|(attribute, _)| *attribute == libc::IFLA_INFO_KIND)
                    .and_then(|(_, value)| parse_string(value).ok());
            }
            _ => {}
        }
    }
    let has = |flag: i32| header.flags & flag as u32 != 0;
    // The index is of another namespace, or of the other end.
    if is_elsewhere || kind.as_deref() == Some("veth") {
        link = None;
    }
    Some(Interface {
        index: header.index,
        name: name?,
        mac,
        permanent_mac,
        up: has(libc::IFF_UP),
        loopback: has(libc::IFF_LOOPBACK),
        master,
        link,
        kind,
        ..Interface::default()
    })
}

/// Decodes an address and the index of its interface.
fn address(message: &[u8]) -> Option<(u32, Address)> {
    let (header, rest) = AddressHeader::read_from_prefix(message).ok()?;
    let mut address = None;
    let mut local = None;
    for (attribute, value) in attributes(rest) {
        match attribute {
            libc::IFA_ADDRESS => address = parse_ip(value).ok(),
            libc::IFA_LOCAL => local = parse_ip(value).ok(),
            _ => {}
        }
    }
    let has = |flag: u32| u32::from(header.flags) & flag != 0;
    let address = Address {
        // On a point-to-point link, `IFA_ADDRESS` is the peer's.
        ip: local.or(address)?,
        prefix: header.prefix,
        dynamic: !has(libc::IFA_F_PERMANENT),
        // An optimistic address is in use during duplicate address detection.
        tentative: has(libc::IFA_F_DADFAILED)
            || has(libc::IFA_F_TENTATIVE) && !has(libc::IFA_F_OPTIMISTIC),
        deprecated: has(libc::IFA_F_DEPRECATED),
    };
    Some((header.index, address))
}

/// Returns the next hops of a default route; none of any other route.
fn default_next_hops(route: &[u8]) -> Vec<NextHop> {
    let Ok((header, rest)) = RouteHeader::read_from_prefix(route) else {
        return Vec::new();
    };
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut own = (None, None);
    let mut multipath = &[][..];
    for (attribute, value) in attributes(rest) {
        match attribute {
            libc::RTA_TABLE => table = parse_u32(value).unwrap_or(table),
            libc::RTA_PRIORITY => metric = parse_u32(value).unwrap_or(metric),
            libc::RTA_OIF => own.0 = parse_u32(value).ok(),
            libc::RTA_MULTIPATH => multipath = value,
            other => own.1 = own.1.or_else(|| gateway(other, value)),
        }
    }
    let is_default = matches!(i32::from(header.family), libc::AF_INET | libc::AF_INET6)
        && header.kind == libc::RTN_UNICAST
        && header.destination_prefix == 0
        && header.source_prefix == 0
        && table != u32::from(libc::RT_TABLE_LOCAL)
        && header.flags & libc::RTM_F_CLONED == 0;
    if !is_default {
        return Vec::new();
    }
    std::iter::once(own)
        .chain(next_hops(multipath))
        .filter_map(|(interface, gateway)| {
            Some(NextHop {
                is_main: table == u32::from(libc::RT_TABLE_MAIN),
                metric,
                interface: interface?,
                gateway,
            })
        })
        .collect()
}

/// Returns the interface and gateway of each next hop of a multipath route.
fn next_hops(mut rest: &[u8]) -> impl Iterator<Item = (Option<u32>, Option<IpAddr>)> {
    std::iter::from_fn(move || {
        let (header, _) = NextHopHeader::read_from_prefix(rest).ok()?;
        let length = usize::from(header.length);
        let own = rest.get(size_of::<NextHopHeader>()..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let gateway = attributes(own).find_map(|(attribute, value)| gateway(attribute, value));
        Some((Some(header.index), gateway))
    })
}

fn gateway(attribute: u16, value: &[u8]) -> Option<IpAddr> {
    match attribute {
        libc::RTA_GATEWAY => parse_ip(value).ok(),
        // After the family.
        RTA_VIA => parse_ip(value.get(2..)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkSerializable;
    use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
    use netlink_packet_route::link::{
        InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    };
    use netlink_packet_route::route::{
        RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteType, RouteVia,
    };
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 1, 2, 3];

    /// Encodes a message with another implementation.
    fn encoded(message: &RouteNetlinkMessage) -> Message {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        let kind = message.message_type();
        Message { kind, body }
    }

    fn link(index: u32, name: &str, attributes: &[LinkAttribute]) -> Message {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.header.flags = LinkFlags::Up;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::Address(MAC.to_vec()));
        link.attributes.extend_from_slice(attributes);
        encoded(&RouteNetlinkMessage::NewLink(link))
    }

    fn on(index: u32, flags: AddressHeaderFlags, attributes: &[AddressAttribute]) -> Message {
        let mut address = AddressMessage::default();
        address.header.index = index;
        address.header.prefix_len = 24;
        address.header.flags = flags;
        address.attributes = attributes.to_vec();
        encoded(&RouteNetlinkMessage::NewAddress(address))
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
    fn a_link_has_its_attributes() {
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
            encoded(&RouteNetlinkMessage::NewLink(lo)),
        ];
        let [lo, vf, bridge] = &interfaces(&messages)[..] else {
            panic!("not three interfaces");
        };
        assert_eq!((lo.index, lo.name.as_str(), lo.mac), (1, "lo", None));
        assert!(lo.loopback && lo.up);
        assert_eq!((vf.mac, vf.master, &vf.kind), (Some(MAC), Some(7), &None));
        assert_eq!((vf.permanent_mac, vf.link), (None, None));
        assert!(!vf.loopback);
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        assert_eq!(bridge.master, None);
    }

    #[test]
    fn a_stacked_link_has_the_one_below_it() {
        let kind = |kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let permanent = LinkAttribute::PermAddress(vec![2, 0, 0, 0, 0, 9]);
        let messages = [
            link(2, "eth0", &[permanent, LinkAttribute::Link(2)]),
            link(3, "vlan", &[LinkAttribute::Link(2), kind(InfoKind::Vlan)]),
            // The other end, and an interface of another namespace.
            link(4, "veth", &[LinkAttribute::Link(2), kind(InfoKind::Veth)]),
            link(
                5,
                "macvlan",
                &[LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(0)],
            ),
            link(6, "tunnel", &[LinkAttribute::Link(0)]),
        ];
        let found = interfaces(&messages);
        let links: Vec<_> = found.iter().map(|interface| interface.link).collect();
        assert_eq!(links, [None, Some(2), None, None, None]);
        assert_eq!(found[0].permanent_mac, Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(found[0].mac, Some(MAC));
    }

    #[test]
    fn an_address_is_local_and_not_the_peers() {
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
    fn flags_make_an_address_dynamic_tentative_or_deprecated() {
        use AddressHeaderFlags as Flags;
        let cases = [
            (Flags::Permanent, (false, false, false)),
            (Flags::empty(), (true, false, false)),
            (Flags::Permanent | Flags::Tentative, (false, true, false)),
            (Flags::Tentative | Flags::Optimistic, (true, false, false)),
            (Flags::Permanent | Flags::Dadfailed, (false, true, false)),
            (Flags::Deprecated, (true, false, true)),
        ];
        for (flags, expected) in cases {
            let address = [AddressAttribute::Address(ip("fe80::1"))];
            let found = interfaces(&[link(2, "eth0", &[]), on(2, flags, &address)]);
            let address = found[0].addresses[0];
            let has = (address.dynamic, address.tentative, address.deprecated);
            assert_eq!(has, expected, "{flags:?}");
        }
    }

    #[test]
    fn gateways_are_sorted_by_metric() {
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
        messages.extend(routes.map(|route| encoded(&RouteNetlinkMessage::NewRoute(route))));
        let found = interfaces(&messages);
        let expected = [ip("10.0.0.9"), ip("fe80::1"), ip("10.0.0.3")];
        assert_eq!(found[0].gateways, expected);
        assert!(found[1].gateways.is_empty() && found[0].policy_gateways.is_empty());
        assert!(found[0].default_route);
        // A next hop of index 0 is nobody's.
        assert!(!found[1].default_route);
    }

    #[test]
    fn only_default_routes_have_gateways() {
        let usual = || default_route(&[RouteAttribute::Oif(2), by("10.0.0.1")]);
        let count = |route| {
            let route = encoded(&RouteNetlinkMessage::NewRoute(route));
            let found = &interfaces(&[link(2, "eth0", &[]), route])[0];
            let (main, policy) = (found.gateways.len(), found.policy_gateways.len());
            (main, policy, found.default_route)
        };
        assert_eq!(count(usual()), (1, 0, true));
        let without_gateway = default_route(&[RouteAttribute::Oif(2)]);
        assert_eq!(count(without_gateway), (0, 0, true));
        let mut route = usual();
        route.header.destination_prefix_length = 8;
        assert_eq!(count(route), (0, 0, false));
        let mut route = usual();
        route.header.kind = RouteType::Unreachable;
        assert_eq!(count(route), (0, 0, false));
        let mut route = usual();
        route.header.flags = RouteFlags::Cloned;
        assert_eq!(count(route), (0, 0, false));
        // Other tables.
        let mut route = usual();
        route.header.table = 100;
        assert_eq!(count(route.clone()), (0, 1, true));
        route.attributes.push(RouteAttribute::Table(254));
        assert_eq!(count(route), (1, 0, true));
        let mut route = usual();
        route.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(count(route), (0, 1, true));
        let mut route = usual();
        route.header.table = 255;
        assert_eq!(count(route), (0, 0, false));
    }

    #[test]
    fn a_truncated_message_is_skipped() {
        let mut truncated = link(2, "eth0", &[LinkAttribute::Controller(7)]);
        truncated.body.truncate(truncated.body.len() - 1);
        let mut nothing = link(3, "eth1", &[]);
        nothing.body.truncate(10);
        let found = interfaces(&[truncated, nothing, link(4, "eth2", &[])]);
        let found: Vec<_> = found
            .iter()
            .map(|interface| (interface.index, interface.master))
            .collect();
        assert_eq!(found, [(2, None), (4, None)]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            kind in prop::sample::select(vec![
                libc::RTM_NEWLINK,
                libc::RTM_NEWADDR,
                libc::RTM_NEWROUTE,
            ]),
            mut body: Vec<u8>,
            multipath in prop::collection::vec(0..16u8, 0..64),
        ) {
            let link = link(2, "eth0", &[]);
            let _ = interfaces(&[link.clone(), Message { kind, body: body.clone() }]);
            // Small numbers are valid lengths and kinds.
            body.resize(12, 0);
            body.extend_from_slice(&multipath);
            let _ = interfaces(&[link, Message { kind, body }]);
            let most = multipath.len() / size_of::<NextHopHeader>();
            prop_assert!(next_hops(&multipath).count() <= most);
        }
    }
}
