//! `/dev/vmbus/hv_*` as `hv_utils` serves it. Protocol section 6.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fuser::{BackingId, Errno, PollEvents, PollNotifier, ReplyData, ReplyOpen, ReplyWrite};

use super::node::{Node, reply_to_write, wake};
use super::{lock, wait_until};
use crate::port::{Pipe, Port};

/// How long the guest may leave a message unread.
const READ: Duration = Duration::from_secs(30);

/// A character device that is offered to the guest.
pub(super) struct HvUtilNode {
    state: Mutex<State>,
    changed: Condvar,
    /// Itself, for the host's ends that it makes.
    node: Weak<Self>,
}

#[derive(Default)]
struct State {
    rescinded: bool,
    open: Option<OpenFile>,
    /// The host has not looked at this open yet.
    unaccepted: bool,
}

/// The guest's descriptor: there is one at most.
struct OpenFile {
    handle: u64,
    /// For the guest.
    messages: VecDeque<Vec<u8>>,
    replies: Arc<Mailbox>,
    writes: Writes,
    /// Reads that wait, with the size of their buffers.
    readers: VecDeque<(u32, ReplyData)>,
    notifier: Option<PollNotifier>,
}

/// What becomes of what the guest writes.
enum Writes {
    /// The host gets it.
    Arrive,
    /// It waits.
    Wait(Vec<ReplyWrite>),
    /// It fails, as a reply does that comes too late.
    Fail,
}

/// What the guest has written while it had the device open; the host may read
/// it later than that.
#[derive(Default)]
struct Mailbox {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    replies: VecDeque<Vec<u8>>,
    closed: bool,
}

impl Mailbox {
    fn close(&self) {
        lock(&self.content).closed = true;
        self.changed.notify_all();
    }
}

impl OpenFile {
    /// Ends writes that wait, and lets those that come fail.
    fn fail_writes(&mut self, errno: Errno) {
        let writes = std::mem::replace(&mut self.writes, Writes::Fail);
        if let Writes::Wait(waiting) = writes {
            for reply in waiting {
                reply.error(errno);
            }
        }
    }

    /// Answers reads that wait, as far as there are messages.
    fn deliver(&mut self) {
        while let Some(message) = self.messages.pop_front() {
            let Some((size, reader)) = self.readers.pop_front() else {
                self.messages.push_front(message);
                return;
            };
            if message.len() > size as usize {
                self.messages.push_front(message);
                reader.error(Errno::EINVAL);
            } else {
                reader.data(&message);
            }
        }
    }
}

impl HvUtilNode {
    pub(super) fn new() -> Arc<Self> {
        Arc::new_cyclic(|node| Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            node: node.clone(),
        })
    }
}

impl Node for HvUtilNode {
    fn open(
        self: Arc<Self>,
        handle: u64,
        _reply: &ReplyOpen,
    ) -> Result<Option<Arc<BackingId>>, Errno> {
        let mut state = lock(&self.state);
        if state.rescinded {
            return Err(Errno::ENODEV);
        }
        if state.open.is_some() {
            return Err(Errno::EBUSY);
        }
        state.open = Some(OpenFile {
            handle,
            messages: VecDeque::new(),
            replies: Arc::default(),
            writes: Writes::Arrive,
            readers: VecDeque::new(),
            notifier: None,
        });
        state.unaccepted = true;
        self.changed.notify_all();
        Ok(None)
    }

    fn release(&self, _handle: u64) {
        let mut state = lock(&self.state);
        state.unaccepted = false;
        if let Some(open) = state.open.take() {
            open.replies.close();
        }
        self.changed.notify_all();
    }

    // It waits with `O_NONBLOCK` too: this is what the driver does.
    fn read(&self, _handle: u64, size: u32, _nonblocking: bool, reply: ReplyData) {
        let mut state = lock(&self.state);
        let rescinded = state.rescinded;
        match &mut state.open {
            Some(open) if !rescinded => {
                open.readers.push_back((size, reply));
                open.deliver();
                self.changed.notify_all();
            }
            _ => reply.error(Errno::EBADF),
        }
    }

    fn write(&self, data: &[u8], reply: ReplyWrite) {
        let mut state = lock(&self.state);
        let rescinded = state.rescinded;
        let Some(open) = state.open.as_mut().filter(|_| !rescinded) else {
            return reply.error(Errno::EBADF);
        };
        match &mut open.writes {
            Writes::Arrive => {
                let mailbox = &open.replies;
                lock(&mailbox.content).replies.push_back(data.to_vec());
                mailbox.changed.notify_all();
                reply_to_write(Ok(()), data, reply);
            }
            Writes::Wait(waiting) => {
                waiting.push(reply);
                self.changed.notify_all();
            }
            Writes::Fail => reply.error(Errno::EINVAL),
        }
    }

    fn poll(&self, _handle: u64, notifier: PollNotifier) -> PollEvents {
        let mut state = lock(&self.state);
        let rescinded = state.rescinded;
        let Some(open) = &mut state.open else {
            return PollEvents::POLLNVAL;
        };
        open.notifier = Some(notifier);
        if rescinded {
            PollEvents::POLLERR | PollEvents::POLLHUP
        } else if open.messages.is_empty() {
            PollEvents::empty()
        } else {
            PollEvents::POLLIN | PollEvents::POLLRDNORM
        }
    }

    fn interrupt_reads(&self) {
        if let Some(open) = &mut lock(&self.state).open {
            for (_, reader) in open.readers.drain(..) {
                reader.error(Errno::EINTR);
            }
        }
    }

    fn accept(&self, timeout: Duration) -> Result<Port> {
        let state = lock(&self.state);
        let mut state = wait_until(&self.changed, state, timeout, |state| {
            state.rescinded || state.unaccepted
        });
        if state.rescinded {
            bail!("the device has been taken away");
        }
        let open = state.open.as_ref().filter(|_| state.unaccepted);
        let open = open.with_context(|| format!("nobody has opened the device in {timeout:?}"))?;
        let pipe = HvUtilPipe {
            node: self.node.upgrade().context("the device is gone")?,
            handle: open.handle,
            replies: Arc::clone(&open.replies),
        };
        state.unaccepted = false;
        Ok(Port::HvUtil(Arc::new(pipe)))
    }

    fn rescind(&self) {
        let mut state = lock(&self.state);
        state.rescinded = true;
        let mut waiting = Vec::new();
        if let Some(open) = &mut state.open {
            for (_, reader) in open.readers.drain(..) {
                reader.error(Errno::EBADF);
            }
            open.fail_writes(Errno::EBADF);
            waiting.extend(open.notifier.clone());
            open.replies.close();
        }
        drop(state);
        self.changed.notify_all();
        wake(waiting);
    }
}

/// The kernel's end of one open.
struct HvUtilPipe {
    node: Arc<HvUtilNode>,
    handle: u64,
    replies: Arc<Mailbox>,
}

impl HvUtilPipe {
    fn open<'a>(&self, state: &'a mut State) -> Result<&'a mut OpenFile> {
        if state.rescinded {
            bail!("the device has been taken away");
        }
        state
            .open
            .as_mut()
            .filter(|open| open.handle == self.handle)
            .context("the guest has closed the device")
    }
}

impl Pipe for HvUtilPipe {
    fn send(&self, message: &[u8]) -> Result<()> {
        // The driver holds one message at a time: with two, a program that reads
        // once for each wake-up would leave one behind.
        let state = lock(&self.node.state);
        let mut state = wait_until(&self.node.changed, state, READ, |state| {
            let unread = state
                .open
                .as_ref()
                .filter(|open| open.handle == self.handle);
            state.rescinded || unread.is_none_or(|open| open.messages.is_empty())
        });
        let open = self.open(&mut state)?;
        if !open.messages.is_empty() {
            bail!("the guest left a message unread for {READ:?}");
        }
        open.messages.push_back(message.to_vec());
        open.deliver();
        let waiting = open.notifier.clone();
        drop(state);
        wake(waiting.into_iter().collect());
        Ok(())
    }

    fn recv(&self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let content = lock(&self.replies.content);
        let mut content = wait_until(&self.replies.changed, content, timeout, |content| {
            content.closed || !content.replies.is_empty()
        });
        let reply = content.replies.pop_front();
        if reply.is_none() && content.closed {
            bail!("the device is closed");
        }
        Ok(reply)
    }

    fn refuse_writes(&self) {
        if let Ok(open) = self.open(&mut lock(&self.node.state)) {
            open.fail_writes(Errno::EINVAL);
        }
    }

    fn hold_writes(&self) -> Result<()> {
        self.open(&mut lock(&self.node.state))?.writes = Writes::Wait(Vec::new());
        Ok(())
    }

    fn wait_for_held(&self, timeout: Duration) -> Result<()> {
        let state = lock(&self.node.state);
        let held = |state: &mut State| match &state.open {
            Some(open) => matches!(&open.writes, Writes::Wait(held) if !held.is_empty()),
            None => false,
        };
        let mut state = wait_until(&self.node.changed, state, timeout, held);
        ensure!(
            held(&mut state),
            "the guest has written nothing in {timeout:?}"
        );
        Ok(())
    }
}
