//! Parses the IP configuration that the host sends. The rest of the agent sees the typed values
//! only. Protocol section 7.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyperv_vmbus::Guid;

use crate::kvp::request::{Family, IpInfo};

/// Longest list, in elements.
const MAX_ELEMENTS: usize = 64;

/// Metric of a family's second default route; each further one has one more. Every network
/// manager assigns a lower metric to the first one.
const FURTHER_METRIC: u32 = 1025;

/// An IP configuration of the host that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The interface is not named by a GUID.
    #[error("invalid device {0:?}: expected a GUID")]
    Device(String),
    /// The family has unknown bits.
    #[error("invalid address family {0}")]
    Family(u8),
    /// Not an IP address.
    #[error("invalid IP address {0:?}")]
    Address(String),
    /// An IP address that no machine can have.
    #[error("{0} cannot be the address of {1}")]
    NotUnicast(IpAddr, &'static str),
    /// A list has an address more than once.
    #[error("duplicate address {0}")]
    Duplicate(IpAddr),
    /// Not a subnet of the address's family.
    #[error("invalid subnet {subnet:?} of {address}: expected a mask or a prefix length")]
    Subnet {
        /// The text that should be a subnet.
        subnet: String,
        /// The address in the subnet.
        address: IpAddr,
    },
    /// The lists of addresses and subnets are not of the same length.
    #[error("{addresses} addresses, but {subnets} subnets")]
    Counts {
        /// The number of addresses.
        addresses: usize,
        /// The number of subnets.
        subnets: usize,
    },
    /// A list is longer than any interface needs.
    #[error("a list has more than {MAX_ELEMENTS} elements")]
    TooMany,
    /// A gateway or a DNS server of a family in which the interface has no address.
    #[error("{0} is unreachable: the interface would have no address of its family")]
    Unreachable(IpAddr),
    /// The interface would have no configuration.
    #[error("neither an address nor DHCP")]
    Nothing,
}

/// The IP configuration of an interface.
///
/// A family that is not in `families` is left as it is: a network manager keeps
/// its addresses, gateways, DNS servers, routes and methods (DHCP, SLAAC) from the file in force,
/// and the lists here have nothing of it but DNS servers. A family that is there is replaced:
/// without an address and without DHCP, IPv4 is off. SLAAC is always on in an IPv6 that is
/// replaced: its addresses are in addition to those that routers announce.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The families that the host configures.
    pub families: Family,
    /// DHCP configures IPv4.
    pub dhcp4: bool,
    /// Static IPv4 addresses and the prefix lengths of their subnets; none with DHCP.
    pub v4: Vec<(Ipv4Addr, u8)>,
    /// Static IPv6 addresses and the prefix lengths of their subnets.
    pub v6: Vec<(Ipv6Addr, u8)>,
    /// IPv4 gateways, preferred first; none with DHCP.
    pub gateways4: Vec<Ipv4Addr>,
    /// IPv6 gateways, preferred first.
    pub gateways6: Vec<Ipv6Addr>,
    /// DNS servers, preferred first. With DHCP, they come before those of the lease.
    pub dns: Vec<IpAddr>,
    /// IPv4 addresses and gateways that the host sent although it wants DHCP. A host does that
    /// if it reads the configuration and changes nothing but DHCP.
    pub left_to_dhcp: Vec<Ipv4Addr>,
}

/// A default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) gateway: IpAddr,
    /// The gateway is in none of the interface's subnets.
    pub(super) on_link: bool,
    /// `None` for the first of a family: the network manager's default.
    pub(super) metric: Option<u32>,
}

impl Route {
    /// Returns the destination: everything of the family.
    pub(super) fn destination(&self) -> &'static str {
        match self.gateway {
            IpAddr::V4(_) => "0.0.0.0/0",
            IpAddr::V6(_) => "::/0",
        }
    }

    /// Returns the metric with `before` in front of it, if there is one.
    pub(super) fn metric_after(&self, before: &str) -> String {
        let metric = self.metric.map(|metric| format!("{before}{metric}"));
        metric.unwrap_or_default()
    }
}

impl Settings {
    /// Parses a message of the host.
    ///
    /// As in the stock daemon, the text of an address tells its family. The message's own family
    /// adds those of which it has no address: IPv6 then means SLAAC, and IPv4 beside IPv6 means
    /// none. DHCP is IPv4's, whatever the family. IPv6 link-local addresses are ignored: the
    /// kernel makes them, and a host that sends what it has read sends them too.
    ///
    /// # Errors
    ///
    /// Any [`Invalid`].
    pub fn parse(info: &IpInfo) -> Result<Self, Invalid> {
        if info.family.0 > Family::BOTH.0 {
            return Err(Invalid::Family(info.family.0));
        }
        let mut settings = Self {
            dhcp4: info.dhcp,
            ..Self::default()
        };
        for (text, subnet) in pairs(&info.addresses, &info.subnets)? {
            let ip = unicast(text, "an interface")?;
            let prefix = prefix(subnet, ip).ok_or_else(|| Invalid::Subnet {
                subnet: subnet.to_owned(),
                address: ip,
            })?;
            if settings.addresses().any(|(other, _)| other == ip) {
                return Err(Invalid::Duplicate(ip));
            }
            match ip {
                IpAddr::V4(ip) => settings.v4.push((ip, prefix)),
                IpAddr::V6(ip) if ip.is_unicast_link_local() => {}
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
        settings.families = settings.families(info.family);
        settings.check()?;
        if settings.dhcp4 {
            settings.left_to_dhcp = settings.v4.drain(..).map(|(ip, _)| ip).collect();
            settings.left_to_dhcp.append(&mut settings.gateways4);
        }
        Ok(settings)
    }

    /// Returns the families that a message of the family `sent` configures.
    fn families(&self, sent: Family) -> Family {
        // IPv4 alone and without an address would only switch it off.
        let v4 = sent == Family::BOTH || self.dhcp4 || !self.v4.is_empty();
        let v6 = sent.has_v6() || !self.v6.is_empty();
        let mut families = Family::default();
        if v4 || !self.gateways4.is_empty() {
            families.0 |= Family::V4.0;
        }
        if v6 || !self.gateways6.is_empty() {
            families.0 |= Family::V6.0;
        }
        families
    }

    fn check(&self) -> Result<(), Invalid> {
        if self.families == Family::default() {
            return Err(Invalid::Nothing);
        }
        if self.families.has_v4() && !self.dhcp4 && self.v4.is_empty() {
            let server = self.dns.iter().find(|ip| ip.is_ipv4()).copied();
            let gateway = self.gateways4.first().copied().map(IpAddr::V4);
            if let Some(ip) = gateway.or(server) {
                return Err(Invalid::Unreachable(ip));
            }
            if self.v6.is_empty() {
                return Err(Invalid::Nothing);
            }
        }
        Ok(())
    }

    /// Returns whether the host configures the family of this address, so that what the previous
    /// configuration has of it is not kept.
    pub(super) fn replaces(&self, ip: IpAddr) -> bool {
        self.families.includes(ip)
    }

    /// Returns whether a gateway is on the link without a flag that says so: it is in the subnet
    /// of a static address, link-local, or of a family that is left as it is. With DHCP or SLAAC,
    /// the subnets are not known. A route of the previous configuration that stays, and whose
    /// gateway is not reached, needs that flag: systemd-networkd and `ip route` refuse it
    /// otherwise.
    pub(super) fn reaches(&self, gateway: IpAddr) -> bool {
        if !self.replaces(gateway) {
            return true;
        }
        match gateway {
            IpAddr::V4(gateway) => self.v4.iter().any(|&(ip, prefix)| {
                let difference = ip.to_bits() ^ gateway.to_bits();
                difference.leading_zeros() >= u32::from(prefix)
            }),
            IpAddr::V6(gateway) => {
                gateway.is_unicast_link_local()
                    || self.v6.iter().any(|&(ip, prefix)| {
                        let difference = ip.to_bits() ^ gateway.to_bits();
                        difference.leading_zeros() >= u32::from(prefix)
                    })
            }
        }
    }

    /// Returns the static addresses of both families.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let v4 = self.v4.iter().map(|&(ip, prefix)| (ip.into(), prefix));
        v4.chain(self.v6.iter().map(|&(ip, prefix)| (ip.into(), prefix)))
    }

    /// Returns the default routes of both families, preferred first.
    pub(super) fn routes(&self) -> impl Iterator<Item = Route> {
        self.routes4().chain(self.routes6())
    }

    /// Returns the IPv4 default routes, preferred first.
    pub(super) fn routes4(&self) -> impl Iterator<Item = Route> {
        (0..)
            .zip(&self.gateways4)
            .map(|(place, &gateway)| self.route(place, gateway.into()))
    }

    /// Returns the IPv6 default routes, preferred first.
    pub(super) fn routes6(&self) -> impl Iterator<Item = Route> {
        (0..)
            .zip(&self.gateways6)
            .map(|(place, &gateway)| self.route(place, gateway.into()))
    }

    fn route(&self, place: u32, gateway: IpAddr) -> Route {
        Route {
            gateway,
            on_link: !self.reaches(gateway),
            metric: metric(place),
        }
    }
}

/// One line for the log.
impl Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.dhcp4 {
            parts.push("IPv4 by DHCP".to_owned());
        }
        if !self.left_to_dhcp.is_empty() {
            let ignored = joined(&self.left_to_dhcp, " ");
            parts.push(format!("ignoring the host's {ignored}"));
        }
        let addresses = self.addresses();
        parts.extend(addresses.map(|(ip, prefix)| format!("{ip}/{prefix}")));
        if !self.families.has_v4() {
            parts.push("IPv4 left as it is".to_owned());
        }
        if !self.families.has_v6() {
            parts.push("IPv6 left as it is".to_owned());
        } else if self.v6.is_empty() {
            parts.push("IPv6 by SLAAC".to_owned());
        }
        let gateways = self.routes().map(|route| route.gateway);
        parts.extend(gateways.map(|ip| format!("gateway {ip}")));
        parts.extend(self.dns.iter().map(|ip| format!("DNS {ip}")));
        f.write_str(&parts.join(", "))
    }
}

fn metric(place: u32) -> Option<u32> {
    place.checked_sub(1).map(|further| FURTHER_METRIC + further)
}

/// Joins the items with `separator`.
pub(super) fn joined<T: Display>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(separator)
}

/// Parses the GUID by which the host names an interface's VMBus device.
///
/// # Errors
///
/// [`Invalid::Device`] if it is not a GUID.
pub fn device(adapter: &str) -> Result<Guid, Invalid> {
    adapter
        .parse()
        .map_err(|_| Invalid::Device(adapter.to_owned()))
}

/// Splits a list at `;`, without empty elements at its end.
fn elements(text: &str) -> Vec<&str> {
    let text = text.trim_end_matches([';', ' ']);
    match text {
        "" => Vec::new(),
        _ => text
            .split(';')
            .map(|element| element.trim_matches(' '))
            .collect(),
    }
}

/// Returns the elements of a list that are not empty.
fn list(text: &str) -> Result<Vec<&str>, Invalid> {
    let mut elements = elements(text);
    elements.retain(|element| !element.is_empty());
    match elements.len() {
        0..=MAX_ELEMENTS => Ok(elements),
        _ => Err(Invalid::TooMany),
    }
}

/// Returns each address with its subnet, where not both of them are empty.
fn pairs<'a>(addresses: &'a str, subnets: &'a str) -> Result<Vec<(&'a str, &'a str)>, Invalid> {
    let (addresses, subnets) = (elements(addresses), elements(subnets));
    if addresses.len() != subnets.len() {
        return Err(Invalid::Counts {
            addresses: addresses.len(),
            subnets: subnets.len(),
        });
    }
    let mut pairs: Vec<_> = addresses.into_iter().zip(subnets).collect();
    pairs.retain(|pair| *pair != ("", ""));
    match pairs.len() {
        0..=MAX_ELEMENTS => Ok(pairs),
        _ => Err(Invalid::TooMany),
    }
}

/// Parses an address that a machine can have on a network.
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

/// Parses `/n`, `n` or, for IPv4, a mask into a prefix length.
fn prefix(subnet: &str, address: IpAddr) -> Option<u8> {
    let longest = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    if let (IpAddr::V4(_), Ok(mask)) = (address, subnet.parse::<Ipv4Addr>()) {
        let bits = mask.to_bits();
        let ones = bits.leading_ones();
        let contiguous = bits.count_ones() == ones && ones > 0;
        return u8::try_from(ones).ok().filter(|_| contiguous);
    }
    let digits = subnet.strip_prefix('/').unwrap_or(subnet);
    // `parse` accepts a sign as well.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|prefix| (1..=longest).contains(prefix))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
