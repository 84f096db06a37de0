//! What an open device is to the rest of the agent: a [`Channel`] that takes
//! messages in and sends replies out, whichever transport is beneath.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::message::{Message, Reply};
use crate::ring::RingError;

/// Whether a reply went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It is on its way.
    Done,
    /// The outgoing ring is full. The host has been asked to interrupt when
    /// there is room: wait for the descriptor, for a limited time, and send
    /// again.
    Full {
        /// The host says that it signals when it has made room. A host that does not
        /// say so sends no signal: try again after a pause.
        host_signals_room: bool,
    },
}

/// Why a channel is of no more use. Each means: drop it, and open the device
/// again when it is there.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The host or the kernel took the device away.
    #[error("the device went away")]
    Gone,
    /// The kernel refused a reply, because it came after the kernel's own time
    /// limit or because the guest was suspended meanwhile.
    #[error("the kernel refused the reply: it came too late, or the machine was suspended")]
    ReplyRefused,
    /// What stands in the ring cannot be.
    #[error("the ring is corrupt: {0}")]
    Corrupt(#[from] RingError),
    /// A system call on the device failed.
    #[error("{call} failed: {source}")]
    Io {
        /// What was being done.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// What a failed system call on the device means: a device that the host took
/// away answers everything with `EIO`, and one that the kernel has removed with
/// `ENODEV`, `ENXIO` or `EBADF`.
pub(crate) fn io_error(call: &'static str) -> impl FnOnce(io::Error) -> ChannelError {
    move |source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EIO | Errno::ENODEV | Errno::ENXIO | Errno::EBADF) => ChannelError::Gone,
        _ => ChannelError::Io { call, source },
    }
}

/// An open device that carries a service's messages.
///
/// A channel belongs to one thread. None of its methods waits: where there is
/// nothing to do they say so, and the caller waits for [`Channel::as_fd`] to
/// become readable, edge-triggered. Whatever the caller waits for, the host has
/// been signalled all that it waits for itself.
///
/// The order that loses no message: [`recv`](Channel::recv) until it gives
/// `None`; [`acknowledge`](Channel::acknowledge) if at all, for afterwards it
/// would consume the interrupt that is waited for; [`arm`](Channel::arm); where
/// that gives `true`, again from the start; otherwise wait for the descriptor.
pub trait Channel: Send {
    /// The descriptor that becomes readable when the host sends.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Bytes a buffer must have to hold every message.
    fn buffer_len(&self) -> usize;

    /// Takes the next message into `buffer`, which has at least
    /// [`buffer_len`](Channel::buffer_len) bytes; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Any [`ChannelError`] but [`ChannelError::ReplyRefused`].
    fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, ChannelError>;

    /// Sends a reply.
    ///
    /// # Errors
    ///
    /// Any [`ChannelError`].
    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError>;

    /// Asks for an interrupt at the next message, and looks once more: `true`
    /// where a message is there already, so that waiting would be wrong.
    fn arm(&mut self) -> bool;

    /// Whether a message is there, without asking for an interrupt: for looking
    /// again and again during a short bounded time. Always `false` where only
    /// the descriptor can tell.
    fn pending(&mut self) -> bool;

    /// Consumes what made the descriptor readable, after a wake-up that brought
    /// no message: this is how a device that went away shows itself.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Gone`] or [`ChannelError::Io`].
    fn acknowledge(&mut self) -> Result<(), ChannelError>;
}
