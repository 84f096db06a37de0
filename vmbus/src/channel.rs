//! [`Channel`], the interface of both transports, and its errors.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use crate::message::{Message, Reply};
use crate::ring::RingError;

/// The outcome of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The reply is in the ring, or the kernel has it.
    Done,
    /// The outgoing ring is full, and asks the host to signal when there is room: wait
    /// for the descriptor, for a limited time, and send again.
    Full {
        /// The host says that it signals when it has made room. A host that does not
        /// say so sends no signal: try again after a pause.
        host_signals_room: bool,
    },
}

/// Why a channel is unusable. After any of these, drop the channel, and open the
/// device again when it exists.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The host or the kernel took the device away.
    #[error("the device went away")]
    Gone,
    /// The kernel refused a reply, because it came after the kernel's own time
    /// limit or because the guest was suspended meanwhile.
    #[error("the kernel refused the reply: it came too late, or the machine was suspended")]
    ReplyRefused,
    /// An index or a packet in the ring is invalid.
    #[error("the ring is corrupt: {0}")]
    Corrupt(#[from] RingError),
    /// A system call on the device failed.
    #[error("{call} failed: {source}")]
    Io {
        /// The call, or its purpose.
        call: &'static str,
        /// The error of the call.
        source: io::Error,
    },
}

/// Returns a function that converts the error of `call`. Every call on a device that
/// the host took away fails with `EIO`; on one that the kernel has removed it fails with
/// `ENODEV`, `ENXIO` or `EBADF`.
pub(crate) fn io_error(call: &'static str) -> impl FnOnce(io::Error) -> ChannelError {
    move |source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EIO | Errno::ENODEV | Errno::ENXIO | Errno::EBADF) => ChannelError::Gone,
        _ => ChannelError::Io { call, source },
    }
}

/// Opens a device without blocking later calls.
pub(crate) fn open_device(path: &Path) -> Result<File, ChannelError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    let file = options.custom_flags(libc::O_NONBLOCK).open(path);
    file.map_err(io_error("open"))
}

/// An open device that carries the messages of an integration service.
///
/// A channel belongs to one thread. None of its methods blocks: the caller waits until
/// [`Channel::as_fd`] becomes readable, edge-triggered. Before a method returns it has
/// sent every signal that the host waits for, so the caller may then wait for anything.
///
/// To lose no message:
///
/// 1. Call [`recv`](Channel::recv) until it returns `None`.
/// 2. After a wake-up that brought no message, call
///    [`acknowledge`](Channel::acknowledge). Later it would consume the interrupt of the
///    next message.
/// 3. Call [`arm`](Channel::arm). If it returns `true`, start again.
/// 4. Wait for the descriptor.
pub trait Channel: Send {
    /// Returns the descriptor that becomes readable when the host sends.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Returns the length in bytes of a buffer that holds every message.
    fn buffer_len(&self) -> usize;

    /// Receives the next message into `buffer`, which has at least
    /// [`buffer_len`](Channel::buffer_len) bytes. Returns `None` if there is none.
    ///
    /// # Errors
    ///
    /// Any [`ChannelError`] except [`ChannelError::ReplyRefused`].
    fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, ChannelError>;

    /// Says that a poll has just reported the descriptor as readable, so that the next
    /// [`recv`](Channel::recv) need not ask again. Nothing else may read from it.
    fn readable(&mut self);

    /// Sends a reply.
    ///
    /// # Errors
    ///
    /// Any [`ChannelError`].
    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError>;

    /// Requests an interrupt at the next message. Returns `true` if a message has arrived
    /// already, in which case no interrupt may follow.
    fn arm(&mut self) -> bool;

    /// Returns whether a message has arrived, without a system call and without requesting
    /// an interrupt: for busy polling. Returns `None` on a character device, where only the
    /// descriptor can tell.
    fn pending(&mut self) -> Option<bool>;

    /// Consumes the interrupts so far. This detects a device that went away, whose rings
    /// stay mapped.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Gone`] if the device went away, [`ChannelError::Io`] if the call
    /// failed otherwise.
    fn acknowledge(&mut self) -> Result<(), ChannelError>;
}
