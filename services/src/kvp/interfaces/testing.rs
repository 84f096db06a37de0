//! Interfaces and addresses for tests; what matters for one is set with `..interface(…)`.

use super::interface::{Address, Interface};

/// Returns an interface that is up and has nothing else.
pub(in crate::kvp) fn interface(index: u32, name: &str) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        up: true,
        ..Interface::default()
    }
}

/// Returns a usable static address.
pub(in crate::kvp) fn address(ip: &str, prefix: u8) -> Address {
    Address {
        ip: ip.parse().unwrap(),
        prefix,
        dynamic: false,
        tentative: false,
        deprecated: false,
    }
}
