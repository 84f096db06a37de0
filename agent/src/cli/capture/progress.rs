//! The line on the terminal that says how far a capture is.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::terminal::bytes;

/// The shortest time between two lines.
const INTERVAL: Duration = Duration::from_millis(250);

/// What was captured so far.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    terminal: bool,
    pub(super) messages: Cell<u64>,
    pub(super) events: Cell<u64>,
    pub(super) dropped: Cell<u64>,
    pub(super) written: Cell<u64>,
    shown: Cell<Instant>,
    stale: Cell<bool>,
}

impl Progress {
    /// Nothing was captured yet. The line is shown if that is wanted, and on a terminal.
    pub(super) fn new(wanted: bool) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            terminal: wanted && io::stderr().is_terminal(),
            messages: Cell::default(),
            events: Cell::default(),
            dropped: Cell::default(),
            written: Cell::default(),
            shown: Cell::new(now),
            stale: Cell::new(false),
        }
    }

    /// The numbers have changed.
    pub(super) fn changed(&self) {
        self.stale.set(true);
    }

    /// Returns when the line is to be shown again.
    pub(super) fn show_at(&self) -> Option<Instant> {
        (self.terminal && self.stale.get()).then(|| self.shown.get() + INTERVAL)
    }

    /// Shows the line if it has changed and is old.
    pub(super) fn show_if_due(&self, now: Instant) {
        if self.show_at().is_some_and(|at| at <= now) {
            self.shown.set(now);
            self.stale.set(false);
            // The cursor stays at the start of the line, which the next one replaces.
            let _ = write!(io::stderr(), "\r\x1b[K{}\r", self.text());
        }
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// Returns the numbers as text.
    pub(super) fn text(&self) -> String {
        format!(
            "{} messages, {} events, {} dropped, {} in {:.1} s",
            self.messages.get(),
            self.events.get(),
            self.dropped.get(),
            bytes(self.written.get()),
            self.began.elapsed().as_secs_f64()
        )
    }
}
