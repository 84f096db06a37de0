//! Whether the kernel has announced a change of the links, addresses or default routes.

use std::io;

use nix::libc;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::message::RouteHeader;

/// The multicast groups whose messages announce a change. Older kernels ignore a bit that they do
/// not know.
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE) as u32
    | 1 << (libc::RTNLGRP_NEXTHOP - 1);

/// Size of the socket's buffer in bytes; the kernel doubles it. What is in it says no more than
/// that there is something, and so does one that has overflowed.
const BUFFER_LEN: usize = 16 << 10;

/// Messages of other routes that are skipped in one look.
const MAX_SKIPPED: u32 = 64;

/// A socket that receives what the kernel announces.
pub(super) struct Changes(OwnedFd);

/// What is read of a message.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Start {
    /// Length of the message with its header, in bytes.
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    route: RouteHeader,
}

impl Changes {
    /// Subscribes to what changes from now on.
    pub(super) fn subscribe() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol means protocol 0, which is NETLINK_ROUTE.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        set_socket_recv_buffer_size(&fd, BUFFER_LEN)?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(fd))
    }

    /// Returns whether something may have changed since the subscription. Never blocks; a change
    /// is reported once.
    pub(super) fn any(&self) -> bool {
        for _ in 0..MAX_SKIPPED {
            let mut start = [0; size_of::<Start>()];
            match recv(&self.0, &mut start, RecvFlags::TRUNC) {
                Ok((_, length)) if is_about_other_routes(&start, length) => {}
                Err(Errno::AGAIN) => return false,
                // Such as `ENOBUFS`: messages were lost.
                Ok(_) | Err(_) => return true,
            }
        }
        true
    }
}

/// Returns whether a datagram of that length, which begins like this, has one message, and that is
/// about a route that is not a default route.
fn is_about_other_routes(start: &[u8], length: usize) -> bool {
    let Ok(start) = Start::read_from_bytes(start) else {
        return false;
    };
    // The kernel pads a message to four bytes.
    let is_one = length >= size_of::<Start>() && length.saturating_sub(3) <= start.length as usize;
    is_one
        && matches!(start.kind, libc::RTM_NEWROUTE | libc::RTM_DELROUTE)
        && start.route.destination_prefix != 0
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    /// The start of a message of this length about a route.
    fn about_route(kind: u16, prefix: u8, length: u32) -> Vec<u8> {
        let mut route = RouteHeader::default();
        route.destination_prefix = prefix;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend(route.as_bytes());
        bytes
    }

    #[test]
    fn only_messages_about_other_routes_are_skipped() {
        let other = about_route(libc::RTM_NEWROUTE, 24, 61);
        assert!(is_about_other_routes(&other, 61));
        assert!(is_about_other_routes(&other, 64));
        let other = about_route(libc::RTM_DELROUTE, 128, 60);
        assert!(is_about_other_routes(&other, 60));
        // A second message follows, or this one is not whole.
        for length in [0, 16, 27, 76] {
            assert!(!is_about_other_routes(&other, length), "{length}");
        }
        let default = about_route(libc::RTM_DELROUTE, 0, 60);
        assert!(!is_about_other_routes(&default, 60));
        let link = about_route(libc::RTM_NEWLINK, 24, 60);
        assert!(!is_about_other_routes(&link, 60));
    }

    #[test]
    fn an_error_counts_as_a_change() {
        let no_socket = std::fs::File::open("/dev/null").unwrap();
        assert!(Changes(no_socket.into()).any());
    }
}
