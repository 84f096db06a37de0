//! In what messages differ by their encoding: how a string is written, and where an IP
//! configuration begins. Protocol section 7.

/// A string that is not Unicode.
pub(super) struct NotUnicode;

/// A form of the messages.
pub(super) trait Form {
    /// Where an IP configuration begins in the message.
    const IP_INFO_AT: usize;

    /// Whether numbers come as such, and not as strings.
    const HAS_NUMBERS: bool;

    /// Where the fields begin among which the answer to a GET has its value.
    const GET_VALUE_AT: usize;

    /// Whether a string can have this many bytes.
    fn is_valid_size(size: usize) -> bool;

    /// The string at the start of `field`, which ends with the first NUL or
    /// with the field.
    fn read(field: &[u8]) -> Result<String, NotUnicode>;

    /// Writes the string with a NUL, if there is room, and says how many bytes
    /// that makes. The rest of the field is zeroed.
    fn write(text: &str, field: &mut [u8]) -> Option<u32>;
}

/// As the host writes them.
pub(super) struct Utf16;

impl Form for Utf16 {
    const IP_INFO_AT: usize = 2;
    const HAS_NUMBERS: bool = true;
    const GET_VALUE_AT: usize = 4;

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

/// As `hv_utils` writes them.
pub(super) struct Utf8;

impl Form for Utf8 {
    const IP_INFO_AT: usize = 4;
    /// The kernel writes them out in decimal, and leaves the type away.
    const HAS_NUMBERS: bool = false;
    /// The kernel takes the value of every answer from where an ENUMERATE has
    /// it, four bytes behind where it asked for it.
    const GET_VALUE_AT: usize = 8;

    fn is_valid_size(_: usize) -> bool {
        true
    }

    fn read(field: &[u8]) -> Result<String, NotUnicode> {
        let text = field.split(|&byte| byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text)
            .map(str::to_owned)
            .map_err(|_| NotUnicode)
    }

    fn write(text: &str, field: &mut [u8]) -> Option<u32> {
        field.fill(0);
        let (last, places) = field.split_last_mut()?;
        *last = 0;
        places
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        u32::try_from(text.len() + 1).ok()
    }
}
