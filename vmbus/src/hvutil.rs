//! A channel over a `/dev/vmbus/hv_*` character device. Protocol section 6.
//!
//! The kernel's `hv_utils` holds the VMBus device, negotiates with the host and
//! passes on one message at a time. A program registers by writing a message, and the
//! kernel answers with one.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::channel::{Channel, ChannelError, Sent, io_error, open_device};
use crate::message::{Message, Reply, ReplyLayout, Request};

/// A service's character device. Protocol sections 1 and 6.
#[derive(Debug, Clone, Copy)]
pub struct HvUtil {
    /// Name under `/dev`.
    pub node: &'static str,
    /// The message that registers with the kernel.
    pub registration: &'static [u8],
    /// Bytes of the longest message that the kernel sends.
    pub message_len: usize,
    /// The layout of its replies.
    pub reply: ReplyLayout,
}

/// An open `/dev/vmbus/hv_*` device.
#[derive(Debug)]
pub struct HvUtilChannel {
    device: File,
    message_len: usize,
    reply: ReplyLayout,
    registered: bool,
    /// The device was polled since the last wake-up. The kernel has at most one
    /// message, and each makes the descriptor readable again.
    polled: bool,
    /// The caller's poll has reported a message.
    readable: bool,
}

impl HvUtilChannel {
    /// Opens the device and registers with the kernel.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Io`] if the device cannot be opened or written; its source is
    /// `EBUSY` if another program has the device open.
    pub fn open(path: &Path, hvutil: &HvUtil) -> Result<Self, ChannelError> {
        Self::new(open_device(path)?.into(), hvutil)
    }

    /// Registers with the kernel on a device that is open already.
    ///
    /// # Errors
    ///
    /// [`ChannelError::ReplyRefused`] if the kernel does not take the registration,
    /// [`ChannelError::Gone`] or [`ChannelError::Io`] if the write fails.
    pub fn new(device: OwnedFd, hvutil: &HvUtil) -> Result<Self, ChannelError> {
        let mut channel = Self {
            device: device.into(),
            message_len: hvutil.message_len,
            reply: hvutil.reply,
            registered: false,
            polled: false,
            readable: false,
        };
        channel.write(hvutil.registration)?;
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

    /// Returns whether there is a message, without waiting.
    fn poll(&self) -> Result<bool, ChannelError> {
        let mut polled = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).map_err(|errno| io_error("poll")(errno.into()))?;
        let [polled] = polled;
        let ready = polled.revents().unwrap_or(PollFlags::POLLERR);
        if ready.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            return Err(ChannelError::Gone);
        }
        Ok(ready.contains(PollFlags::POLLIN))
    }
}

impl Channel for HvUtilChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn buffer_len(&self) -> usize {
        self.message_len
    }

    fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, ChannelError> {
        if self.polled {
            return Ok(None);
        }
        self.polled = true;
        // A read of an empty device would block, O_NONBLOCK or not.
        if !mem::take(&mut self.readable) && !self.poll()? {
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
        if self.registered {
            let request = Request::on_device(buffer, len, self.reply);
            return Ok(Some(Message::Request(request)));
        }
        self.registered = true;
        let answer = buffer.get(..len).unwrap_or_default();
        Ok(Some(Message::Registered(answer)))
    }

    fn readable(&mut self) {
        self.readable = true;
    }

    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError> {
        self.write(reply.payload)?;
        Ok(Sent::Done)
    }

    fn arm(&mut self) -> bool {
        self.polled = false;
        false
    }

    fn pending(&mut self) -> Option<bool> {
        None
    }

    fn acknowledge(&mut self) -> Result<(), ChannelError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::ic::Status;

    const HVUTIL: HvUtil = HvUtil {
        node: "vmbus/hv_test",
        registration: &[1, 0, 0, 0],
        message_len: 64,
        reply: ReplyLayout::Status,
    };

    /// A device, and the kernel's end of it.
    fn device() -> (HvUtilChannel, File) {
        let (ours, kernels) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_NONBLOCK,
        )
        .unwrap();
        let channel = HvUtilChannel::new(ours, &HVUTIL).unwrap();
        let mut kernel = File::from(kernels);
        let mut written = [0; 16];
        assert_eq!(kernel.read(&mut written).unwrap(), 4);
        assert_eq!(&written[..4], HVUTIL.registration);
        (channel, kernel)
    }

    /// Receives as after a wake-up.
    fn recv<'a>(channel: &mut HvUtilChannel, buffer: &'a mut [u8]) -> Option<Message<'a>> {
        channel.arm();
        let message = channel.recv(buffer).unwrap();
        let again = channel.recv(&mut []).unwrap();
        assert!(again.is_none(), "one read a wake-up");
        message
    }

    #[test]
    fn the_first_message_answers_the_registration_and_the_rest_are_requests() {
        let (mut channel, mut kernel) = device();
        let mut buffer = [0; 64];
        assert!(recv(&mut channel, &mut buffer).is_none());
        kernel.write_all(&[9, 0, 0, 0]).unwrap();
        assert_eq!(channel.pending(), None, "only the descriptor can tell");
        channel.readable();
        let message = recv(&mut channel, &mut buffer);
        assert!(matches!(message, Some(Message::Registered(&[9, 0, 0, 0]))));
        kernel.write_all(b"request").unwrap();
        let Some(Message::Request(mut request)) = recv(&mut channel, &mut buffer) else {
            panic!("not a request");
        };
        assert_eq!(request.body(), b"request");
        let reply = request.reply(Status::FAIL);
        assert_eq!(channel.send(reply).unwrap(), Sent::Done);
        let mut reply = [0; 16];
        assert_eq!(kernel.read(&mut reply).unwrap(), 4);
        assert_eq!(reply[..4], Status::FAIL.0.to_le_bytes());
    }

    #[test]
    fn a_device_that_went_away_says_so() {
        let (mut channel, kernel) = device();
        drop(kernel);
        assert!(matches!(
            channel.recv(&mut [0; 64]),
            Err(ChannelError::Gone)
        ));
        let reply = Reply {
            transaction: 0,
            payload: b"reply",
        };
        assert!(channel.send(reply).is_err());
    }
}
