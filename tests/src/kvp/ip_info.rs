//! The IP configuration of an interface, in text or binary.

/// Units of the field of the adapter.
pub(super) const ADAPTER_UNITS: usize = 128;

/// The IP configuration of an interface; lists are joined with `;`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpInfo {
    /// Its MAC address in a GET, the GUID of its device in a SET.
    pub adapter: String,
    /// 1 for IPv4, 2 for IPv6, 3 for both.
    pub family: u8,
    /// IPv4 by DHCP.
    pub dhcp: bool,
    /// Addresses.
    pub addresses: String,
    /// Masks of IPv4, `/` and a prefix length for IPv6.
    pub subnets: String,
    /// Default gateways.
    pub gateways: String,
    /// Name servers.
    pub dns: String,
    /// Where each address comes from, as the protocol numbers it; nothing where the
    /// configuration is text.
    pub origins: Vec<u16>,
}
