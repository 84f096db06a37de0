//! What the agent and its guard tell each other: records of nine bytes, those to
//! the guard some with descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that go with one record; the kernel takes a few more.
pub(super) const MOST_AT_ONCE: usize = 200;

/// What the agent tells the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Forget what you hold; what follows may be frozen for so many milliseconds.
    Begin(u64),
    /// With this record come so many descriptors of file systems, in the order
    /// in which they are going to be frozen.
    Hold(u64),
    /// That was all: make ready.
    Go,
    /// Freeze them.
    Freeze,
    /// Thaw them, and say of each how that went; where there was no order to freeze,
    /// all of them are taken for frozen.
    Thaw,
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
            Self::Freeze => (3, 0),
            Self::Thaw => (4, 0),
            Self::Release => (5, 0),
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
            3 => Some(Self::Freeze),
            4 => Some(Self::Thaw),
            5 => Some(Self::Release),
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
        });
        let received = match received {
            // It went before it had read all reports.
            Err(Errno::CONNRESET) => return Ok(None),
            received => received?,
        };
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

/// What the guard tells the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Report {
    /// It has every descriptor, and all that it needs. Whether its memory is locked,
    /// so that it waits for no disk.
    Ready(Result<(), Errno>),
    /// The kernel is about to be told to hurry.
    Hurries,
    /// And that it need not any more.
    Calm,
    /// The file system of this index takes its time to freeze.
    Waits(usize),
    /// It could not be frozen. `ESHUTDOWN` stands for any error of a file system
    /// that was shut down.
    Refused(usize, Errno),
    /// All is frozen, or as much as was before one that could not be.
    Frozen,
    /// The time was over, and all is being thawed.
    TimeLimit,
    /// This one was thawed, or could not be.
    Thawed(usize, Result<(), Errno>),
    /// This one was not frozen by the guard, and was not thawed.
    Spared(usize),
}

impl Report {
    /// Bytes of a record.
    pub(super) const LEN: usize = 9;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let number = |errno: Errno| errno.raw_os_error().unsigned_abs();
        let said = |said: Result<(), Errno>| said.err().map_or(0, number);
        let (kind, index, value) = match self {
            Self::Ready(locked) => (0, 0, said(locked)),
            Self::Hurries => (1, 0, 0),
            Self::Calm => (2, 0, 0),
            Self::Waits(index) => (3, index, 0),
            Self::Refused(index, errno) => (4, index, number(errno)),
            Self::Frozen => (5, 0, 0),
            Self::TimeLimit => (6, 0, 0),
            Self::Thawed(index, outcome) => (7, index, said(outcome)),
            Self::Spared(index) => (8, index, 0),
        };
        let [i0, i1, i2, i3] = u32::try_from(index).unwrap_or(u32::MAX).to_le_bytes();
        let [v0, v1, v2, v3] = u32::to_le_bytes(value);
        [kind, i0, i1, i2, i3, v0, v1, v2, v3]
    }

    pub(super) fn decode(record: [u8; Self::LEN]) -> io::Result<Self> {
        let [kind, i0, i1, i2, i3, v0, v1, v2, v3] = record;
        let index = u32::from_le_bytes([i0, i1, i2, i3]);
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let said = match i32::from_le_bytes([v0, v1, v2, v3]) {
            0 => Ok(()),
            number @ 1..4096 => Err(Errno::from_raw_os_error(number)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(match (kind, said) {
            (0, locked) => Self::Ready(locked),
            (1, _) => Self::Hurries,
            (2, _) => Self::Calm,
            (3, _) => Self::Waits(index),
            (4, Err(errno)) => Self::Refused(index, errno),
            (5, _) => Self::Frozen,
            (6, _) => Self::TimeLimit,
            (7, said) => Self::Thawed(index, said),
            (8, _) => Self::Spared(index),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

#[cfg(test)]
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
            (Order::Freeze, &many[..0]),
            (Order::Thaw, &many[..0]),
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

    #[test]
    fn reports_are_what_they_were() {
        let reports = [
            Report::Ready(Ok(())),
            Report::Ready(Err(Errno::PERM)),
            Report::Hurries,
            Report::Calm,
            Report::Waits(7),
            Report::Refused(0xffff_ffff, Errno::ROFS),
            Report::Frozen,
            Report::TimeLimit,
            Report::Thawed(1 << 16, Ok(())),
            Report::Thawed(3, Err(Errno::INVAL)),
            Report::Spared(2),
        ];
        for report in reports {
            assert_eq!(Report::decode(report.encode()).unwrap(), report);
        }
        for wrong in [
            [9; Report::LEN],
            [4, 0, 0, 0, 0, 0, 0, 0, 0],
            [7; Report::LEN],
        ] {
            assert!(Report::decode(wrong).is_err(), "{wrong:?}");
        }
    }
}
