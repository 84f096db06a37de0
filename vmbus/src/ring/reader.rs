use super::{
    FEATURE_PENDING_SEND_SIZE, RingError, RingMemory, Word, advance, distance, load_index,
};
use crate::packet::{HEADER_LEN, Header, TRAILER_LEN};

/// [`TRAILER_LEN`] as indices count.
const TRAILER: u32 = 8;
const _: () = assert!(TRAILER as usize == TRAILER_LEN);

/// The reading end of a ring.
#[derive(Debug)]
pub struct Reader<M> {
    memory: M,
    read: u32,
}

/// A packet that was copied out of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its header. The packet, header included, is in the first
    /// `header.total_len` bytes of the buffer.
    pub header: Header,
    /// The writer waited for room and now has it: signal it before waiting for
    /// anything.
    pub signal: bool,
}

impl<M: RingMemory> Reader<M> {
    /// Makes a reader that starts at the ring's read index.
    ///
    /// # Errors
    ///
    /// [`RingError::Index`] if that is invalid.
    pub fn new(memory: M) -> Result<Self, RingError> {
        let read = load_index(&memory, Word::ReadIndex)?;
        Ok(Self { memory, read })
    }

    /// Copies the next packet to the start of `buffer`. Returns `None` if the ring is
    /// empty. A `buffer` as long as the data area holds every packet.
    ///
    /// Each byte is copied out of shared memory once, and only the copy is used.
    ///
    /// # Errors
    ///
    /// A [`RingError`] if an index or a length is invalid.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<Received>, RingError> {
        let data_len = self.memory.data_len();
        let write = load_index(&self.memory, Word::WriteIndex)?;
        if write == self.read {
            return Ok(None);
        }
        let available = distance(self.read, write, data_len) as usize;
        if available < HEADER_LEN + TRAILER_LEN {
            return Err(RingError::Truncated {
                needed: HEADER_LEN + TRAILER_LEN,
                available,
            });
        }

        let mut head = [0; HEADER_LEN];
        let rest_at = self.copy_out(self.read, &mut head);
        let header = Header::decode(&head)?;
        let needed = header.total_len + TRAILER_LEN;
        if needed > available {
            return Err(RingError::Truncated { needed, available });
        }
        let beyond = RingError::BeyondBuffer {
            len: header.total_len,
            buffer: buffer.len(),
        };
        let (to_head, to_rest) = buffer
            .get_mut(..header.total_len)
            .and_then(|packet| packet.split_first_chunk_mut())
            .ok_or(beyond)?;
        *to_head = head;
        let trailer_at = self.copy_out(rest_at, to_rest);

        self.read = advance(trailer_at, TRAILER, data_len);
        self.memory.store(Word::ReadIndex, self.read);
        let signal = self.writer_has_its_room(needed)?;
        Ok(Some(Received { header, signal }))
    }

    /// Returns whether freeing the last `freed` bytes made the room that the writer waits
    /// for. Only the step across that mark counts, so that the writer is signalled once:
    /// hosts throttle guests that signal too often.
    ///
    /// The interrupt mask does not matter: it is for packets, not for room.
    fn writer_has_its_room(&self, freed: usize) -> Result<bool, RingError> {
        // The writer publishes what it waits for and then loads the read index. The
        // reader has published the read index and now loads what the writer waits for.
        // With a fence in between on both sides, one of them sees the other's store.
        self.memory.fence();
        let pending = self.memory.load(Word::PendingSendSize);
        if pending == 0 || !self.writer_signals_room() {
            return Ok(false);
        }
        // Load the write index again: with the old one, room that the writer has used
        // since would count, and the step across the mark would be missed.
        let write = load_index(&self.memory, Word::WriteIndex)?;
        let data_len = self.memory.data_len();
        let room = (data_len - distance(self.read, write, data_len)) as usize;
        // A writer that waits for more than a ring holds is signalled when it is empty.
        let pending = pending.min(data_len - 1) as usize;
        Ok(room > pending && room.saturating_sub(freed) <= pending)
    }

    /// Returns whether the writer of this ring has flow control, as
    /// [`FEATURE_PENDING_SEND_SIZE`] describes. If not, both sides have to retry when a
    /// ring is full.
    pub fn writer_signals_room(&self) -> bool {
        self.memory.load(Word::FeatureBits) & FEATURE_PENDING_SEND_SIZE != 0
    }

    /// Unmasks the interrupt. Returns `true` if there is a packet already.
    pub fn arm(&mut self) -> bool {
        self.memory.store(Word::InterruptMask, 0);
        // The writer publishes its index and then loads the mask. Without the fence both
        // sides could miss the other's store, and no interrupt would follow.
        self.memory.fence();
        self.pending()
    }

    /// Masks the interrupt.
    pub fn mask(&mut self) {
        self.memory.store(Word::InterruptMask, 1);
    }

    /// Returns whether there is something to receive, which may be an error.
    pub fn pending(&self) -> bool {
        self.memory.load(Word::WriteIndex) != self.read
    }

    /// Copies data from `offset`, wrapping at the end of the data area, and returns the
    /// offset after it.
    fn copy_out(&self, offset: u32, to: &mut [u8]) -> u32 {
        let data_len = self.memory.data_len();
        let until_wrap = (data_len - offset) as usize;
        match to.split_at_mut_checked(until_wrap) {
            Some((first, second)) => {
                self.memory.copy_out(offset, first);
                self.memory.copy_out(0, second);
            }
            None => self.memory.copy_out(offset, to),
        }
        // The data is shorter than the ring, whose length is a `u32`.
        #[expect(clippy::cast_possible_truncation)]
        advance(offset, to.len() as u32, data_len)
    }
}
