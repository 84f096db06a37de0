//! Reads and writes the IP configuration of interfaces. Protocol section 7.
//!
//! `get` answers the host's questions and `set` applies what it wants; both by what the
//! `managers` say, each a directory of its own. [`settings`] parses the host's texts, `lists`
//! formats those for it. A network manager makes a `plan`, which a `transaction` applies and
//! `verify` checks. `scripts` are those of the stock daemon.

pub(super) use self::error::InjectError;
pub use self::get::{IpInfoError, get};
pub use self::set::renderings;
pub(super) use self::set::{recover, rollback, set};

mod choose;
mod dns;
mod error;
mod get;
pub mod ifcfg;
pub mod ifupdown;
pub mod ini;
pub(super) mod lists;
mod mac;
mod managers;
mod netplan;
mod networkd;
mod networkmanager;
mod plan;
mod scripts;
mod set;
pub mod settings;
pub mod sources;
mod state;
mod target;
#[cfg(test)]
mod testing;
mod transaction;
mod verify;
