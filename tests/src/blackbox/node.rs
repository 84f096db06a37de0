//! What a device file of ours does when the guest uses it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fuser::{BackingId, Errno, PollEvents, PollNotifier, ReplyData, ReplyOpen, ReplyWrite};

use crate::port::Port;

/// A device file, seen from both sides. No method but [`accept`](Node::accept)
/// waits.
pub(super) trait Node: Send + Sync {
    /// The guest opens the file; what comes back is what its mappings map, if
    /// it can be mapped.
    fn open(
        self: Arc<Self>,
        handle: u64,
        reply: &ReplyOpen,
    ) -> Result<Option<Arc<BackingId>>, Errno>;

    /// The guest has closed it.
    fn release(&self, handle: u64);

    /// The guest reads. The reply may be kept until there is something to read.
    fn read(&self, handle: u64, size: u32, nonblocking: bool, reply: ReplyData);

    /// The guest writes all of `data` or fails. The reply may be kept until it is
    /// known which.
    fn write(&self, data: &[u8], reply: ReplyWrite);

    /// Returns the events for the guest, and keeps `notifier` for when they change.
    fn poll(&self, handle: u64, notifier: PollNotifier) -> PollEvents;

    /// Ends each read that waits, as a signal does.
    fn interrupt_reads(&self);

    /// Waits for the guest to open the device.
    fn accept(&self, timeout: Duration) -> Result<Port>;

    /// The host takes the device away.
    fn rescind(&self);
}

/// Wakes who waits in `poll` or `epoll`: each call is a new edge.
pub(super) fn wake(notifiers: Vec<PollNotifier>) {
    for notifier in notifiers {
        // Whom nobody waits with needs no waking.
        let _ = notifier.notify();
    }
}

/// Tells the guest how its write of `data` went.
pub(super) fn reply_to_write(written: Result<(), Errno>, data: &[u8], reply: ReplyWrite) {
    match (written, u32::try_from(data.len())) {
        (Ok(()), Ok(len)) => reply.written(len),
        (Ok(()), Err(_)) => reply.error(Errno::EINVAL),
        (Err(errno), _) => reply.error(errno),
    }
}
