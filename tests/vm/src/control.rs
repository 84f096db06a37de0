//! A stream of bytes between host code and a program in the guest: the guest's
//! second serial port.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::ports::Ports;

/// Bytes of the guest that nobody has read yet, at most. What is beyond is
/// dropped: a guest does not fill the host's memory.
const UNREAD_MAX: usize = 1 << 24;

/// The host's end of the stream.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    ports: Mutex<Weak<Ports>>,
}

#[derive(Default)]
struct State {
    to_guest: VecDeque<u8>,
    from_guest: VecDeque<u8>,
    closed: bool,
}

impl Control {
    /// Writes bytes for the guest.
    pub fn write(&self, bytes: &[u8]) {
        self.lock().to_guest.extend(bytes);
        let ports = lock(&self.ports).upgrade();
        if let Some(ports) = ports {
            ports.control_ready();
        }
    }

    /// Waits for a line of the guest, and returns it without its end.
    ///
    /// # Errors
    ///
    /// If none came in time, or the guest is gone.
    pub fn read_line(&self, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(end) = state.from_guest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = state.from_guest.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
            }
            if state.closed {
                bail!("the guest is gone");
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("the guest printed nothing for {} s", timeout.as_secs());
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// There will be nothing more from the guest.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn connect(&self, ports: Weak<Ports>) {
        *lock(&self.ports) = ports;
    }

    pub(crate) fn add_from_guest(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let room = UNREAD_MAX.saturating_sub(state.from_guest.len());
        state.from_guest.extend(bytes.iter().take(room));
        if bytes.contains(&b'\n') {
            self.changed.notify_all();
        }
    }

    pub(crate) fn take_for_guest(&self, room: usize) -> Vec<u8> {
        let mut state = self.lock();
        let count = room.min(state.to_guest.len());
        state.to_guest.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
