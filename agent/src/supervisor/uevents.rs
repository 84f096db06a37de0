//! Kernel uevents, which announce devices that come and go.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};

/// Netlink group of the kernel's own messages. Those of udev are in another.
const KERNEL_GROUP: u32 = 1;

/// Subsystems that concern the agent: the bus, its UIO devices, the character devices of
/// `hv_utils`, and drivers, to which devices are bound. Protocol section 1.
const SUBSYSTEMS: [&str; 4] = ["vmbus", "uio", "misc", "drivers"];

/// A netlink socket that receives uevents.
#[derive(Debug)]
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    /// Opens the socket.
    pub(crate) fn listen() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// Returns the descriptor, which is readable when uevents are waiting.
    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Receives all waiting uevents. Returns whether one of them concerns the agent.
    pub(crate) fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0; 8192];
        let mut concerned = false;
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                Ok((len, sender)) => {
                    // Other senders to the group have another port id.
                    let from_kernel = sender.is_some_and(|sender| sender.pid() == 0);
                    concerned |= from_kernel && concerns_us(buffer.get(..len).unwrap_or_default());
                }
                // The receive buffer overflowed: any uevent may have been lost.
                Err(Errno::ENOBUFS) => concerned = true,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(concerned),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Returns whether a uevent is of one of [`SUBSYSTEMS`]. A uevent is a header and then
/// `KEY=value` strings, each terminated by a NUL.
fn concerns_us(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"SUBSYSTEM="))
        .any(|subsystem| SUBSYSTEMS.iter().any(|ours| ours.as_bytes() == subsystem))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{MsgFlags, sendto};

    use super::*;

    const RELEVANT: &[u8] = b"add@/devices/x/uio/uio0\0ACTION=add\0SUBSYSTEM=uio\0SEQNUM=1\0";

    #[test]
    fn subsystems_are_told_apart() {
        assert!(concerns_us(RELEVANT));
        assert!(concerns_us(b"remove@/x\0SUBSYSTEM=vmbus"));
        assert!(!concerns_us(b"add@/x\0SUBSYSTEM=uiox\0"));
        assert!(!concerns_us(b"add@/x\0SUBSYSTEM=net\0NAME=SUBSYSTEM=uio\0"));
        assert!(!concerns_us(b""));
    }

    #[test]
    fn messages_of_other_programs_are_ignored() {
        let uevents = Uevents::listen().unwrap();
        let sender = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::empty(),
            SockProtocol::NetlinkKObjectUEvent,
        )
        .unwrap();
        // Sending to the listener's own port id needs no privilege.
        let listener: NetlinkAddr = nix::sys::socket::getsockname(uevents.0.as_raw_fd()).unwrap();
        match sendto(sender.as_raw_fd(), RELEVANT, &listener, MsgFlags::empty()) {
            Ok(_) | Err(Errno::EPERM | Errno::ECONNREFUSED) => {}
            Err(errno) => panic!("sending failed: {errno}"),
        }
        assert!(!uevents.drain().unwrap());
    }
}
