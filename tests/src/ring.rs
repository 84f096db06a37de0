//! The host's side of the rings: it reads what the guest sends and writes what
//! the guest receives. Protocol section 3.
//!
//! Nothing here is shared with the guest's ring code but the memory, so that a
//! mistake on one side shows on the other. The host behaves as a real one: it
//! interrupts only when a ring goes from empty to non-empty and the guest has
//! not masked it, or when it has made the room that the guest waits for, and it
//! says through the pending send size that it waits for room itself. A host
//! without flow control does neither of the last two.

use anyhow::{Result, bail, ensure};
use hyperv_vmbus::ring::{FEATURE_PENDING_SEND_SIZE, RingMemory, Word};

use crate::port::Ring;

/// Bytes of a packet's header.
pub const HEADER_LEN: usize = 16;

/// Bytes of the word behind a packet.
pub const TRAILER_LEN: usize = 8;

/// Type of a packet that carries a message.
pub const IN_BAND: u16 = 6;

/// A packet without the bytes that only say where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Packet type.
    pub kind: u16,
    /// Flags; 1 asks for a completion.
    pub flags: u16,
    /// Ties a reply to its request.
    pub transaction: u64,
    /// What it carries, padded to whole words.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A packet that carries a message.
    pub fn in_band(transaction: u64, message: &[u8]) -> Self {
        Self {
            kind: IN_BAND,
            flags: 0,
            transaction,
            payload: padded(message),
        }
    }

    /// The packet's bytes in a ring, header first, without its trailer.
    ///
    /// # Errors
    ///
    /// If the payload is too long for the header's field.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let payload = padded(&self.payload);
        let words = u16::try_from((HEADER_LEN + payload.len()) / 8)?;
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len() + TRAILER_LEN);
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(words.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.transaction.to_le_bytes());
        bytes.extend(payload);
        Ok(bytes)
    }
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(8), 0);
    padded
}

/// The ring that the host writes and the guest reads.
pub struct ToGuest {
    ring: Ring,
    at: u32,
    flow_control: bool,
}

/// The ring that the guest writes and the host reads.
pub struct FromGuest {
    ring: Ring,
    at: u32,
    flow_control: bool,
}

/// What became of a packet that the host wanted to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Wrote {
    /// It is in the ring; the flag says whether the guest is to be interrupted.
    Yes {
        /// The ring was empty and the guest wants to know.
        interrupt: bool,
    },
    /// There is no room; with flow control the guest has been asked to signal
    /// when there is.
    Full,
}

impl ToGuest {
    /// The writing end, from where the ring's write index stands, of a host with
    /// flow control.
    pub fn new(ring: Ring) -> Self {
        let at = ring.load(Word::WriteIndex);
        ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
        Self {
            ring,
            at,
            flow_control: true,
        }
    }

    /// Stops writing how much room the host waits for, and clears the feature bit that
    /// announces it.
    pub fn without_flow_control(&mut self) {
        self.flow_control = false;
        self.ring.store(Word::FeatureBits, 0);
    }

    /// The ring itself, for what a well-behaved host never does.
    pub fn raw(&self) -> &dyn RingMemory {
        &*self.ring
    }

    /// Writes a packet where there is room.
    ///
    /// # Errors
    ///
    /// If the guest's read index is no place in the ring.
    pub fn try_send(&mut self, packet: &Packet) -> Result<Wrote> {
        let bytes = packet.encode()?;
        self.try_send_bytes(&bytes)
    }

    /// Writes the bytes of a packet, whatever they say, and a right trailer.
    ///
    /// # Errors
    ///
    /// If the guest's read index is no place in the ring, or the packet is
    /// longer than the ring.
    pub fn try_send_bytes(&mut self, packet: &[u8]) -> Result<Wrote> {
        let mut bytes = padded(packet);
        bytes.extend((u64::from(self.at) << 32).to_le_bytes());
        let size = self.ring.data_len();
        let needed = u32::try_from(bytes.len())?;
        ensure!(needed < size, "a ring of {size} bytes cannot hold {needed}");
        if self.room()? <= needed {
            if self.flow_control {
                self.ring.store(Word::PendingSendSize, needed);
                self.ring.fence();
            }
            if self.room()? <= needed {
                return Ok(Wrote::Full);
            }
        }
        self.ring.store(Word::PendingSendSize, 0);
        let start = self.at;
        let next = self.place(start, &bytes);
        self.publish(next);
        self.ring.fence();
        let masked = self.ring.load(Word::InterruptMask) != 0;
        let was_empty = self.ring.load(Word::ReadIndex) == start;
        Ok(Wrote::Yes {
            interrupt: was_empty && !masked,
        })
    }

    /// Puts bytes at a place in the ring without publishing them, and returns
    /// the index behind them. The length must be a multiple of 8.
    pub fn place(&self, at: u32, bytes: &[u8]) -> u32 {
        let mut at = at;
        for word in bytes.chunks_exact(8) {
            self.ring.copy_in(at, word);
            at = step(at, 8, self.ring.data_len());
        }
        at
    }

    /// Where the host would write next.
    pub fn position(&self) -> u32 {
        self.at
    }

    /// Tells the guest that the ring is filled up to this index, true or not.
    pub fn publish(&mut self, index: u32) {
        self.at = index;
        self.ring.store(Word::WriteIndex, index);
    }

    /// Whether the guest has read everything.
    pub fn is_drained(&self) -> bool {
        self.ring.load(Word::ReadIndex) == self.at
    }

    /// Bytes that are free, of which the last may not be used.
    fn room(&self) -> Result<u32> {
        let read = checked_index(&*self.ring, Word::ReadIndex)?;
        Ok(self.ring.data_len() - between(read, self.at, self.ring.data_len()))
    }
}

impl FromGuest {
    /// The reading end, from where the ring's read index stands, of a host with
    /// flow control.
    pub fn new(ring: Ring) -> Self {
        let at = ring.load(Word::ReadIndex);
        Self {
            ring,
            at,
            flow_control: true,
        }
    }

    /// Tells the guest from now on of no room that it waits for.
    pub fn without_flow_control(&mut self) {
        self.flow_control = false;
    }

    /// The ring itself, for what a well-behaved host never does.
    pub fn raw(&self) -> &dyn RingMemory {
        &*self.ring
    }

    /// Reads a packet where there is one; the flag says whether the guest waits
    /// for the room that this has made, and is to be interrupted.
    ///
    /// # Errors
    ///
    /// If the guest wrote something that cannot be.
    pub fn try_recv(&mut self) -> Result<Option<(Packet, bool)>> {
        let size = self.ring.data_len();
        let write = checked_index(&*self.ring, Word::WriteIndex)?;
        let filled = between(self.at, write, size);
        if filled == 0 {
            return Ok(None);
        }
        ensure!(
            filled >= 24,
            "the guest published {filled} bytes, less than any packet"
        );
        let head = self.take(self.at, HEADER_LEN);
        let field = |at: usize| match head.get(at..at + 2) {
            Some([low, high]) => u16::from_le_bytes([*low, *high]),
            _ => 0,
        };
        let (kind, flags) = (field(0), field(6));
        let (header_len, total) = (usize::from(field(2)) * 8, usize::from(field(4)) * 8);
        let whole = total + TRAILER_LEN;
        if header_len != HEADER_LEN || total < HEADER_LEN || whole > filled as usize {
            bail!(
                "the guest wrote a packet of {total} bytes with a header of {header_len}, having published {filled}"
            );
        }
        let bytes = self.take(self.at, whole);
        let word = |at: usize| {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(bytes.iter().skip(at)) {
                *to = *from;
            }
            u64::from_le_bytes(word)
        };
        let trailer = word(total);
        ensure!(
            trailer >> 32 == u64::from(self.at),
            "the guest's packet at {} says behind it that it started at {}",
            self.at,
            trailer >> 32
        );
        let packet = Packet {
            kind,
            flags,
            transaction: word(8),
            payload: bytes.get(HEADER_LEN..total).unwrap_or_default().to_vec(),
        };
        let whole = u32::try_from(whole)?;
        self.at = step(self.at, whole, size);
        self.ring.store(Word::ReadIndex, self.at);
        self.ring.fence();
        let room = size - between(self.at, checked_index(&*self.ring, Word::WriteIndex)?, size);
        let wanted = self.ring.load(Word::PendingSendSize);
        let crossed = room > wanted && room.saturating_sub(whole) <= wanted;
        let features = self.ring.load(Word::FeatureBits);
        let announced = self.flow_control && features & FEATURE_PENDING_SEND_SIZE != 0;
        Ok(Some((packet, announced && wanted != 0 && crossed)))
    }

    /// Whether the guest has sent something.
    pub fn pending(&self) -> bool {
        self.ring.load(Word::WriteIndex) != self.at
    }

    /// Bytes that the guest waits for in this ring; 0 where it does not wait.
    pub fn guest_waits_for(&self) -> u32 {
        self.ring.load(Word::PendingSendSize)
    }

    /// Says whether the host wants to be signalled.
    pub fn mask(&self, masked: bool) {
        self.ring.store(Word::InterruptMask, u32::from(masked));
        self.ring.fence();
    }

    fn take(&self, at: u32, len: usize) -> Vec<u8> {
        let mut at = at;
        let mut bytes = vec![0; len];
        for word in bytes.chunks_exact_mut(8) {
            self.ring.copy_out(at, word);
            at = step(at, 8, self.ring.data_len());
        }
        bytes
    }
}

/// An index of the guest's, which a right guest keeps within the ring.
fn checked_index(ring: &dyn RingMemory, word: Word) -> Result<u32> {
    let (index, size) = (ring.load(word), ring.data_len());
    ensure!(
        index < size && index % 8 == 0,
        "the guest set {word:?} to {index} in a ring of {size} bytes"
    );
    Ok(index)
}

fn between(from: u32, to: u32, size: u32) -> u32 {
    (to + size - from) % size
}

fn step(from: u32, by: u32, size: u32) -> u32 {
    (from + by) % size
}

#[cfg(test)]
mod tests;
