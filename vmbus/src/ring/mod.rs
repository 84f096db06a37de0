//! One direction of a channel: a ring in memory shared with the host.
//! Protocol section 3.
//!
//! A ring is a header page with a few control words, and a data area of a whole number
//! of eight-byte words. The writer owns the write index and reads the read index; the
//! reader does the opposite. Each side keeps its own index in private memory and only
//! publishes it, so that the host cannot change that of the guest.
//!
//! This module does no I/O and has no `unsafe`: shared memory is behind
//! [`RingMemory`].

mod reader;
mod writer;

pub use reader::{Reader, Received};
pub use writer::{Writer, Written};

use std::sync::Arc;

use crate::packet::PacketError;

/// A control word in a ring's header. The value is its offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// Offset at which the writer writes next.
    WriteIndex = 0,
    /// Offset at which the reader reads next.
    ReadIndex = 4,
    /// If not 0, the reader wants no interrupt.
    InterruptMask = 8,
    /// Bytes of room that the writer waits for, or 0.
    PendingSendSize = 12,
    /// Features of the side that writes this ring: [`FEATURE_PENDING_SEND_SIZE`].
    FeatureBits = 64,
}

/// Bit of [`Word::FeatureBits`]: the side that writes this ring has flow control, in both
/// directions. It states in this ring's pending send size the room that it waits for,
/// and it signals when it has made the room that the *other* ring's pending send size
/// states. A side without the bit retries by itself when a ring is full, and signals no
/// room.
///
/// The host's bit is in the ring that the guest reads.
pub const FEATURE_PENDING_SEND_SIZE: u32 = 1;

/// A ring's shared memory.
///
/// The host may change it at any moment, so two loads of one place may differ. The ring
/// code passes only offsets and lengths that are multiples of 8 and within the data
/// area, whatever the host wrote.
pub trait RingMemory {
    /// Returns the bytes of the data area, a multiple of 8.
    fn data_len(&self) -> u32;
    /// Loads a header word, with acquire ordering.
    fn load(&self, word: Word) -> u32;
    /// Stores a header word, with release ordering.
    fn store(&self, word: Word, value: u32);
    /// Issues a full (sequentially consistent) fence.
    fn fence(&self);
    /// Copies data out of the ring from `offset`. The range does not wrap.
    fn copy_out(&self, offset: u32, to: &mut [u8]);
    /// Copies data into the ring at `offset`. The range does not wrap.
    fn copy_in(&self, offset: u32, from: &[u8]);
}

impl<T: RingMemory + ?Sized> RingMemory for Arc<T> {
    fn data_len(&self) -> u32 {
        self.as_ref().data_len()
    }

    fn load(&self, word: Word) -> u32 {
        self.as_ref().load(word)
    }

    fn store(&self, word: Word, value: u32) {
        self.as_ref().store(word, value);
    }

    fn fence(&self) {
        self.as_ref().fence();
    }

    fn copy_out(&self, offset: u32, to: &mut [u8]) {
        self.as_ref().copy_out(offset, to);
    }

    fn copy_in(&self, offset: u32, from: &[u8]) {
        self.as_ref().copy_in(offset, from);
    }
}

/// Why a ring is unusable until the channel is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// An index is outside of the data area or not a multiple of 8.
    #[error("{word:?} is {value}, in a data area of {data_len} bytes")]
    Index {
        /// The index.
        word: Word,
        /// Its value.
        value: u32,
        /// Bytes of the data area.
        data_len: u32,
    },
    /// The lengths of a packet contradict each other.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A packet states more bytes than the ring holds.
    #[error("a packet takes {needed} bytes, the ring holds {available}")]
    Truncated {
        /// Bytes of the packet, trailer included.
        needed: usize,
        /// Bytes between the two indices.
        available: usize,
    },
    /// A packet is longer than the buffer of the receiver.
    #[error("a packet of {len} bytes is longer than the buffer of {buffer}")]
    BeyondBuffer {
        /// Bytes of the packet.
        len: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// A message is too long for a ring of this size.
    #[error("a message of {len} bytes does not fit a ring of {data_len}")]
    TooLarge {
        /// Bytes of the message.
        len: usize,
        /// Bytes of the data area.
        data_len: u32,
    },
}

/// Loads and checks an index that the other side owns.
fn load_index(memory: &impl RingMemory, word: Word) -> Result<u32, RingError> {
    let value = memory.load(word);
    let data_len = memory.data_len();
    if value >= data_len || value % 8 != 0 {
        return Err(RingError::Index {
            word,
            value,
            data_len,
        });
    }
    Ok(value)
}

/// Returns the bytes from `from` up to `to`, wrapping at `data_len`.
fn distance(from: u32, to: u32, data_len: u32) -> u32 {
    if to >= from {
        to - from
    } else {
        data_len - from + to
    }
}

/// Advances `index` by `by` bytes, at most `data_len`.
fn advance(index: u32, by: u32, data_len: u32) -> u32 {
    let until_wrap = data_len - index;
    if by >= until_wrap {
        by - until_wrap
    } else {
        index + by
    }
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
