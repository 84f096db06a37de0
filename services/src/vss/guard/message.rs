//! What the agent and its guard tell each other: records of nine bytes, some
//! with descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that go with one record; the kernel takes a few more.
pub(super) const MOST_AT_ONCE: usize = 200;

/// What the agent tells the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Forget what you hold; what follows is to be thawed when so many
    /// milliseconds have passed.
    Begin(u64),
    /// With this record come so many descriptors of file systems, in the order
    /// in which they are going to be frozen.
    Hold(u64),
    /// That was all: they are about to be frozen.
    Go,
    /// The file system of that index was frozen by somebody else.
    NotOurs(u64),
    /// The kernel is about to be told to hurry, and will have to be told that it
    /// need not.
    Hurried,
    /// It was told, and everything is frozen.
    Done,
    /// All are thawed: forget them.
    Release,
}

impl Order {
    const LEN: usize = 9;

    fn encode(self) -> [u8; Self::LEN] {
        let (kind, value) = match self {
            Self::Begin(milliseconds) => (0, milliseconds),
            Self::Hold(count) => (1, count),
            Self::Go => (2, 0),
            Self::NotOurs(index) => (3, index),
            Self::Hurried => (4, 0),
            Self::Done => (5, 0),
            Self::Release => (6, 0),
        };
        let mut record = [kind; Self::LEN];
        if let Some(field) = record.last_chunk_mut() {
            *field = u64::to_le_bytes(value);
        }
        record
    }

    fn decode(record: [u8; Self::LEN]) -> Option<Self> {
        let [kind, value @ ..] = record;
        let value = u64::from_le_bytes(value);
        match kind {
            0 => Some(Self::Begin(value)),
            1 => Some(Self::Hold(value)),
            2 => Some(Self::Go),
            3 => Some(Self::NotOurs(value)),
            4 => Some(Self::Hurried),
            5 => Some(Self::Done),
            6 => Some(Self::Release),
            _ => None,
        }
    }

    /// Sends it, with `descriptors` of which there are at most
    /// [`MOST_AT_ONCE`].
    pub(super) fn send(
        self,
        socket: &UnixStream,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        let record = self.encode();
        let sent = rustix::io::retry_on_intr(|| {
            let data = [IoSlice::new(&record)];
            sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL)
        })?;
        // The descriptors went with the first byte.
        (&*socket).write_all(record.get(sent..).unwrap_or_default())
    }

    /// Receives one, with its descriptors; `None` where the agent is gone.
    pub(super) fn recv(
        socket: &UnixStream,
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<Option<Self>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut record = [0; Self::LEN];
        let received = rustix::io::retry_on_intr(|| {
            let mut data = [IoSliceMut::new(&mut record)];
            recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let rest = record.get_mut(received.bytes..).unwrap_or_default();
        match (&*socket).read_exact(rest) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Self::decode(record)
                .map(Some)
                .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        }
    }
}

/// What the guard tells the agent: a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Report {
    /// It has every descriptor, and the time runs.
    Ready = 1,
    /// The time was over, and it has thawed.
    TimeLimit = 2,
}

impl TryFrom<u8> for Report {
    type Error = io::Error;

    fn try_from(byte: u8) -> io::Result<Self> {
        match byte {
            1 => Ok(Self::Ready),
            2 => Ok(Self::TimeLimit),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn orders_and_their_descriptors_arrive_in_order() {
        let (agent, guard) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/stat").unwrap();
        let many = vec![file.as_fd(); MOST_AT_ONCE];
        let orders = [
            (Order::Begin(600_000), &many[..0]),
            (Order::Hold(MOST_AT_ONCE as u64), &many[..]),
            (Order::Hold(1), &many[..1]),
            (Order::Go, &many[..0]),
            (Order::NotOurs(u64::MAX), &many[..0]),
            (Order::Hurried, &many[..0]),
            (Order::Done, &many[..0]),
            (Order::Release, &many[..0]),
        ];
        for (order, descriptors) in orders {
            order.send(&agent, descriptors).unwrap();
        }
        for (order, sent) in orders {
            let mut descriptors = Vec::new();
            let received = Order::recv(&guard, &mut descriptors).unwrap();
            assert_eq!(received, Some(order));
            assert_eq!(descriptors.len(), sent.len());
        }
        (&agent).write_all(&[2, 0, 0]).unwrap();
        drop(agent);
        assert_eq!(Order::recv(&guard, &mut Vec::new()).unwrap(), None);
    }

    #[test]
    fn an_unknown_order_is_an_error() {
        let (agent, guard) = UnixStream::pair().unwrap();
        (&agent).write_all(&[9; Order::LEN]).unwrap();
        let error = Order::recv(&guard, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
