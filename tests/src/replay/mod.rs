//! Plays the host's side of a capture against a guest, and compares the guest's replies with
//! those of the capture by their meaning.
//!
//! [`Capture`] is what was read: its records, put together to exchanges of a request and a
//! reply (`conversation`), and what the guest must have for the same replies (`pools`,
//! `prepare`). `player` sends the requests, which `translate` makes of those of the capture,
//! over a `link`. `operation` is what a request asks, `meaning` what a reply says.

mod capture;
mod conversation;
mod link;
mod meaning;
mod operation;
mod player;
mod pools;
mod prepare;
#[cfg(test)]
mod tests;
mod text;
mod translate;

use std::collections::BTreeMap;

use anyhow::Result;
use hyperv_agent::capture::Record;
use hyperv_vmbus::Encoding;

use crate::port::Machine;
pub use capture::Capture;

/// How a capture is replayed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The transport, by the encoding of its messages, if not that of the capture.
    pub transport: Option<Encoding>,
    /// Requests come at the times of the capture, if the guest is as fast as that.
    pub recorded_pace: bool,
}

/// How a replay went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were sent.
    pub sent: usize,
    /// Replies that were compared.
    pub compared: usize,
    /// Numbers of the records that were left out, and why.
    pub left_out: BTreeMap<&'static str, Vec<usize>>,
    /// The first reply that differs, after which nothing more is sent.
    pub difference: Option<Difference>,
}

/// A reply that differs from the one in the capture.
#[derive(Debug)]
pub struct Difference {
    /// The record of the request.
    pub request: usize,
    /// The record of the reply.
    pub reply: Option<usize>,
    /// In what it differs.
    pub what: String,
    /// The request as it was sent, as a capture would have it.
    pub sent: Record,
    /// The guest's reply, as a capture would have it.
    pub came: Record,
}

impl Capture {
    /// Plays the host's side on a machine to which nothing was offered.
    ///
    /// # Errors
    ///
    /// If the guest does not take part, or the capture has what cannot be replayed. A reply
    /// that differs is no error.
    pub fn replay(&self, machine: &mut dyn Machine, options: Options) -> Result<Outcome> {
        player::Player::new(self, machine, options).play()
    }
}
