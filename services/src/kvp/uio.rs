//! Messages as they come over a ring: strings in UTF-16. Protocol section 7.

use super::request::{Reply, Request};
use super::wire::{self, Encoding, Malformed, NotUnicode, TooLong};

struct Utf16;

impl Encoding for Utf16 {
    const IP_INFO_AT: usize = 2;
    const HAS_NUMBERS: bool = true;
    const GET_VALUE_AT: usize = 4;

    fn is_valid_size(size: usize) -> bool {
        size % 2 == 0
    }

    fn read(field: &[u8]) -> Result<String, NotUnicode> {
        let units = field
            .chunks_exact(2)
            .filter_map(|unit| unit.try_into().ok());
        let units = units.map(u16::from_le_bytes);
        char::decode_utf16(units.take_while(|&unit| unit != 0))
            .collect::<Result<_, _>>()
            .map_err(|_| NotUnicode)
    }

    fn write(text: &str, field: &mut [u8]) -> Option<u32> {
        field.fill(0);
        let units = text.encode_utf16().count() + 1;
        if 2 * units > field.len() {
            return None;
        }
        for (place, unit) in field.chunks_exact_mut(2).zip(text.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        u32::try_from(2 * units).ok()
    }
}

/// Decodes what follows the integration-component header.
///
/// # Errors
///
/// Any [`Malformed`].
pub fn decode(body: &[u8]) -> Result<Request, Malformed> {
    wire::decode::<Utf16>(body)
}

/// Writes a reply over the request that it answers.
///
/// # Errors
///
/// Where the reply has no room in there.
pub fn encode(body: &mut [u8], reply: &Reply) -> Result<(), TooLong> {
    wire::encode::<Utf16>(body, reply)
}
