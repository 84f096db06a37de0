//! An offered device as scenarios have it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hyperv_sim::port::{Device, Port};

use super::Shared;
use super::state::State;

/// How long a guest may take to let go of a device that was taken away: its
/// driver waits for the program.
const RELEASE_TIME: Duration = Duration::from_secs(60);

/// An offered device.
pub struct VmDevice {
    bus: Arc<Shared>,
    relid: u32,
    /// A driver of the guest's kernel is at the other end.
    kernel: bool,
}

impl VmDevice {
    pub(super) fn new(bus: Arc<Shared>, relid: u32, kernel: bool) -> Self {
        Self { bus, relid, kernel }
    }

    /// Takes the device away without waiting for the guest.
    pub fn rescind_at_once(&self) {
        let was_there = self.bus.state().rescind(self.relid);
        if was_there {
            let line = format!("channel {} is rescinded", self.relid);
            self.bus.note(line);
        }
    }

    /// Whether the guest knows nothing of the device any more.
    pub fn is_released(&self) -> bool {
        !self.bus.state().channels.contains_key(&self.relid)
    }

    /// Waits until `look` finds something.
    fn wait<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.bus.state();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.bus.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Device for VmDevice {
    fn accept(&self, timeout: Duration) -> Result<Port> {
        let opened = self.wait(timeout, |state| {
            let channel = state.channels.get_mut(&self.relid)?;
            let waiting = channel.waiting.pop_front();
            match self.kernel {
                // The driver opens the channel once, for all programs that come.
                true => channel.open.as_ref().map(|open| open.port()),
                false => waiting,
            }
        });
        match opened {
            Some(port) if self.kernel => Ok(Port::Kernel(port)),
            Some(port) => Ok(Port::Uio(port)),
            None => bail!("expected the guest to open the device within {timeout:?}; it did not"),
        }
    }

    fn rescind(&self) -> Result<()> {
        self.rescind_at_once();
        let released = self.wait(RELEASE_TIME, |state| {
            (!state.channels.contains_key(&self.relid)).then_some(())
        });
        match released {
            Some(()) => Ok(()),
            None => bail!(
                "expected the guest to let go of the device within {RELEASE_TIME:?}; it did not"
            ),
        }
    }
}
