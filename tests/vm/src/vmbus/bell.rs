//! The doorbell of an open channel: interrupts to the guest as event flags,
//! signals from it as hypercalls.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use hyperv_sim::port::{Bell, Event};

use crate::hypercall::Synic;

/// The doorbell of one open of a channel.
pub struct ChannelBell {
    synic: Arc<dyn Synic>,
    /// Where interrupts go; the guest may change it.
    vp: AtomicU32,
    sint: u8,
    /// The channel's event flag is its relid.
    relid: u32,
    interrupts: AtomicU64,
    closed: AtomicBool,
    signals: Mutex<u64>,
    reported: AtomicU64,
    changed: Condvar,
}

impl ChannelBell {
    /// The doorbell of a channel whose interrupts go to `sint` of `vp`.
    pub fn new(synic: Arc<dyn Synic>, vp: u32, sint: u8, relid: u32) -> Self {
        Self {
            synic,
            vp: AtomicU32::new(vp),
            sint,
            relid,
            interrupts: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            signals: Mutex::default(),
            reported: AtomicU64::new(0),
            changed: Condvar::new(),
        }
    }

    /// The guest has signalled.
    pub fn signalled(&self) {
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        *signals += 1;
        drop(signals);
        self.changed.notify_all();
    }

    /// The guest has closed the channel: its memory is its own again.
    pub fn close(&self) {
        // Under the lock, or a wait that is about to begin would miss it.
        let signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Release);
        drop(signals);
        self.changed.notify_all();
    }

    /// Sends interrupts elsewhere from now on.
    pub fn move_to(&self, vp: u32) {
        self.vp.store(vp, Ordering::Relaxed);
    }
}

impl Bell for ChannelBell {
    fn interrupt(&self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        self.interrupts.fetch_add(1, Ordering::Relaxed);
        let vp = self.vp.load(Ordering::Relaxed);
        self.synic.signal(vp, self.sint, self.relid);
    }

    fn wait_beyond(&self, signals: u64, timeout: Duration) -> Event {
        let came = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        let came = self
            .changed
            .wait_timeout_while(came, timeout, |came| {
                *came <= signals && !self.closed.load(Ordering::Acquire)
            })
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if *came > signals {
            Event::Signalled
        } else if self.closed.load(Ordering::Acquire) {
            Event::Closed
        } else {
            Event::TimedOut
        }
    }

    fn reported(&self) -> &AtomicU64 {
        &self.reported
    }

    fn signals(&self) -> u64 {
        *self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed)
    }
}
