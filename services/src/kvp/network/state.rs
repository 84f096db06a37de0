//! What network managers know about an interface and the kernel does not.

use std::net::{IpAddr, Ipv4Addr};

use crate::kvp::interfaces::Interface;

/// What a network manager knows about an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManagerState {
    /// Whether IPv4 is configured by DHCP; `None` if that is unknown.
    pub dhcp: Option<bool>,
    /// DNS servers in order of preference.
    pub dns: Vec<IpAddr>,
}

/// Whether the interface has the address of a lease: the files of leases stay when an
/// interface no longer uses DHCP.
pub(super) fn in_use(address: Ipv4Addr, interface: &Interface) -> bool {
    let mut own = interface.addresses.iter();
    own.any(|own| own.ip == IpAddr::V4(address))
}
