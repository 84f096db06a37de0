//! The kernel's network interfaces, by netlink and sysfs.
//!
//! `netlink` asks the kernel for `message`s, `decode` makes interfaces of
//! them, `device` tells which belong to VMBus devices.

use std::io;
use std::net::IpAddr;

pub use self::device::{interface_by_device, vmbus_device};

mod decode;
mod device;
mod message;
mod netlink;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is a loopback.
    pub loopback: bool,
    /// Index of the interface that it is part of, as a VF is of its netvsc
    /// interface.
    pub master: Option<u32>,
    /// What kind of virtual interface it is, such as `bridge`; `None` for a
    /// device's own.
    pub kind: Option<String>,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// Gateways of its default routes in the main table, those of the lowest
    /// metric first.
    pub gateways: Vec<IpAddr>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its subnet.
    pub prefix: u8,
    /// It has an end, as a lease of DHCP or an address of SLAAC has.
    pub dynamic: bool,
    /// It is not usable yet: duplicate address detection runs or failed.
    pub tentative: bool,
}

/// Every interface, by index.
///
/// # Errors
///
/// Where netlink does not answer, or not within two seconds.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let answers = netlink::dump()?;
    Ok(decode::interfaces(&answers))
}

impl Address {
    /// Whether it is good only on its own link.
    pub fn is_link_local(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
    }
}
