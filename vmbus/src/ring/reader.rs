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

/// A packet that was copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its header. The packet, header included, is in the first
    /// `header.total_len` bytes of the buffer.
    pub header: Header,
    /// The other side waits for room and now has it: signal it before anything
    /// is waited for.
    pub signal: bool,
}

impl<M: RingMemory> Reader<M> {
    /// Starts where the ring's read index stands.
    ///
    /// # Errors
    ///
    /// [`RingError::Index`] where that is no place in the ring.
    pub fn new(memory: M) -> Result<Self, RingError> {
        let read = load_index(&memory, Word::ReadIndex)?;
        Ok(Self { memory, read })
    }

    /// Copies the next packet to the start of `buffer`; `None` where the ring
    /// is empty. A `buffer` as long as the data area holds every packet.
    ///
    /// Each byte is copied out of shared memory once, and only the copy is
    /// looked at.
    ///
    /// # Errors
    ///
    /// A [`RingError`] where indices or lengths cannot be.
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
        let signal = self.freed_what_the_writer_waits_for(needed)?;
        Ok(Some(Received { header, signal }))
    }

    /// Whether freeing the last `freed` bytes made the room that a waiting
    /// writer asked for. Only the step across that mark counts, so that the
    /// writer is signalled once: hosts slow guests down that signal too often.
    ///
    /// The mask does not matter here. It is for packets, not for room.
    fn freed_what_the_writer_waits_for(&self, freed: usize) -> Result<bool, RingError> {
        // The writer publishes what it waits for and then looks at the read
        // index; this side published the read index and now looks at what it
        // waits for. With a fence in between on both sides, one sees the other.
        self.memory.fence();
        let pending = self.memory.load(Word::PendingSendSize);
        if pending == 0 || !self.writer_signals_room() {
            return Ok(false);
        }
        // The write index anew: with the one from before, room that the writer
        // has used since would count, and the step across would be missed.
        let write = load_index(&self.memory, Word::WriteIndex)?;
        let data_len = self.memory.data_len();
        let room = (data_len - distance(self.read, write, data_len)) as usize;
        // Who asks for more than a ring holds is told when it is empty.
        let pending = pending.min(data_len - 1) as usize;
        Ok(room > pending && room.saturating_sub(freed) <= pending)
    }

    /// Whether the side that writes this ring has flow control: it says what
    /// room it waits for here, and signals when it has made room in the other
    /// ring. Otherwise a full ring is to be looked at again, in both directions.
    pub fn writer_signals_room(&self) -> bool {
        self.memory.load(Word::FeatureBits) & FEATURE_PENDING_SEND_SIZE != 0
    }

    /// Asks for an interrupt at the next packet and looks once more: `true`
    /// where there is one already.
    pub fn arm(&mut self) -> bool {
        self.memory.store(Word::InterruptMask, 0);
        // The writer publishes its index and then looks at the mask. Without
        // the fence both could miss the other's store, and the packet would lie
        // there unannounced.
        self.memory.fence();
        self.pending()
    }

    /// Asks for no interrupt.
    pub fn mask(&mut self) {
        self.memory.store(Word::InterruptMask, 1);
    }

    /// Whether there is something to receive, be it an error.
    pub fn pending(&self) -> bool {
        self.memory.load(Word::WriteIndex) != self.read
    }

    /// Copies from `offset` on, going round at the end of the data area, and
    /// gives the offset behind.
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
        // A slice within the ring is shorter than the ring, whose length is a
        // `u32`.
        #[expect(clippy::cast_possible_truncation)]
        advance(offset, to.len() as u32, data_len)
    }
}
