//! An interface and its addresses.

use std::net::IpAddr;

use hyperv_vmbus::Guid;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Ethernet address of the hardware, where the kernel tells it: a port of a bond may have
    /// another one.
    pub permanent_mac: Option<[u8; 6]>,
    /// Instance GUID of its VMBus device, if it is one.
    pub vmbus_device: Option<Guid>,
    /// `IFF_UP` is set.
    pub up: bool,
    /// `IFF_LOOPBACK` is set.
    pub loopback: bool,
    /// Index of the bond, the bridge or, for a VF, the netvsc interface above it.
    pub master: Option<u32>,
    /// Index of the interface below a stacked one, such as a VLAN's or a macvlan's parent.
    pub link: Option<u32>,
    /// Kind of a virtual interface, such as `bridge`; `None` for a hardware device.
    pub kind: Option<String>,
    /// Addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// Gateways of the default routes in the main table, by metric.
    pub gateways: Vec<IpAddr>,
    /// Gateways of the default routes in other tables (policy routing, VRFs), by metric.
    pub policy_gateways: Vec<IpAddr>,
    /// It has a default route, with or without a gateway, in some table.
    pub default_route: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The IP address.
    pub ip: IpAddr,
    /// Prefix length of the subnet.
    pub prefix: u8,
    /// It expires, as those of DHCP and SLAAC do.
    pub dynamic: bool,
    /// It is not usable: duplicate address detection is running or has failed.
    pub tentative: bool,
    /// Not for new connections: its preferred lifetime is over.
    pub deprecated: bool,
}

impl Interface {
    /// Returns the order in which the host is told of an address, the best first: one that reaches
    /// further than the link, one that is not deprecated, and one of a subnet before the virtual
    /// ones that clusters add to it as `/32` or `/128`. (DHCPv6 leases a `/128`.)
    pub(in crate::kvp) fn order(&self, address: &Address) -> (bool, bool, bool) {
        let is_host = |address: &Address| match address.ip {
            IpAddr::V4(_) => address.prefix == 32,
            IpAddr::V6(_) => address.prefix == 128 && !address.dynamic,
        };
        let has_subnet = || {
            let mut others = self.addresses.iter();
            others.any(|other| other.ip.is_ipv4() == address.ip.is_ipv4() && !is_host(other))
        };
        let is_virtual = is_host(address) && has_subnet();
        (address.is_link_local(), address.deprecated, is_virtual)
    }
}

impl Address {
    /// Returns whether the address is valid only on its link.
    pub fn is_link_local(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
    }
}
