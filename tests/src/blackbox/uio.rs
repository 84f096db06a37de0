//! `/dev/uioN` as `uio_hv_generic` serves it. Protocol section 2.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fuser::{BackingId, Errno, PollEvents, PollNotifier, ReplyData, ReplyOpen, ReplyWrite};
use hyperv_vmbus::mapping::{MappedRing, MappedRings};
use hyperv_vmbus::ring::{FEATURE_PENDING_SEND_SIZE, RingMemory, Word};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::node::{Node, reply_to_write, wake};
use super::{lock, wait_until};
use crate::port::{Bell, Event, Port, UioPort};

/// A UIO device that is offered to the guest.
pub(super) struct UioNode {
    ring_len: usize,
    page_size: usize,
    /// The driver masks the interrupt itself when one comes, as older kernels'
    /// does.
    masks: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rescinded: bool,
    /// Interrupts since the device is there.
    interrupts: u32,
    files: BTreeMap<u64, OpenFile>,
    channel: Option<OpenChannel>,
    /// The host's end of an open that it has not looked at yet.
    waiting: Option<UioPort>,
    /// Shows in sysfs whether the channel is open.
    shown_in: Option<File>,
}

/// One of the guest's descriptors.
struct OpenFile {
    /// The interrupt count that it has read last.
    seen: u32,
    readers: Vec<ReplyData>,
    notifier: Option<PollNotifier>,
}

/// The channel, from the first open to the last close.
struct OpenChannel {
    incoming: MappedRing,
    backing: Arc<BackingId>,
    line: Arc<Line>,
}

/// What host and guest exchanged while a channel was open.
#[derive(Default)]
struct Line {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    signals: u64,
    interrupts: u64,
    closed: bool,
}

impl UioNode {
    pub(super) fn new(ring_len: usize, page_size: usize, masks: bool) -> Self {
        Self {
            ring_len,
            page_size,
            masks,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Shows whether the channel is open in this file of sysfs, now and at each change.
    pub(super) fn show_state_in(&self, file: File) {
        let mut state = lock(&self.state);
        state.shown_in = Some(file);
        state.show();
    }

    /// Fresh rings in a file that both sides map.
    fn rings(&self) -> Result<(File, MappedRings)> {
        let memory: File = memfd_create("rings", MFdFlags::MFD_CLOEXEC)
            .context("memory for the rings")?
            .into();
        memory
            .set_len(2 * self.ring_len as u64)
            .context("memory for the rings")?;
        let rings = MappedRings::map(&memory, self.ring_len, self.page_size)
            .context("mapping the rings")?;
        for ring in [&rings.outgoing, &rings.incoming] {
            ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
        }
        if self.masks {
            rings.incoming.store(Word::InterruptMask, 1);
        }
        Ok((memory, rings))
    }

    /// Opens the channel: fresh rings, and an end for the host.
    fn connect(self: &Arc<Self>, reply: &ReplyOpen) -> Result<(OpenChannel, UioPort)> {
        let (memory, rings) = self.rings()?;
        let backing = reply.open_backing(&memory).context("sharing the rings")?;
        let line = Arc::new(Line::default());
        let channel = OpenChannel {
            incoming: rings.incoming.clone(),
            backing: Arc::new(backing),
            line: Arc::clone(&line),
        };
        let bell = Arc::new(UioBell {
            node: Arc::clone(self),
            line,
            reported: AtomicU64::new(0),
        });
        let rings = rings.into();
        Ok((channel, UioPort { rings, bell }))
    }
}

impl State {
    /// As the kernel numbers it: the host offers the channel, or it is open. The file is
    /// closed once that stays as it is.
    fn show(&mut self) {
        let number = if self.channel.is_some() { "3\n" } else { "2\n" };
        if let Some(file) = &self.shown_in {
            if let Err(error) = file.write_all_at(number.as_bytes(), 0) {
                eprintln!("the guest's sysfs does not show its channel: {error}");
            }
        }
        if self.rescinded && self.channel.is_none() {
            self.shown_in = None;
        }
    }

    /// Answers the reads that wait, and returns whom else to wake.
    fn announce(&mut self) -> Vec<PollNotifier> {
        let mut waiting = Vec::new();
        for file in self.files.values_mut() {
            for reader in file.readers.drain(..) {
                if self.rescinded {
                    reader.error(Errno::EIO);
                } else {
                    file.seen = self.interrupts;
                    reader.data(&self.interrupts.to_ne_bytes());
                }
            }
            waiting.extend(file.notifier.clone());
        }
        waiting
    }

    /// Masks or unmasks the interrupt as the guest wrote; unmasking signals the
    /// host.
    fn take_word(&self, data: &[u8]) -> Result<(), Errno> {
        let Some(channel) = self.channel.as_ref().filter(|_| !self.rescinded) else {
            return Err(Errno::EIO);
        };
        let unmask = match <[u8; 4]>::try_from(data).map(u32::from_ne_bytes) {
            Ok(0) => false,
            Ok(_) => true,
            Err(_) => return Err(Errno::EINVAL),
        };
        let mask = u32::from(!unmask);
        channel.incoming.store(Word::InterruptMask, mask);
        if unmask {
            channel.incoming.fence();
            lock(&channel.line.counts).signals += 1;
            channel.line.changed.notify_all();
        }
        Ok(())
    }
}

impl Node for UioNode {
    fn open(
        self: Arc<Self>,
        handle: u64,
        reply: &ReplyOpen,
    ) -> Result<Option<Arc<BackingId>>, Errno> {
        let mut state = lock(&self.state);
        if state.rescinded {
            return Err(Errno::ENODEV);
        }
        let backing = match &state.channel {
            Some(channel) => Arc::clone(&channel.backing),
            None => {
                let (channel, port) = self.connect(reply).map_err(|error| {
                    eprintln!("the guest cannot open its channel: {error:#}");
                    Errno::ENOMEM
                })?;
                let backing = Arc::clone(&channel.backing);
                state.channel = Some(channel);
                state.waiting = Some(port);
                state.show();
                self.changed.notify_all();
                backing
            }
        };
        let file = OpenFile {
            seen: state.interrupts,
            readers: Vec::new(),
            notifier: None,
        };
        state.files.insert(handle, file);
        Ok(Some(backing))
    }

    fn release(&self, handle: u64) {
        let mut state = lock(&self.state);
        state.files.remove(&handle);
        if !state.files.is_empty() {
            return;
        }
        // An end that the host has not taken is of no use to it any more.
        state.waiting = None;
        if let Some(channel) = state.channel.take() {
            state.show();
            lock(&channel.line.counts).closed = true;
            channel.line.changed.notify_all();
        }
    }

    fn read(&self, handle: u64, size: u32, nonblocking: bool, reply: ReplyData) {
        let mut state = lock(&self.state);
        let interrupts = state.interrupts;
        if state.rescinded {
            return reply.error(Errno::EIO);
        }
        if size != 4 {
            return reply.error(Errno::EINVAL);
        }
        let Some(file) = state.files.get_mut(&handle) else {
            return reply.error(Errno::EBADF);
        };
        if file.seen != interrupts {
            file.seen = interrupts;
            reply.data(&interrupts.to_ne_bytes());
        } else if nonblocking {
            reply.error(Errno::EAGAIN);
        } else {
            file.readers.push(reply);
        }
    }

    fn write(&self, data: &[u8], reply: ReplyWrite) {
        let written = lock(&self.state).take_word(data);
        reply_to_write(written, data, reply);
    }

    fn poll(&self, handle: u64, notifier: PollNotifier) -> PollEvents {
        let mut state = lock(&self.state);
        let (rescinded, interrupts) = (state.rescinded, state.interrupts);
        let Some(file) = state.files.get_mut(&handle) else {
            return PollEvents::POLLNVAL;
        };
        file.notifier = Some(notifier);
        let readable = PollEvents::POLLIN | PollEvents::POLLRDNORM;
        if rescinded {
            // The driver returns an error number where a set of events is
            // meant; these are the bits of it that `poll` passes on.
            readable | PollEvents::POLLPRI | PollEvents::POLLERR | PollEvents::POLLHUP
        } else if file.seen != interrupts {
            readable
        } else {
            PollEvents::empty()
        }
    }

    fn interrupt_reads(&self) {
        let mut state = lock(&self.state);
        for file in state.files.values_mut() {
            for reader in file.readers.drain(..) {
                reader.error(Errno::EINTR);
            }
        }
    }

    fn accept(&self, timeout: Duration) -> Result<Port> {
        let state = lock(&self.state);
        let mut state = wait_until(&self.changed, state, timeout, |state| {
            state.rescinded || state.waiting.is_some()
        });
        if state.rescinded {
            bail!("the device has been taken away");
        }
        let port = state.waiting.take();
        let port = port.with_context(|| format!("nobody has opened the device in {timeout:?}"))?;
        Ok(Port::Uio(port))
    }

    fn rescind(&self) {
        let mut state = lock(&self.state);
        state.rescinded = true;
        state.show();
        let waiting = state.announce();
        drop(state);
        self.changed.notify_all();
        wake(waiting);
    }
}

/// The host's bell push of one open channel.
struct UioBell {
    node: Arc<UioNode>,
    line: Arc<Line>,
    reported: AtomicU64,
}

impl Bell for UioBell {
    fn interrupt(&self) {
        let mut state = lock(&self.node.state);
        let Some(channel) = &state.channel else {
            return;
        };
        // The guest has opened the device again: this line is dead.
        if state.rescinded || !Arc::ptr_eq(&channel.line, &self.line) {
            return;
        }
        if self.node.masks {
            channel.incoming.store(Word::InterruptMask, 1);
        }
        lock(&self.line.counts).interrupts += 1;
        state.interrupts = state.interrupts.wrapping_add(1);
        let waiting = state.announce();
        drop(state);
        wake(waiting);
    }

    fn wait_beyond(&self, signals: u64, timeout: Duration) -> Event {
        let counts = lock(&self.line.counts);
        let counts = wait_until(&self.line.changed, counts, timeout, |counts| {
            counts.closed || counts.signals > signals
        });
        if counts.signals > signals {
            Event::Signalled
        } else if counts.closed {
            Event::Closed
        } else {
            Event::TimedOut
        }
    }

    fn reported(&self) -> &AtomicU64 {
        &self.reported
    }

    fn signals(&self) -> u64 {
        lock(&self.line.counts).signals
    }

    fn interrupts(&self) -> u64 {
        lock(&self.line.counts).interrupts
    }
}
