//! Packets in a ring. Protocol section 3.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a packet's header.
pub const HEADER_LEN: usize = size_of::<WireHeader>();

/// Bytes that follow a packet: a word whose upper half is the index at which the packet
/// starts.
pub const TRAILER_LEN: usize = 8;

/// Packet type of in-band data, which carries messages.
pub const IN_BAND: u16 = 6;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireHeader {
    kind: U16,
    header_words: U16,
    total_words: U16,
    flags: U16,
    transaction: U64,
}

const _: () = assert!(HEADER_LEN == 16);

/// A packet's header whose lengths are consistent: the header has at least
/// [`HEADER_LEN`] bytes, and the packet is not shorter than its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Packet type.
    pub kind: u16,
    /// Bytes of the header, including further descriptors. The payload follows.
    pub header_len: usize,
    /// Bytes of header and payload together, without the trailer.
    pub total_len: usize,
    /// Flags; 1 requests a completion.
    pub flags: u16,
    /// The transaction id. A reply has that of its request.
    pub transaction: u64,
}

/// A packet that was copied out of a ring.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Packet type.
    pub kind: u16,
    /// Flags; 1 requests a completion.
    pub flags: u16,
    /// The transaction id. A reply has that of its request.
    pub transaction: u64,
    /// The bytes after the header, padded to a multiple of eight.
    pub payload: &'a mut [u8],
}

/// A packet header whose lengths contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet states a length of {total_len} bytes and a header of {header_len}")]
pub struct PacketError {
    /// Bytes of the header, as stated.
    pub header_len: usize,
    /// Bytes of header and payload, as stated.
    pub total_len: usize,
}

impl Header {
    /// Returns the header of an in-band packet with a payload of `payload_len` bytes, padded
    /// to a multiple of eight; `None` if the length does not fit its field.
    pub fn in_band(payload_len: usize, transaction: u64) -> Option<Self> {
        let total_len = HEADER_LEN + payload_len.checked_next_multiple_of(8)?;
        u16::try_from(total_len / 8).ok()?;
        Some(Self {
            kind: IN_BAND,
            header_len: HEADER_LEN,
            total_len,
            flags: 0,
            transaction,
        })
    }

    /// Decodes a header.
    ///
    /// # Errors
    ///
    /// [`PacketError`] if its lengths contradict each other.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, PacketError> {
        let wire: &WireHeader = zerocopy::transmute_ref!(bytes);
        let header_len = usize::from(wire.header_words.get()) * 8;
        let total_len = usize::from(wire.total_words.get()) * 8;
        if header_len < HEADER_LEN || total_len < header_len {
            return Err(PacketError {
                header_len,
                total_len,
            });
        }
        Ok(Self {
            kind: wire.kind.get(),
            header_len,
            total_len,
            flags: wire.flags.get(),
            transaction: wire.transaction.get(),
        })
    }

    /// Encodes the header. Lengths are truncated to sixteen bits of words;
    /// [`Header::in_band`] and [`Header::decode`] make none that exceeds them.
    #[expect(clippy::cast_possible_truncation)]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        zerocopy::transmute!(WireHeader {
            kind: self.kind.into(),
            header_words: ((self.header_len / 8) as u16).into(),
            total_words: ((self.total_len / 8) as u16).into(),
            flags: self.flags.into(),
            transaction: self.transaction.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_has_the_layout_of_the_wire() {
        let header = Header::in_band(33, 0x1122_3344_5566_7788).unwrap();
        assert_eq!(
            header.encode(),
            [
                6, 0, 2, 0, 7, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11
            ]
        );
    }

    #[test]
    fn a_payload_beyond_the_length_field_has_no_header() {
        assert!(Header::in_band(0xffff * 8 - HEADER_LEN, 0).is_some());
        assert!(Header::in_band(0xffff * 8 - HEADER_LEN + 1, 0).is_none());
        assert!(Header::in_band(usize::MAX, 0).is_none());
    }

    proptest! {
        #[test]
        fn decoding_checks_lengths_and_keeps_the_rest(bytes: [u8; HEADER_LEN]) {
            let stated = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])) * 8;
            match Header::decode(&bytes) {
                Ok(header) => {
                    prop_assert!(header.header_len >= HEADER_LEN);
                    prop_assert!(header.total_len >= header.header_len);
                    prop_assert_eq!(header.encode(), bytes);
                }
                Err(error) => {
                    prop_assert_eq!(error.header_len, stated(2));
                    prop_assert_eq!(error.total_len, stated(4));
                    prop_assert!(stated(2) < HEADER_LEN || stated(4) < stated(2));
                }
            }
        }
    }
}
