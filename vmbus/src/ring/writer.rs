use super::{RingError, RingMemory, Word, advance, distance, load_index};
use crate::packet::{Header, TRAILER_LEN};

/// The writing end of a ring.
#[derive(Debug)]
pub struct Writer<M> {
    memory: M,
    write: u32,
}

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// The packet is in the ring.
    Done {
        /// Signal the reader: the ring was empty, and its interrupt is not masked.
        signal: bool,
    },
    /// The ring has no room for the packet now, and its pending send size says so.
    /// [`Reader::writer_signals_room`](super::Reader::writer_signals_room) of the other
    /// ring returns whether the reader signals when it has made room.
    Full,
}

impl<M: RingMemory> Writer<M> {
    /// Makes a writer that starts at the ring's write index.
    ///
    /// # Errors
    ///
    /// [`RingError::Index`] if that is invalid.
    pub fn new(memory: M) -> Result<Self, RingError> {
        let write = load_index(&memory, Word::WriteIndex)?;
        Ok(Self { memory, write })
    }

    /// Writes an in-band packet. The payload is padded with zeros to a multiple of eight
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`RingError::TooLarge`] if the ring could never hold the packet, and
    /// [`RingError::Index`] if the reader's index is invalid.
    pub fn send(&mut self, transaction: u64, payload: &[u8]) -> Result<Written, RingError> {
        let data_len = self.memory.data_len();
        let too_large = RingError::TooLarge {
            len: payload.len(),
            data_len,
        };
        let header = Header::in_band(payload.len(), transaction).ok_or(too_large)?;
        let needed = u32::try_from(header.total_len + TRAILER_LEN).map_err(|_| too_large)?;
        if needed >= data_len {
            return Err(too_large);
        }
        if !self.has_room(needed)? {
            // The counterpart of `Reader::writer_has_its_room`: publish, fence, check
            // again.
            self.memory.store(Word::PendingSendSize, needed);
            self.memory.fence();
            if !self.has_room(needed)? {
                return Ok(Written::Full);
            }
        }
        self.memory.store(Word::PendingSendSize, 0);

        let start = self.write;
        let whole = payload.len() - payload.len() % 8;
        let (words, tail) = payload.split_at(whole);
        let mut at = self.copy_in(start, &header.encode());
        at = self.copy_in(at, words);
        if !tail.is_empty() {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(tail) {
                *to = *from;
            }
            at = self.copy_in(at, &last);
        }
        at = self.copy_in(at, &(u64::from(start) << 32).to_le_bytes());
        self.write = at;
        self.memory.store(Word::WriteIndex, at);

        // The reader clears its mask, or empties the ring, and then loads the write
        // index: see `Reader::arm`.
        self.memory.fence();
        let masked = self.memory.load(Word::InterruptMask) != 0;
        let was_empty = self.memory.load(Word::ReadIndex) == start;
        Ok(Written::Done {
            signal: was_empty && !masked,
        })
    }

    /// Returns whether `needed` bytes fit without filling the ring completely: equal
    /// indices mean an empty ring.
    fn has_room(&self, needed: u32) -> Result<bool, RingError> {
        let read = load_index(&self.memory, Word::ReadIndex)?;
        let data_len = self.memory.data_len();
        Ok(data_len - distance(read, self.write, data_len) > needed)
    }

    /// Copies data to `offset`, wrapping at the end of the data area, and returns the
    /// offset after it.
    fn copy_in(&self, offset: u32, from: &[u8]) -> u32 {
        let data_len = self.memory.data_len();
        let until_wrap = (data_len - offset) as usize;
        match from.split_at_checked(until_wrap) {
            Some((first, second)) => {
                self.memory.copy_in(offset, first);
                self.memory.copy_in(0, second);
            }
            None => self.memory.copy_in(offset, from),
        }
        // A packet is shorter than the ring, whose length is a `u32`.
        #[expect(clippy::cast_possible_truncation)]
        advance(offset, from.len() as u32, data_len)
    }
}
