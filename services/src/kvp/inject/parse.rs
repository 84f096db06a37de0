//! What the host sends, as typed values: nothing else of it goes any further.
//! Protocol section 7.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyperv_vmbus::Guid;

use crate::kvp::request::{Family, IpInfo};

/// Elements that a list may have.
const MAX_ELEMENTS: usize = 64;

/// Metric of a family's second default route; each further one has one more.
/// Every manager gives the first one less.
const FURTHER_METRIC: u32 = 1025;

/// Why a value is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The interface is not named by a GUID.
    #[error("{0:?} is not the GUID of a device")]
    Device(String),
    /// The family has bits that mean nothing.
    #[error("there is no address family {0}")]
    Family(u8),
    /// Not an IP address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// An IP address that a machine cannot have.
    #[error("{0} is not an address that {1} can have")]
    NotUnicast(IpAddr, &'static str),
    /// An address is in its list more than once.
    #[error("the address {0} is there twice")]
    Twice(IpAddr),
    /// Not a subnet of the address's family.
    #[error("{subnet:?} is neither a mask nor a prefix length that {address} can have")]
    Subnet {
        /// What should say which subnet it is in.
        subnet: String,
        /// Whose.
        address: IpAddr,
    },
    /// Addresses and subnets do not go together.
    #[error("there are {addresses} addresses and {subnets} subnets")]
    Counts {
        /// How many addresses.
        addresses: usize,
        /// How many subnets.
        subnets: usize,
    },
    /// A list is longer than any interface needs.
    #[error("a list has more than {MAX_ELEMENTS} elements")]
    TooMany,
    /// A gateway or a DNS server that could not be reached.
    #[error("{0} cannot be used, since the interface would have no address of its family")]
    Unreachable(IpAddr),
    /// The interface would be left without a configuration.
    #[error("there is neither an address nor DHCP")]
    Nothing,
}

/// The IP configuration that an interface is to have. IPv6 addresses are in
/// addition to what routers announce: SLAAC stays on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// IPv4 is configured by DHCP.
    pub dhcp4: bool,
    /// Static IPv4 addresses, with the length of the subnet's prefix; none with
    /// DHCP.
    pub v4: Vec<(Ipv4Addr, u8)>,
    /// Static IPv6 addresses, with the length of the subnet's prefix.
    pub v6: Vec<(Ipv6Addr, u8)>,
    /// IPv4 gateways, preferred first; none with DHCP.
    pub gateways4: Vec<Ipv4Addr>,
    /// IPv6 gateways, preferred first.
    pub gateways6: Vec<Ipv6Addr>,
    /// DNS servers, preferred first. With DHCP, they come before its own.
    pub dns: Vec<IpAddr>,
    /// IPv4 addresses and gateways that the host named although it asks for
    /// DHCP, as one does that changes but that in what it was told last.
    pub left_to_dhcp: Vec<Ipv4Addr>,
}

/// A default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) gateway: IpAddr,
    /// The gateway is in none of the interface's subnets.
    pub(super) on_link: bool,
    /// `None` for a family's first: what the manager gives by itself.
    pub(super) metric: Option<u32>,
}

impl Settings {
    /// Parses what the host wants.
    ///
    /// Addresses are told apart by themselves, as the stock daemon does: the
    /// family matters only where there is none, for IPv6 alone then means SLAAC.
    ///
    /// # Errors
    ///
    /// Any [`Invalid`].
    pub fn parse(info: &IpInfo) -> Result<Self, Invalid> {
        if info.family.0 > Family::BOTH.0 {
            return Err(Invalid::Family(info.family.0));
        }
        let addresses = list(&info.addresses)?;
        let subnets = list(&info.subnets)?;
        if addresses.len() != subnets.len() {
            return Err(Invalid::Counts {
                addresses: addresses.len(),
                subnets: subnets.len(),
            });
        }
        let mut settings = Self {
            dhcp4: info.dhcp,
            ..Self::default()
        };
        for (text, subnet) in addresses.into_iter().zip(subnets) {
            let ip = unicast(text, "an interface")?;
            let prefix = prefix(subnet, ip).ok_or_else(|| Invalid::Subnet {
                subnet: subnet.to_owned(),
                address: ip,
            })?;
            if settings.has(ip) {
                return Err(Invalid::Twice(ip));
            }
            match ip {
                IpAddr::V4(ip) => settings.v4.push((ip, prefix)),
                IpAddr::V6(ip) => settings.v6.push((ip, prefix)),
            }
        }
        for text in list(&info.gateways)? {
            match unicast(text, "a gateway")? {
                IpAddr::V4(ip) => settings.gateways4.push(ip),
                IpAddr::V6(ip) => settings.gateways6.push(ip),
            }
        }
        for text in list(&info.dns)? {
            settings.dns.push(unicast(text, "a DNS server")?);
        }
        settings.check(info.family)?;
        if settings.dhcp4 {
            settings.left_to_dhcp = settings.v4.drain(..).map(|(ip, _)| ip).collect();
            settings.left_to_dhcp.append(&mut settings.gateways4);
        }
        Ok(settings)
    }

    fn has(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.iter().any(|&(other, _)| other == ip),
            IpAddr::V6(ip) => self.v6.iter().any(|&(other, _)| other == ip),
        }
    }

    fn check(&self, family: Family) -> Result<(), Invalid> {
        if !self.dhcp4 && self.v4.is_empty() {
            let server = self.dns.iter().find(|ip| ip.is_ipv4()).copied();
            let gateway = self.gateways4.first().copied().map(IpAddr::V4);
            if let Some(ip) = gateway.or(server) {
                return Err(Invalid::Unreachable(ip));
            }
            if self.v6.is_empty() && family != Family::V6 {
                return Err(Invalid::Nothing);
            }
        }
        Ok(())
    }

    /// The static addresses of both families.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let v4 = self.v4.iter().map(|&(ip, prefix)| (ip.into(), prefix));
        v4.chain(self.v6.iter().map(|&(ip, prefix)| (ip.into(), prefix)))
    }

    /// The IPv4 default routes, preferred first.
    pub(super) fn routes4(&self) -> impl Iterator<Item = Route> {
        (0..).zip(&self.gateways4).map(|(place, &gateway)| Route {
            gateway: gateway.into(),
            on_link: !self.v4.iter().any(|&(ip, prefix)| {
                let apart = ip.to_bits() ^ gateway.to_bits();
                apart.leading_zeros() >= u32::from(prefix)
            }),
            metric: metric(place),
        })
    }

    /// The IPv6 default routes, preferred first.
    pub(super) fn routes6(&self) -> impl Iterator<Item = Route> {
        (0..).zip(&self.gateways6).map(|(place, &gateway)| Route {
            gateway: gateway.into(),
            on_link: !gateway.is_unicast_link_local()
                && !self.v6.iter().any(|&(ip, prefix)| {
                    let apart = ip.to_bits() ^ gateway.to_bits();
                    apart.leading_zeros() >= u32::from(prefix)
                }),
            metric: metric(place),
        })
    }

    /// What the configuration is, for the log.
    pub(super) fn in_words(&self) -> String {
        let mut parts = Vec::new();
        if self.dhcp4 {
            parts.push("IPv4 by DHCP".to_owned());
        }
        if !self.left_to_dhcp.is_empty() {
            let left = joined(&self.left_to_dhcp, " ");
            parts.push(format!("which leaves out the host's {left}"));
        }
        parts.extend(
            self.addresses()
                .map(|(ip, prefix)| format!("{ip}/{prefix}")),
        );
        if self.v6.is_empty() {
            parts.push("IPv6 by SLAAC".to_owned());
        }
        let gateways = self.routes4().chain(self.routes6());
        parts.extend(gateways.map(|route| format!("gateway {}", route.gateway)));
        parts.extend(self.dns.iter().map(|ip| format!("DNS {ip}")));
        parts.join(", ")
    }
}

fn metric(place: u32) -> Option<u32> {
    place.checked_sub(1).map(|further| FURTHER_METRIC + further)
}

/// The items, with `separator` between them.
pub(super) fn joined<T: Display>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(separator)
}

/// The GUID by which the host names an interface's device.
///
/// # Errors
///
/// Where it is none.
pub fn device(adapter: &str) -> Result<Guid, Invalid> {
    adapter
        .parse()
        .map_err(|_| Invalid::Device(adapter.to_owned()))
}

/// The elements between the `;` of a list; empty ones at its end do not count.
fn list(text: &str) -> Result<Vec<&str>, Invalid> {
    let text = text.trim_end_matches([';', ' ']);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let elements: Vec<&str> = text
        .split(';')
        .take(MAX_ELEMENTS + 1)
        .map(|element| element.trim_matches(' '))
        .collect();
    match elements.len() {
        0..=MAX_ELEMENTS => Ok(elements),
        _ => Err(Invalid::TooMany),
    }
}

/// The address, where it is one that a machine can have on a network.
fn unicast(text: &str, what: &'static str) -> Result<IpAddr, Invalid> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| Invalid::Address(text.to_owned()))?;
    let usable = match ip {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            first != 0 && !ip.is_loopback() && !ip.is_multicast() && !ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_multicast()
                && ip.to_ipv4_mapped().is_none()
        }
    };
    match usable {
        true => Ok(ip),
        false => Err(Invalid::NotUnicast(ip, what)),
    }
}

/// The prefix length that `/n`, `n` or, for IPv4, a mask stands for.
fn prefix(subnet: &str, address: IpAddr) -> Option<u8> {
    let longest = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    if address.is_ipv4() {
        if let Ok(mask) = subnet.parse::<Ipv4Addr>() {
            let bits = mask.to_bits();
            let ones = bits.leading_ones();
            let contiguous = bits.count_ones() == ones && ones > 0;
            return u8::try_from(ones).ok().filter(|_| contiguous);
        }
    }
    let digits = subnet.strip_prefix('/').unwrap_or(subnet);
    // A sign would be parsed, too.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|prefix| (1..=longest).contains(prefix))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
