//! Requests and replies, independent of the transport.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A pool of keys and values. Protocol section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolId {
    /// 0: written by the host's administrator.
    External,
    /// 1: written by the guest.
    Guest,
    /// 2: the guest's facts, computed at each request.
    Auto,
    /// 3: the host's own facts.
    AutoExternal,
    /// 4: not used by any known host.
    AutoInternal,
}

impl PoolId {
    /// Every pool, by number.
    pub const ALL: [Self; 5] = [
        Self::External,
        Self::Guest,
        Self::Auto,
        Self::AutoExternal,
        Self::AutoInternal,
    ];

    /// Returns the pool with this number.
    pub fn new(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Returns the number of the pool.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the name of the pool for users.
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Guest => "guest",
            Self::Auto => "auto",
            Self::AutoExternal => "auto-external",
            Self::AutoInternal => "auto-internal",
        }
    }
}

/// The text is neither the number nor the name of a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 0 to 4, or one of {}", PoolId::ALL.map(PoolId::name).join(", "))]
pub struct UnknownPool;

impl FromStr for PoolId {
    type Err = UnknownPool;

    /// Parses the number or the name of a pool.
    fn from_str(text: &str) -> Result<Self, UnknownPool> {
        Self::ALL
            .into_iter()
            .find(|pool| pool.name() == text || pool.to_string() == text)
            .ok_or(UnknownPool)
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// The address families of a request: bit 0 for IPv4, bit 1 for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Family(pub u8);

impl Family {
    /// Only IPv4.
    pub const V4: Self = Self(1);
    /// Only IPv6.
    pub const V6: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// Returns the family of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Whether IPv4 is included.
    pub fn has_v4(self) -> bool {
        self.0 & Self::V4.0 != 0
    }

    /// Whether IPv6 is included.
    pub fn has_v6(self) -> bool {
        self.0 & Self::V6.0 != 0
    }

    /// Whether the family of this address is included.
    pub fn includes(self, ip: IpAddr) -> bool {
        self.0 & Self::of(ip).0 != 0
    }
}

/// The IP configuration of an interface as in messages with text: lists are joined with `;`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpInfo {
    /// GUID of the interface's VMBus device if the host sets the configuration.
    pub adapter: String,
    /// Families of the addresses.
    pub family: Family,
    /// Whether IPv4 is configured by DHCP.
    pub dhcp: bool,
    /// Addresses, without prefix lengths.
    pub addresses: String,
    /// One subnet for each address: a mask for IPv4, `/` and the prefix length for IPv6.
    pub subnets: String,
    /// Default gateways.
    pub gateways: String,
    /// DNS servers.
    pub dns: String,
}

/// The IP configuration of an interface as the guest reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpConfiguration {
    /// Whether IPv4 is configured by DHCP.
    pub dhcp: bool,
    /// Addresses, preferred first.
    pub addresses: Vec<IpAddress>,
    /// Default gateways, preferred first.
    pub gateways: Vec<IpAddr>,
    /// DNS servers, preferred first.
    pub dns: Vec<IpAddr>,
}

/// An address of an [`IpConfiguration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpAddress {
    /// The IP address.
    pub ip: IpAddr,
    /// Prefix length of the subnet.
    pub prefix: u8,
    /// Where the address comes from.
    pub origin: Origin,
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// DHCP, a router, or the interface itself for a link-local address.
    Automatic,
    /// The configuration of the machine.
    Static,
}

/// A request of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Returns the value of a key.
    Get {
        /// The pool.
        pool: PoolId,
        /// The key.
        key: String,
    },
    /// Sets the value of a key.
    Set {
        /// The pool.
        pool: PoolId,
        /// The key.
        key: String,
        /// The value; numbers are in decimal.
        value: String,
    },
    /// Deletes a key.
    Delete {
        /// The pool.
        pool: PoolId,
        /// The key.
        key: String,
    },
    /// Returns the record at an index.
    Enumerate {
        /// The pool.
        pool: PoolId,
        /// The index, from 0.
        index: u32,
    },
    /// Returns the IP configuration of an interface.
    GetIpInfo {
        /// MAC address of the interface.
        adapter: String,
        /// Families of the addresses to return.
        family: Family,
    },
    /// Sets the IP configuration of an interface.
    SetIpInfo(IpInfo),
}

impl Request {
    /// Returns the pool that the request is for.
    pub fn pool(&self) -> Option<PoolId> {
        match self {
            Self::Get { pool, .. }
            | Self::Set { pool, .. }
            | Self::Delete { pool, .. }
            | Self::Enumerate { pool, .. } => Some(*pool),
            Self::GetIpInfo { .. } | Self::SetIpInfo(_) => None,
        }
    }
}

/// The reply to a successful request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// No data.
    Done,
    /// The value of the key.
    Value(String),
    /// The record at the index.
    Item {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// The IP configuration of the interface.
    IpInfo(IpConfiguration),
}
