//! Lists the network interfaces, by netlink and sysfs.
//!
//! `netlink` requests `message`s from the kernel, `decode` turns them into interfaces, `device`
//! finds the VMBus devices of interfaces, `stack` the masters of ports.

use std::io;

pub(super) use self::device::{interface_by_device, vmbus_device};
pub use self::interface::{Address, Interface};

mod decode;
mod device;
mod interface;
mod message;
mod netlink;
pub(super) mod stack;
#[cfg(test)]
pub(super) mod testing;

/// Returns all interfaces, by index.
///
/// # Errors
///
/// Any error of netlink; `TimedOut` if the kernel does not reply within two seconds.
pub fn list() -> io::Result<Vec<Interface>> {
    Ok(decode::interfaces(&netlink::dump()?))
}
