//! A `/dev/vmbus/hv_*` device within one process: a pair of sockets that keep
//! messages apart.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hyperv_vmbus::hvutil::{HvUtil, HvUtilChannel};
use hyperv_vmbus::{Channel, ChannelError, Message, Reply, Sent};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};

use crate::port::Pipe;

/// The longest message of any service, and some.
const LONGEST: usize = 16 << 10;

/// How long the guest may leave a message unread.
const READ_TIME: Duration = Duration::from_secs(30);

/// What both ends of a device share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The kernel holds at most one message: this one is not read yet.
    unread: bool,
    refuses: bool,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

/// The guest's channel, watched for what the kernel would know of its reads and
/// do to its writes.
struct Watched {
    channel: HvUtilChannel,
    shared: Arc<Shared>,
}

impl Channel for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    fn buffer_len(&self) -> usize {
        self.channel.buffer_len()
    }

    fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, ChannelError> {
        let message = self.channel.recv(buffer)?;
        if message.is_some() {
            self.shared.change(|state| state.unread = false);
        }
        Ok(message)
    }

    fn readable(&mut self) {
        self.channel.readable();
    }

    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError> {
        if self.shared.state().refuses {
            return Err(ChannelError::ReplyRefused);
        }
        self.channel.send(reply)
    }

    fn arm(&mut self) -> bool {
        self.channel.arm()
    }

    fn pending(&mut self) -> Option<bool> {
        self.channel.pending()
    }

    fn acknowledge(&mut self) -> Result<(), ChannelError> {
        self.channel.acknowledge()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.change(|state| state.closed = true);
    }
}

/// The kernel's end.
#[derive(Debug)]
pub(super) struct KernelEnd {
    socket: OwnedFd,
    shared: Arc<Shared>,
}

impl KernelEnd {
    /// The host takes the device away.
    pub(super) fn rescind(&self) {
        // The other end is closed already: then there is nothing to tell.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Whether the guest has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.state().closed
    }
}

impl Pipe for KernelEnd {
    fn send(&self, message: &[u8]) -> Result<()> {
        let deadline = Instant::now() + READ_TIME;
        let mut state = self.shared.state();
        while state.unread && !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "the guest left a message unread for {READ_TIME:?}"
            );
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        ensure!(
            !state.closed,
            "the guest closed the device where it was to read a message"
        );
        state.unread = true;
        drop(state);
        send(self.socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    fn recv(&self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Up to the next millisecond, so that it does not spin at the end.
            let wait = u32::try_from(left.as_millis())?.saturating_add(1);
            let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::try_from(wait)?) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let mut message = vec![0; LONGEST];
            let len = recv(self.socket.as_raw_fd(), &mut message, MsgFlags::empty())?;
            if len == 0 {
                bail!("the guest closed the device where it was to write");
            }
            message.truncate(len);
            return Ok(Some(message));
        }
    }

    fn refuse_writes(&self) {
        self.shared.change(|state| state.refuses = true);
    }

    fn hold_writes(&self) -> Result<()> {
        bail!("a write to a socket does not wait")
    }

    fn wait_for_held(&self, _timeout: Duration) -> Result<()> {
        bail!("a write to a socket does not wait")
    }
}

/// The two ends of a newly opened device.
pub(super) fn open(service: &HvUtil) -> Result<(Box<dyn Channel>, KernelEnd), ChannelError> {
    let (guest, kernel) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|errno| ChannelError::Io {
        call: "socketpair",
        source: io::Error::from(errno),
    })?;
    let shared = Arc::new(Shared::default());
    let channel = Watched {
        channel: HvUtilChannel::new(guest, service)?,
        shared: Arc::clone(&shared),
    };
    let kernel = KernelEnd {
        socket: kernel,
        shared,
    };
    Ok((Box::new(channel), kernel))
}
