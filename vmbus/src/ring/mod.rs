//! One direction of a channel: a ring in memory shared with the host.
//! Protocol section 3.
//!
//! A ring is a header page with a few words of control and a data area of a
//! whole number of eight-byte words. The side that writes owns the write index
//! and reads the other one; the side that reads does the opposite. Each side
//! keeps its own index in private memory and only publishes it, so that the
//! host can spoil nothing but its own.
//!
//! This module does no I/O and has no `unsafe`: shared memory is behind
//! [`RingMemory`].

mod reader;
mod writer;

pub use reader::{Reader, Received};
pub use writer::{Writer, Written};

use std::sync::Arc;

use crate::packet::PacketError;

/// The words of a ring's header that are used here; the value is the offset in
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// Where the writer will write next.
    WriteIndex = 0,
    /// Where the reader will read next.
    ReadIndex = 4,
    /// Not 0: the reader wants no interrupt.
    InterruptMask = 8,
    /// Bytes of room that the writer waits for; 0: it does not wait.
    PendingSendSize = 12,
    /// What the side that writes this ring can do:
    /// [`FEATURE_PENDING_SEND_SIZE`].
    FeatureBits = 64,
}

/// Bit of [`Word::FeatureBits`]: the side that writes this ring has flow
/// control, in both directions. It states in this ring's pending send size what
/// room it waits for, and it signals when it has made the room that the *other*
/// ring's pending send size asks for. A side without the bit looks at a full
/// ring again by itself, and signals no room.
///
/// So what the host does stands in the ring that the guest reads.
pub const FEATURE_PENDING_SEND_SIZE: u32 = 1;

/// A ring's shared memory.
///
/// The host changes it at any moment: no two loads of the same place need give
/// the same value. Data offsets and lengths are multiples of 8 and lie within
/// the data area; the ring code sees to that, whatever the host wrote.
pub trait RingMemory {
    /// Bytes of the data area, a multiple of 8.
    fn data_len(&self) -> u32;
    /// Loads a header word; what the other side published before it is visible
    /// afterwards (acquire).
    fn load(&self, word: Word) -> u32;
    /// Stores a header word; what was done before is visible to who sees it
    /// (release).
    fn store(&self, word: Word, value: u32);
    /// A full fence: loads after it see what others stored before theirs.
    fn fence(&self);
    /// Copies data out of the ring, from `offset`, without wrapping.
    fn copy_out(&self, offset: u32, to: &mut [u8]);
    /// Copies data into the ring, at `offset`, without wrapping.
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

/// Why a ring is unusable. It never is again until the channel is opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// An index that is outside of the data area or not a multiple of 8.
    #[error("{word:?} is {value}, in a data area of {data_len} bytes")]
    Index {
        /// Which index.
        word: Word,
        /// What it was.
        value: u32,
        /// Bytes of the data area.
        data_len: u32,
    },
    /// A packet whose lengths contradict each other.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A packet that claims more bytes than there are.
    #[error("a packet takes {needed} bytes, the ring holds {available}")]
    Truncated {
        /// Bytes that the packet needs, trailer included.
        needed: usize,
        /// Bytes between the two indices.
        available: usize,
    },
    /// A packet longer than the buffer it is to be copied to.
    #[error("a packet of {len} bytes is longer than the buffer of {buffer}")]
    BeyondBuffer {
        /// Bytes of the packet.
        len: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// A message that no ring of this size can carry.
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

/// How many bytes lie from `from` up to `to`, going round at `data_len`.
fn distance(from: u32, to: u32, data_len: u32) -> u32 {
    if to >= from {
        to - from
    } else {
        data_len - from + to
    }
}

/// `index` moved on by `by` bytes, at most one round.
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
