//! The messages between the agent and its guard: records of nine bytes. Some of those to
//! the guard carry descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How many descriptors one record carries; the kernel allows a few more.
pub(super) const MAX_DESCRIPTORS: usize = 200;

/// A command of the agent to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuardCommand {
    /// Forget all file systems; those that follow may be frozen for so many milliseconds.
    Begin(u64),
    /// This record carries the descriptors of so many file systems, in freeze order.
    Hold(u64),
    /// The first of these is frozen before the second and thawed after it, by their indices.
    Order(u32, u32),
    /// These were all: prepare to freeze.
    Prepare,
    /// Freeze them.
    Freeze,
    /// Thaw them, and report the result of each. Without a command to freeze, all of them are
    /// assumed to be frozen.
    Thaw,
}

impl GuardCommand {
    const LEN: usize = 9;

    fn encode(self) -> [u8; Self::LEN] {
        let (kind, value) = match self {
            Self::Begin(milliseconds) => (0, milliseconds),
            Self::Hold(count) => (1, count),
            Self::Order(first, then) => (5, u64::from(first) | u64::from(then) << 32),
            Self::Prepare => (2, 0),
            Self::Freeze => (3, 0),
            Self::Thaw => (4, 0),
        };
        let mut record = [kind; Self::LEN];
        if let Some(field) = record.last_chunk_mut() {
            *field = u64::to_le_bytes(value);
        }
        record
    }

    fn decode(record: [u8; Self::LEN]) -> Option<Self> {
        let [kind, value @ ..] = record;
        let [f0, f1, f2, f3, t0, t1, t2, t3] = value;
        let value = u64::from_le_bytes(value);
        match kind {
            0 => Some(Self::Begin(value)),
            1 => Some(Self::Hold(value)),
            2 => Some(Self::Prepare),
            3 => Some(Self::Freeze),
            4 => Some(Self::Thaw),
            5 => Some(Self::Order(
                u32::from_le_bytes([f0, f1, f2, f3]),
                u32::from_le_bytes([t0, t1, t2, t3]),
            )),
            _ => None,
        }
    }

    /// Sends the command with at most [`MAX_DESCRIPTORS`] descriptors.
    pub(super) fn send(
        self,
        socket: &UnixStream,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
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

    /// Receives a command with its descriptors; `None` if the agent is gone.
    pub(super) fn recv(
        socket: &UnixStream,
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<Option<Self>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut record = [0; Self::LEN];
        let received = rustix::io::retry_on_intr(|| {
            let mut data = [IoSliceMut::new(&mut record)];
            recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            // The agent ended before it had read all reports.
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

/// A report of the guard to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum GuardReport {
    /// The guard is ready to freeze. Whether its memory is locked, so that it waits for no
    /// disk.
    Ready(Result<(), Errno>),
    /// `rcu_expedited` is about to be set.
    RcuExpedited,
    /// `rcu_expedited` was reset.
    RcuNormal,
    /// Freezing the file system with this index takes long.
    Waiting(usize),
    /// It cannot be frozen. `ESHUTDOWN` stands for any error of a file system that was shut
    /// down.
    Refused(usize, Errno),
    /// All are frozen, or all before one that cannot be.
    Frozen,
    /// The time limit was reached, and all are being thawed. The file system with this index
    /// has been waited for the longest, if freezing any takes long.
    TimeLimit(Option<usize>),
    /// It was thawed, or cannot be.
    Thawed(usize, Result<(), Errno>),
    /// The guard did not freeze it, and did not thaw it.
    Skipped(usize),
}

impl GuardReport {
    /// The length of a record.
    pub(super) const LEN: usize = 9;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let number = |errno: Errno| errno.raw_os_error().unsigned_abs();
        let said = |said: Result<(), Errno>| said.err().map_or(0, number);
        let (kind, index, value) = match self {
            Self::Ready(locked) => (0, 0, said(locked)),
            GuardReport::RcuExpedited => (1, 0, 0),
            GuardReport::RcuNormal => (2, 0, 0),
            Self::Waiting(index) => (3, index, 0),
            Self::Refused(index, errno) => (4, index, number(errno)),
            Self::Frozen => (5, 0, 0),
            Self::TimeLimit(waits) => (6, waits.unwrap_or(usize::MAX), 0),
            Self::Thawed(index, outcome) => (7, index, said(outcome)),
            Self::Skipped(index) => (8, index, 0),
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
            (1, _) => GuardReport::RcuExpedited,
            (2, _) => GuardReport::RcuNormal,
            (3, _) => Self::Waiting(index),
            (4, Err(errno)) => Self::Refused(index, errno),
            (5, _) => Self::Frozen,
            (6, _) => Self::TimeLimit(Some(index).filter(|_| [i0, i1, i2, i3] != [u8::MAX; 4])),
            (7, said) => Self::Thawed(index, said),
            (8, _) => Self::Skipped(index),
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
    fn commands_and_their_descriptors_arrive_in_order() {
        let (agent, guard) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/stat").unwrap();
        let many = vec![file.as_fd(); MAX_DESCRIPTORS];
        let commands = [
            (GuardCommand::Begin(600_000), &many[..0]),
            (GuardCommand::Hold(MAX_DESCRIPTORS as u64), &many[..]),
            (GuardCommand::Hold(1), &many[..1]),
            (GuardCommand::Order(7, u32::MAX), &many[..0]),
            (GuardCommand::Prepare, &many[..0]),
            (GuardCommand::Freeze, &many[..0]),
            (GuardCommand::Thaw, &many[..0]),
        ];
        for (command, descriptors) in commands {
            command.send(&agent, descriptors).unwrap();
        }
        for (command, sent) in commands {
            let mut descriptors = Vec::new();
            let received = GuardCommand::recv(&guard, &mut descriptors).unwrap();
            assert_eq!(received, Some(command));
            assert_eq!(descriptors.len(), sent.len());
        }
        (&agent).write_all(&[2, 0, 0]).unwrap();
        drop(agent);
        assert_eq!(GuardCommand::recv(&guard, &mut Vec::new()).unwrap(), None);
    }

    #[test]
    fn an_unknown_command_is_an_error() {
        let (agent, guard) = UnixStream::pair().unwrap();
        (&agent).write_all(&[9; GuardCommand::LEN]).unwrap();
        let error = GuardCommand::recv(&guard, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn reports_survive_encoding() {
        let reports = [
            GuardReport::Ready(Ok(())),
            GuardReport::Ready(Err(Errno::PERM)),
            GuardReport::RcuExpedited,
            GuardReport::RcuNormal,
            GuardReport::Waiting(7),
            GuardReport::Refused(0xffff_ffff, Errno::ROFS),
            GuardReport::Frozen,
            GuardReport::TimeLimit(None),
            GuardReport::TimeLimit(Some(3)),
            GuardReport::Thawed(1 << 16, Ok(())),
            GuardReport::Thawed(3, Err(Errno::INVAL)),
            GuardReport::Skipped(2),
        ];
        for report in reports {
            assert_eq!(GuardReport::decode(report.encode()).unwrap(), report);
        }
        for wrong in [
            [9; GuardReport::LEN],
            [4, 0, 0, 0, 0, 0, 0, 0, 0],
            [7; GuardReport::LEN],
        ] {
            assert!(GuardReport::decode(wrong).is_err(), "{wrong:?}");
        }
    }
}
