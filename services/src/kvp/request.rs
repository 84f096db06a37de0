//! What the host asks, and what it is answered, whichever way it came.

use std::fmt;
use std::str::FromStr;

/// A pool of keys and values. Protocol section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolId {
    /// 0: the host writes, the guest reads.
    External,
    /// 1: the guest writes, the host reads.
    Guest,
    /// 2: what is computed for the host.
    Auto,
    /// 3: the host's own facts.
    AutoExternal,
    /// 4.
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

    /// The pool of that number.
    pub fn new(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What people call it.
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

/// A text that is neither the number of a pool nor its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 0 to 4, or one of {}", PoolId::ALL.map(PoolId::name).join(", "))]
pub struct UnknownPool;

impl FromStr for PoolId {
    type Err = UnknownPool;

    /// The pool with this number or name.
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

/// Which addresses the host asks for or sets: bit 0 for IPv4, bit 1 for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Family(pub u8);

impl Family {
    /// Only IPv4.
    pub const V4: Self = Self(1);
    /// Only IPv6.
    pub const V6: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// Whether IPv4 is in it.
    pub fn has_v4(self) -> bool {
        self.0 & Self::V4.0 != 0
    }

    /// Whether IPv6 is in it.
    pub fn has_v6(self) -> bool {
        self.0 & Self::V6.0 != 0
    }
}

/// The IP configuration of one interface, as it travels: lists are joined with
/// `;`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpInfo {
    /// The interface: its MAC address where the host asks, the GUID of its
    /// VMBus device where the host sets.
    pub adapter: String,
    /// Families that it is about.
    pub family: Family,
    /// Whether IPv4 is configured by DHCP.
    pub dhcp: bool,
    /// Addresses, without prefix lengths.
    pub addresses: String,
    /// Subnets, one for each address: masks for IPv4, `/` and prefix length for
    /// IPv6.
    pub subnets: String,
    /// Default gateways.
    pub gateways: String,
    /// DNS servers.
    pub dns: String,
}

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The value of a key.
    Get {
        /// In which pool.
        pool: PoolId,
        /// Which.
        key: String,
    },
    /// A key gets a value.
    Set {
        /// In which pool.
        pool: PoolId,
        /// Which.
        key: String,
        /// Numbers are in decimal.
        value: String,
    },
    /// A key goes.
    Delete {
        /// From which pool.
        pool: PoolId,
        /// Which.
        key: String,
    },
    /// One key and its value, by position.
    Enumerate {
        /// Of which pool.
        pool: PoolId,
        /// From 0.
        index: u32,
    },
    /// The IP configuration of an interface.
    GetIpInfo {
        /// Its MAC address.
        adapter: String,
        /// Families that are asked for.
        family: Family,
    },
    /// An interface gets an IP configuration.
    SetIpInfo(IpInfo),
}

/// What the host is answered where all went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing but that it is done.
    Done,
    /// The value that was asked for.
    Value(String),
    /// What stands at the position.
    Item {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The interface's configuration.
    IpInfo(IpInfo),
}
