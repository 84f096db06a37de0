//! Lists the network interfaces, by netlink and sysfs.
//!
//! `netlink` requests `message`s from the kernel, `decode` turns them into interfaces, `device`
//! finds the VMBus devices of interfaces, `stack` the masters of ports. `list` keeps the list until
//! the kernel announces one of the `changes`.

pub(super) use self::device::interface_by_device;
pub use self::interface::{Address, Interface};
pub use self::list::{Interfaces, list};

mod changes;
mod decode;
mod device;
mod interface;
mod list;
mod message;
mod netlink;
pub(super) mod stack;
#[cfg(test)]
pub(super) mod testing;
