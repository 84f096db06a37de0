//! How messages differ by encoding: in their strings and in some offsets. Protocol
//! section 7.

/// A string is not valid Unicode.
pub(super) struct NotUnicode;

/// The form of messages in one encoding.
pub(super) trait Form {
    /// Offset of an IP configuration in the message.
    const IP_INFO_AT: usize;

    /// Whether values can be binary numbers, and not strings only.
    const HAS_NUMBERS: bool;

    /// Offset of the fields that hold the value in the reply to a GET.
    const GET_VALUE_AT: usize;

    /// Returns the length in UTF-16 units, without the NUL, of the longest string that the
    /// host gets from a reply's field of `size` bytes.
    fn max_units(size: usize) -> usize;

    /// Returns the length in bytes of UTF-8, without a NUL, of the longest string that a
    /// field of `size` bytes holds.
    fn max_bytes(size: usize) -> usize;

    /// Whether a string can have this size in bytes.
    fn is_valid_size(size: usize) -> bool;

    /// Reads the string at the start of `field`, up to the first NUL or the end.
    fn read(field: &[u8]) -> Result<String, NotUnicode>;

    /// Writes the string with a NUL and zeros the rest of the field. Returns the size
    /// with the NUL in bytes, or `None` if it does not fit.
    fn write(text: &str, field: &mut [u8]) -> Option<u32>;
}

/// The host's messages.
pub(super) struct Utf16;

impl Form for Utf16 {
    const IP_INFO_AT: usize = 2;
    const HAS_NUMBERS: bool = true;
    const GET_VALUE_AT: usize = 4;

    fn max_units(size: usize) -> usize {
        (size / 2).saturating_sub(1)
    }

    /// The units alone limit it.
    fn max_bytes(_: usize) -> usize {
        usize::MAX
    }

    fn is_valid_size(size: usize) -> bool {
        size % 2 == 0
    }

    fn read(field: &[u8]) -> Result<String, NotUnicode> {
        let units = field
            .chunks_exact(2)
            .filter_map(|unit| unit.try_into().ok())
            .map(u16::from_le_bytes);
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

/// The messages of `hv_utils`.
pub(super) struct Utf8;

impl Form for Utf8 {
    const IP_INFO_AT: usize = 4;
    /// The kernel converts numbers to decimal and omits the type.
    const HAS_NUMBERS: bool = false;
    /// The kernel reads the value of every reply at its offset in an ENUMERATE, four bytes
    /// after that in a GET.
    const GET_VALUE_AT: usize = 8;

    /// The kernel leaves the last unit of the field before the NUL empty.
    fn max_units(size: usize) -> usize {
        (size / 2).saturating_sub(2)
    }

    fn max_bytes(size: usize) -> usize {
        size.saturating_sub(1)
    }

    fn is_valid_size(_: usize) -> bool {
        true
    }

    fn read(field: &[u8]) -> Result<String, NotUnicode> {
        let text = field.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(|_| NotUnicode)
    }

    fn write(text: &str, field: &mut [u8]) -> Option<u32> {
        field.fill(0);
        let (last, places) = field.split_last_mut()?;
        *last = 0;
        let place = places.get_mut(..text.len())?;
        place.copy_from_slice(text.as_bytes());
        u32::try_from(text.len() + 1).ok()
    }
}
