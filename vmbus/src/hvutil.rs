//! A channel over a `/dev/vmbus/hv_*` character device. Protocol section 6.
//!
//! The kernel's `hv_utils` holds the VMBus device, negotiates with the host and
//! passes on one message at a time. The agent registers by writing the
//! service's registration, and the kernel answers with a message of its own.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::channel::{Channel, ChannelError, Message, MessageKind, Sent, Transport, io_error};

/// An open `/dev/vmbus/hv_*` device.
#[derive(Debug)]
pub struct HvUtilChannel {
    device: File,
    message_len: usize,
    registered: bool,
    /// The device was looked at since the last wake-up. The kernel has at most
    /// one message, and each makes the descriptor readable anew.
    looked: bool,
}

impl HvUtilChannel {
    /// Opens the device and registers with the kernel.
    ///
    /// `message_len` is the length in bytes of the longest message.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Io`]; its source is `EBUSY` where another program has the
    /// device.
    pub fn open(
        path: &Path,
        registration: &[u8],
        message_len: usize,
    ) -> Result<Self, ChannelError> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(io_error("open"))?;
        Self::new(device.into(), registration, message_len)
    }

    /// Registers with the kernel on a device that is open already.
    ///
    /// # Errors
    ///
    /// Any [`ChannelError`] that the registration's write gives.
    pub fn new(
        device: OwnedFd,
        registration: &[u8],
        message_len: usize,
    ) -> Result<Self, ChannelError> {
        let mut channel = Self {
            device: device.into(),
            message_len,
            registered: false,
            looked: false,
        };
        channel.write(registration)?;
        Ok(channel)
    }

    fn write(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        self.device.write_all(message).map_err(|error| {
            if error.kind() == ErrorKind::InvalidInput {
                ChannelError::ReplyRefused
            } else {
                io_error("write")(error)
            }
        })
    }

    /// What `poll` says of the device now, without waiting.
    fn poll(&self) -> Result<PollFlags, ChannelError> {
        let mut polled = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).map_err(|errno| io_error("poll")(errno.into()))?;
        let [polled] = polled;
        Ok(polled.revents().unwrap_or(PollFlags::POLLERR))
    }
}

impl Channel for HvUtilChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn transport(&self) -> Transport {
        Transport::HvUtil
    }

    fn buffer_len(&self) -> usize {
        self.message_len
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<Message>, ChannelError> {
        if self.looked {
            return Ok(None);
        }
        self.looked = true;
        // A read of an empty device would block, O_NONBLOCK or not.
        let ready = self.poll()?;
        if ready.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            return Err(ChannelError::Gone);
        }
        if !ready.contains(PollFlags::POLLIN) {
            return Ok(None);
        }
        let len = loop {
            match self.device.read(buffer) {
                Ok(0) => return Err(ChannelError::Gone),
                Ok(len) => break len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(io_error("read")(error)),
            }
        };
        let kind = if self.registered {
            MessageKind::Request
        } else {
            self.registered = true;
            MessageKind::Registered
        };
        Ok(Some(Message {
            start: 0,
            len,
            kind,
            transaction: 0,
        }))
    }

    fn send(&mut self, _transaction: u64, reply: &[u8]) -> Result<Sent, ChannelError> {
        self.write(reply)?;
        Ok(Sent::Done)
    }

    fn arm(&mut self) -> bool {
        self.looked = false;
        false
    }

    fn pending(&mut self) -> bool {
        false
    }

    fn acknowledge(&mut self) -> Result<(), ChannelError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    const REGISTRATION: &[u8] = &[1, 0, 0, 0];

    /// The device as the agent has it, and the kernel's end.
    fn device() -> (HvUtilChannel, File) {
        let (ours, kernels) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_NONBLOCK,
        )
        .unwrap();
        let channel = HvUtilChannel::new(ours, REGISTRATION, 64).unwrap();
        let mut kernel = File::from(kernels);
        let mut written = [0; 16];
        assert_eq!(kernel.read(&mut written).unwrap(), 4);
        assert_eq!(&written[..4], REGISTRATION);
        (channel, kernel)
    }

    fn recv(channel: &mut HvUtilChannel, buffer: &mut [u8]) -> Option<(MessageKind, usize)> {
        channel.arm();
        let message = channel.recv(buffer).unwrap()?;
        assert!(
            channel.recv(buffer).unwrap().is_none(),
            "one look a wake-up"
        );
        Some((message.kind, message.len))
    }

    #[test]
    fn the_first_message_answers_the_registration_and_the_rest_are_requests() {
        let (mut channel, mut kernel) = device();
        let mut buffer = [0; 64];
        assert_eq!(recv(&mut channel, &mut buffer), None);
        kernel.write_all(&[9, 0, 0, 0]).unwrap();
        assert_eq!(
            recv(&mut channel, &mut buffer),
            Some((MessageKind::Registered, 4))
        );
        kernel.write_all(b"request").unwrap();
        assert_eq!(
            recv(&mut channel, &mut buffer),
            Some((MessageKind::Request, 7))
        );
        assert_eq!(&buffer[..7], b"request");
        assert_eq!(channel.send(0, b"reply").unwrap(), Sent::Done);
        let mut reply = [0; 16];
        assert_eq!(kernel.read(&mut reply).unwrap(), 5);
        assert_eq!(&reply[..5], b"reply");
    }

    #[test]
    fn a_device_that_went_away_says_so() {
        let (mut channel, kernel) = device();
        drop(kernel);
        assert!(matches!(
            channel.recv(&mut [0; 64]),
            Err(ChannelError::Gone)
        ));
        assert!(channel.send(0, b"reply").is_err());
    }
}
