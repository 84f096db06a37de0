//! Text as the kernel turns it from UTF-16 to UTF-8 and back.

use anyhow::{Context, Result, bail, ensure};

/// UTF-8 of at most `max` bytes, as the kernel makes it: up to the first NUL;
/// half surrogate pairs, and letters for which there is no room, are passed
/// over.
pub(super) fn to_utf8(units: &[u16], max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let upto_nul = units.iter().copied().take_while(|unit| *unit != 0);
    for letter in char::decode_utf16(upto_nul).flatten() {
        if bytes.len() + letter.len_utf8() <= max {
            let mut room = [0; 4];
            bytes.extend(letter.encode_utf8(&mut room).as_bytes());
        }
    }
    bytes
}

/// The text in a field of UTF-8 that has a NUL behind it, as the kernel reads
/// it: letters beyond `max` units are cut off.
///
/// # Errors
///
/// If there is no NUL, or bytes before it that are not UTF-8: the kernel
/// fails the request then.
pub(super) fn from_utf8(field: &[u8], max: usize) -> Result<String> {
    let end = field.iter().position(|byte| *byte == 0);
    let end = end.context("the guest's text has no NUL behind it")?;
    let text = std::str::from_utf8(field.get(..end).unwrap_or_default())
        .context("the guest's text is not UTF-8")?;
    let mut units = 0;
    Ok(text
        .chars()
        .take_while(|letter| {
            units += letter.len_utf16();
            units <= max
        })
        .collect())
}

/// The text in a field of UTF-16, whose size field is `len`, its NUL
/// included.
///
/// # Errors
///
/// If the length is odd or more than the field has, a NUL stands elsewhere
/// than at the end, or half a surrogate pair is in it.
pub(super) fn from_utf16(field: &[u8], len: usize) -> Result<String> {
    ensure!(
        len % 2 == 0 && len >= 2,
        "the size field of the guest's text is invalid: {len}"
    );
    let bytes = field
        .get(..len)
        .with_context(|| format!("the guest's text of {len} bytes is longer than its field"))?;
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|unit| unit.try_into().map_or(0, u16::from_le_bytes))
        .collect();
    let Some((0, text)) = units.split_last() else {
        bail!("the guest's text has no NUL at its end");
    };
    ensure!(!text.contains(&0), "the guest's text has a NUL within it");
    String::from_utf16(text).context("the guest's text has half a surrogate pair in it")
}

/// The text in a field of UTF-16, up to its NUL, or all of it.
///
/// # Errors
///
/// If half a surrogate pair is in it.
pub(super) fn from_utf16_field(field: &[u8]) -> Result<String> {
    let units: Vec<u16> = field
        .chunks_exact(2)
        .map(|unit| unit.try_into().map_or(0, u16::from_le_bytes))
        .take_while(|unit| *unit != 0)
        .collect();
    String::from_utf16(&units).context("the guest's text has half a surrogate pair in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_passes_over_what_it_cannot_convert() {
        let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        assert_eq!(to_utf8(&units("aü\u{1f600}"), 9), "aü😀".as_bytes());
        assert_eq!(to_utf8(&units("a\0b"), 9), b"a");
        assert_eq!(to_utf8(&units("目ab"), 2), b"ab");
        assert_eq!(to_utf8(&[0xd83d, 0x61, 0xde00], 9), b"a");
    }

    #[test]
    fn what_comes_back_is_checked() {
        assert_eq!(from_utf8(b"a\xc3\xbc\0x", 9).unwrap(), "aü");
        assert_eq!(from_utf8("ab😀\0".as_bytes(), 3).unwrap(), "ab");
        assert!(from_utf8(b"abc", 9).is_err());
        assert!(from_utf8(b"\xff\0", 9).is_err());
        assert_eq!(from_utf16(&[0x61, 0, 0, 0], 4).unwrap(), "a");
        assert!(from_utf16(&[0x61, 0, 0, 0], 3).is_err());
        assert!(from_utf16(&[0x61, 0, 0, 0], 2).is_err());
        assert!(from_utf16(&[0, 0, 0, 0], 4).is_err());
        assert!(from_utf16(&[0, 0], 4).is_err());
        assert!(from_utf16(&[0, 0], 0).is_err());
        assert_eq!(from_utf16_field(&[0x61, 0, 0, 0, 0x62, 0]).unwrap(), "a");
    }
}
