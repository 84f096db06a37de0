//! The host's side of VMBus.
//!
//! A guest's message comes in through [`Host::post_message`] and changes the
//! `state`: `connection` negotiates the version, `gpadl` collects lists of pages,
//! and an open channel is `rings` in these pages and a `bell`. `message` has
//! the layouts. The host's messages go out through [`Synic`]; interrupts are
//! event flags with the channel's relid as their number, which every version
//! since 2.4 has.
//!
//! What is left out: monitor pages and interrupt pages (each channel has its
//! own event connection), sub-channels, resuming a hibernated guest, sockets,
//! confidential channels, more than one list of ranges.

pub mod bell;
pub mod connection;
pub mod device;
pub mod gpadl;
pub mod message;
pub mod rings;
mod state;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use hyperv_vmbus::Guid;
use vm_memory::GuestMemoryMmap;

use crate::hypercall::{Host, Synic};
pub use connection::{MESSAGES, MESSAGES_AFTER, MESSAGES_FROM_5, Version};
pub use device::VmDevice;
use state::State;

const SUCCESS: u16 = 0;
const INVALID_PARAMETER: u16 = 5;
const INVALID_CONNECTION: u16 = 0x12;

/// Lines of the journal that are kept.
const JOURNAL: usize = 1000;

/// The host's side of one guest's VMBus. Clones are the same one.
#[derive(Clone)]
pub struct VmBus(Arc<Shared>);

struct Shared {
    /// Resources while messages are posted, which keeps them in order: a [`Synic`]
    /// must not call back.
    state: Mutex<State>,
    changed: Condvar,
    journal: Mutex<VecDeque<String>>,
}

impl VmBus {
    /// The host of a guest with this memory, speaking up to version `newest`.
    pub fn new(memory: GuestMemoryMmap, synic: Arc<dyn Synic>, newest: Version) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(memory, synic, newest)),
            changed: Condvar::new(),
            journal: Mutex::default(),
        }))
    }

    /// Offers a device. `kernel` says that `hv_utils` will be at its other end:
    /// then the channel stays open while programs come and go.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn offer(&self, class: Guid, instance: Guid, kernel: bool) -> Result<Arc<VmDevice>> {
        let relid = self.0.state().offer(class, instance)?;
        self.0.note(format!("channel {relid} is offered: {class}"));
        Ok(Arc::new(VmDevice::new(Arc::clone(&self.0), relid, kernel)))
    }

    /// The negotiated version; `None` without a connection.
    pub fn version(&self) -> Option<Version> {
        let connection = self.0.state().connection;
        connection.map(|connection| connection.version)
    }

    /// What happened, one line each, the oldest lines left out.
    pub fn journal(&self) -> String {
        let lines = self.0.journal.lock();
        let lines = lines.unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, line: String) {
        let lines = self.journal.lock();
        let mut lines = lines.unwrap_or_else(PoisonError::into_inner);
        if lines.len() == JOURNAL {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

impl Host for VmBus {
    fn post_message(&self, connection: u32, kind: u32, payload: &[u8]) -> u16 {
        if ![MESSAGES, MESSAGES_FROM_5, MESSAGES_AFTER].contains(&connection) {
            return INVALID_CONNECTION;
        }
        if kind != message::SYNIC_TYPE || payload.len() > message::LONGEST {
            return INVALID_PARAMETER;
        }
        let mut state = self.0.state();
        let taken = state.message(payload);
        drop(state);
        self.0.changed.notify_all();
        match taken {
            Ok(Some(line)) => self.0.note(line),
            Ok(None) => {}
            Err(error) => self.0.note(format!("from the guest: {error:#}")),
        }
        SUCCESS
    }

    fn signal_event(&self, connection: u32, _flag: u16) -> u16 {
        let Some(relid) = connection::relid_of(connection) else {
            return INVALID_CONNECTION;
        };
        let state = self.0.state();
        let Some(channel) = state.channels.get(&relid) else {
            return INVALID_CONNECTION;
        };
        // A guest may signal what it has just closed.
        if let Some(open) = &channel.open {
            open.bell.signalled();
        }
        SUCCESS
    }

    fn gone(&self) {
        self.0.state().reset();
        self.0.changed.notify_all();
        self.0.note("the guest is gone".into());
    }
}

#[cfg(test)]
mod tests;
