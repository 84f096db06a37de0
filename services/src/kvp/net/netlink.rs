//! Asks the kernel for its links, addresses and routes.

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

/// The kernel answers in microseconds, unless somebody holds its lock.
const LIMIT: Duration = Duration::from_secs(2);

/// Tables that change all the time would be asked for again for ever.
const TRIES: u32 = 5;

/// Bytes of the largest part of an answer that the kernel makes.
const BUFFER: usize = 32 << 10;

/// Asks for links without their counters.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LinksQuestion {
    header: LinkHeader,
    /// Of the attribute.
    length: u16,
    kind: u16,
    mask: u32,
}

/// Every link, address and route, in the kernel's order.
pub(super) fn dump() -> io::Result<Vec<Message>> {
    let links = LinksQuestion {
        header: LinkHeader::default(),
        length: 8,
        kind: libc::IFLA_EXT_MASK,
        mask: libc::RTEXT_FILTER_SKIP_STATS as u32,
    };
    let question = |kind, body: &[u8]| Message {
        kind,
        body: body.to_vec(),
    };
    let questions = [
        question(libc::RTM_GETLINK, links.as_bytes()),
        question(libc::RTM_GETADDR, AddressHeader::default().as_bytes()),
        question(libc::RTM_GETROUTE, RouteHeader::default().as_bytes()),
    ];
    let mut socket = Socket::open(Instant::now() + LIMIT)?;
    let mut answers = Vec::new();
    for question in questions {
        for left in (0..TRIES).rev() {
            let answer = socket.ask(question.clone())?;
            if answer.whole || left == 0 {
                answers.extend(answer.messages);
                break;
            }
        }
    }
    Ok(answers)
}

struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    deadline: Instant,
}

struct Answer {
    messages: Vec<Message>,
    /// Nothing changed while the kernel went through its tables.
    whole: bool,
}

impl Socket {
    fn open(deadline: Instant) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        // No protocol is protocol 0: NETLINK_ROUTE.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // A connected socket takes messages of nobody but the kernel.
        connect(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(LIMIT))?;
        Ok(Self {
            fd,
            buffer: vec![0; BUFFER],
            sequence: 0,
            deadline,
        })
    }

    fn ask(&mut self, question: Message) -> io::Result<Answer> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut question = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        question.finalize();
        let mut bytes = vec![0; question.buffer_len()];
        question.serialize(&mut bytes);
        retry_on_intr(|| send(&self.fd, &bytes, SendFlags::empty()))?;

        let mut answer = Answer {
            messages: Vec::new(),
            whole: true,
        };
        while Instant::now() < self.deadline {
            let received = retry_on_intr(|| recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC));
            let len = match received {
                Ok((_, len)) => len,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            let Some(part) = self.buffer.get(..len) else {
                return Err(invalid(format!("a part of {len} bytes")));
            };
            if take(part, self.sequence, &mut answer)? {
                return Ok(answer);
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }
}

/// Takes the messages of one part of an answer; `true` after the last one.
fn take(mut part: &[u8], sequence: u32, answer: &mut Answer) -> io::Result<bool> {
    while !part.is_empty() {
        let message =
            NetlinkBuffer::new_checked(part).map_err(|error| invalid(error.to_string()))?;
        let length = message.length() as usize;
        if message.sequence_number() == sequence {
            answer.whole &= message.flags() & NLM_F_DUMP_INTR == 0;
            match NetlinkMessage::deserialize(part).map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => answer.messages.push(message),
                Ok(NetlinkPayload::Done(_)) => return Ok(true),
                Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                Ok(_) | Err(_) => {}
            }
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the kernel's answer over netlink cannot be read: {what}"),
    )
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

    fn answer() -> Answer {
        Answer {
            messages: Vec::new(),
            whole: true,
        }
    }

    #[test]
    fn an_answer_goes_on_until_it_is_done() {
        let mut answer = answer();
        let part = [
            message(about("a"), SEQUENCE, 0),
            message(about("bcd"), SEQUENCE, 0),
        ]
        .concat();
        assert!(!take(&part, SEQUENCE, &mut answer).unwrap());
        let part = [message(about("e"), SEQUENCE, 0), done()].concat();
        assert!(take(&part, SEQUENCE, &mut answer).unwrap());
        assert_eq!(answer.messages.len(), 3);
        assert!(answer.whole);
    }

    #[test]
    fn an_interrupted_answer_is_not_whole() {
        let mut answer = answer();
        let part = message(about("a"), SEQUENCE, NLM_F_DUMP_INTR);
        take(&part, SEQUENCE, &mut answer).unwrap();
        assert!(take(&done(), SEQUENCE, &mut answer).unwrap());
        assert!(!answer.whole);
    }

    #[test]
    fn the_answer_to_another_question_is_passed_over() {
        let mut answer = answer();
        assert!(!take(&done(), SEQUENCE + 1, &mut answer).unwrap());
        let part = message(about("a"), SEQUENCE - 1, NLM_F_DUMP_INTR);
        take(&part, SEQUENCE, &mut answer).unwrap();
        assert!(answer.messages.is_empty() && answer.whole);
    }

    #[test]
    fn the_kernels_error_is_told() {
        let mut error = ErrorMessage::default();
        error.code = std::num::NonZero::new(-13);
        let part = message(NetlinkPayload::Error(error), SEQUENCE, 0);
        let error = take(&part, SEQUENCE, &mut answer()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_torn_message_is_an_error() {
        let part = message(about("name"), SEQUENCE, 0);
        let error = take(&part[..part.len() - 1], SEQUENCE, &mut answer()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = take(&bytes, SEQUENCE, &mut answer());
        }
    }
}
