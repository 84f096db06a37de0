//! Requests the links, addresses and routes from the kernel.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use nix::libc;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use zerocopy::{Immutable, IntoBytes};

use super::message::{AddressHeader, LinkHeader, Message, RouteHeader};

/// The kernel replies in microseconds, unless somebody holds the rtnetlink lock.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A dump that keeps changing is taken as it is after so many requests.
const MAX_TRIES: u32 = 5;

/// Longest datagram of a dump, in bytes.
const BUFFER_LEN: usize = 32 << 10;

/// Requests links without their statistics.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LinksRequest {
    header: LinkHeader,
    /// Length of the attribute, in bytes.
    length: u16,
    kind: u16,
    mask: u32,
}

/// Returns all links, addresses and routes, in the kernel's order.
pub(super) fn dump() -> io::Result<Vec<Message>> {
    let links = LinksRequest {
        header: LinkHeader::default(),
        length: 8,
        kind: libc::IFLA_EXT_MASK,
        mask: libc::RTEXT_FILTER_SKIP_STATS as u32,
    };
    let request = |kind, body: &[u8]| Message {
        kind,
        body: body.to_vec(),
    };
    // Links first: the kernel holds its lock while it changes something and announces that, and
    // takes the same lock for a dump of links. The dumps of the others may not take it, and would
    // see the first part of a change.
    let requests = [
        request(libc::RTM_GETLINK, links.as_bytes()),
        request(libc::RTM_GETADDR, AddressHeader::default().as_bytes()),
        request(libc::RTM_GETROUTE, RouteHeader::default().as_bytes()),
    ];
    let mut socket = Socket::open(Instant::now() + TIMEOUT)?;
    let mut messages = Vec::new();
    for request in requests {
        for left in (0..MAX_TRIES).rev() {
            let reply = socket.dump(request.clone())?;
            if reply.consistent || left == 0 {
                messages.extend(reply.messages);
                break;
            }
        }
    }
    Ok(messages)
}

struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    deadline: Instant,
}

struct Reply {
    messages: Vec<Message>,
    /// Nothing changed during the dump.
    consistent: bool,
}

impl Socket {
    fn open(deadline: Instant) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        // No protocol means protocol 0, which is NETLINK_ROUTE.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // A connected socket receives messages from the kernel only.
        connect(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Self {
            fd,
            buffer: vec![0; BUFFER_LEN],
            sequence: 0,
            deadline,
        })
    }

    fn dump(&mut self, request: Message) -> io::Result<Reply> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        retry_on_intr(|| send(&self.fd, &bytes, SendFlags::empty()))?;

        let mut reply = Reply {
            messages: Vec::new(),
            consistent: true,
        };
        while Instant::now() < self.deadline {
            let received = retry_on_intr(|| recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC));
            let len = match received {
                Ok((_, len)) => len,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            let Some(datagram) = self.buffer.get(..len) else {
                return Err(invalid(format!("a datagram of {len} bytes")));
            };
            if read(datagram, self.sequence, &mut reply)? {
                return Ok(reply);
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }
}

/// Reads the messages of one datagram; returns `true` after the last one of the reply.
fn read(mut datagram: &[u8], sequence: u32, reply: &mut Reply) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message =
            NetlinkBuffer::new_checked(datagram).map_err(|error| invalid(error.to_string()))?;
        let length = message.length() as usize;
        if message.sequence_number() == sequence {
            reply.consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
            match NetlinkMessage::deserialize(datagram).map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => reply.messages.push(message),
                Ok(NetlinkPayload::Done(_)) => return Ok(true),
                Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                Ok(_) | Err(_) => {}
            }
        }
        let next = length.next_multiple_of(4);
        datagram = datagram.get(next..).unwrap_or_default();
    }
    Ok(false)
}

fn invalid(what: String) -> io::Error {
    let error = format!("invalid netlink reply: {what}");
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DoneMessage, ErrorMessage};
    use proptest::prelude::*;

    use super::*;

    const SEQUENCE: u32 = 7;

    type Payload = NetlinkPayload<Message>;

    fn about(name: &str) -> Payload {
        NetlinkPayload::InnerMessage(Message {
            kind: libc::RTM_NEWLINK,
            body: name.into(),
        })
    }

    fn message(payload: Payload, sequence: u32, flags: u16) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn done() -> Vec<u8> {
        let done = NetlinkPayload::Done(DoneMessage::default());
        message(done, SEQUENCE, 0)
    }

    fn reply() -> Reply {
        Reply {
            messages: Vec::new(),
            consistent: true,
        }
    }

    #[test]
    fn a_reply_has_several_datagrams() {
        let mut reply = reply();
        let datagram = [
            message(about("a"), SEQUENCE, 0),
            message(about("bcd"), SEQUENCE, 0),
        ]
        .concat();
        assert!(!read(&datagram, SEQUENCE, &mut reply).unwrap());
        let datagram = [message(about("e"), SEQUENCE, 0), done()].concat();
        assert!(read(&datagram, SEQUENCE, &mut reply).unwrap());
        assert_eq!(reply.messages.len(), 3);
        assert!(reply.consistent);
    }

    #[test]
    fn an_interrupted_dump_is_not_consistent() {
        let mut reply = reply();
        let datagram = message(about("a"), SEQUENCE, NLM_F_DUMP_INTR);
        read(&datagram, SEQUENCE, &mut reply).unwrap();
        assert!(read(&done(), SEQUENCE, &mut reply).unwrap());
        assert!(!reply.consistent);
    }

    #[test]
    fn the_reply_to_another_request_is_skipped() {
        let mut reply = reply();
        assert!(!read(&done(), SEQUENCE + 1, &mut reply).unwrap());
        let datagram = message(about("a"), SEQUENCE - 1, NLM_F_DUMP_INTR);
        read(&datagram, SEQUENCE, &mut reply).unwrap();
        assert!(reply.messages.is_empty() && reply.consistent);
    }

    #[test]
    fn an_error_of_the_kernel_is_returned() {
        let mut error = ErrorMessage::default();
        error.code = std::num::NonZero::new(-13);
        let datagram = message(NetlinkPayload::Error(error), SEQUENCE, 0);
        let error = read(&datagram, SEQUENCE, &mut reply()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_truncated_message_is_an_error() {
        let datagram = message(about("name"), SEQUENCE, 0);
        let error = read(&datagram[..datagram.len() - 1], SEQUENCE, &mut reply()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = read(&bytes, SEQUENCE, &mut reply());
        }
    }
}
