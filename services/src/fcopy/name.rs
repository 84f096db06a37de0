//! The names in a START: NUL-terminated in a field of fixed length. Protocol section 5.

use std::ffi::CStr;

use hyperv_vmbus::Encoding;

/// Length of a name's field in bytes: 260 UTF-16 units.
pub(super) const NAME_LEN: usize = 520;

/// Why a name cannot be decoded.
pub(super) enum BadName {
    Unterminated,
    NotUnicode,
}

/// Decodes a name up to its NUL.
pub(super) fn read(encoding: Encoding, field: &[u8; NAME_LEN]) -> Result<String, BadName> {
    match encoding {
        Encoding::Utf16 => utf16(field),
        Encoding::Utf8 => utf8(field),
    }
}

fn utf16(field: &[u8; NAME_LEN]) -> Result<String, BadName> {
    let units = field
        .chunks_exact(2)
        .filter_map(|unit| unit.try_into().ok())
        .map(u16::from_le_bytes);
    let len = units
        .clone()
        .position(|unit| unit == 0)
        .ok_or(BadName::Unterminated)?;
    char::decode_utf16(units.take(len))
        .collect::<Result<_, _>>()
        .map_err(|_| BadName::NotUnicode)
}

fn utf8(field: &[u8; NAME_LEN]) -> Result<String, BadName> {
    let text = CStr::from_bytes_until_nul(field).map_err(|_| BadName::Unterminated)?;
    let text = text.to_str().map_err(|_| BadName::NotUnicode)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use Encoding::{Utf8, Utf16};

    use super::super::request::tests::{start, write};
    use super::super::request::{MAX_DATA, Malformed, Request, Start, decode};
    use super::*;

    fn utf16(name: &str) -> Vec<u8> {
        name.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    fn utf8(name: &str) -> Vec<u8> {
        name.as_bytes().to_vec()
    }

    fn name_strategy() -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>().prop_filter("NUL", |&c| c != '\0'), 0..=129)
            .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            directory in name_strategy(), file_name in name_strategy(),
            overwrite: bool, create_path: bool, size: u64, padding in 0..100usize,
        ) {
            let flags = u32::from(overwrite) | u32::from(create_path) << 1;
            for (encoding, write) in [(Utf16, utf16 as fn(&str) -> Vec<u8>), (Utf8, utf8)] {
                let mut message = start(&write(&file_name), &write(&directory), flags, size);
                message.resize(message.len() + padding, 0xee);
                let (directory, file_name) = (directory.clone(), file_name.clone());
                let wanted = Start { directory, file_name, overwrite, create_path, size };
                prop_assert_eq!(decode(encoding, &message), Ok(Request::Start(wanted)));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(operation in 0..6u32, bytes: Vec<u8>, fill: u8, len in 0..8000usize) {
            let mut message = operation.to_le_bytes().to_vec();
            message.extend(bytes);
            message.resize(len, fill);
            for encoding in [Utf16, Utf8] {
                if let Ok(Request::Write { data, .. }) = decode(encoding, &message) {
                    prop_assert!(data.len() <= MAX_DATA);
                }
            }
        }

        #[test]
        fn a_write_is_decoded(offset: u64, data in proptest::collection::vec(any::<u8>(), 0..6144)) {
            let size = u32::try_from(data.len()).unwrap();
            let message = write(offset, size, &data);
            prop_assert_eq!(decode(Utf16, &message), Ok(Request::Write { offset, data: &data }));
        }
    }

    #[test]
    fn lone_surrogates() {
        for units in [
            &[0xd800u16][..],
            &[0xdc00],
            &[0x61, 0xdbff, 0x61],
            &[0xdc00, 0xd800],
            &[0xd800, 0xd800, 0xdc00],
        ] {
            let bytes: Vec<u8> = units.iter().copied().flat_map(u16::to_le_bytes).collect();
            assert_eq!(
                decode(Utf16, &start(&bytes, b"", 0, 0)),
                Err(Malformed::NotUnicode("file name"))
            );
            assert_eq!(
                decode(Utf16, &start(b"", &bytes, 0, 0)),
                Err(Malformed::NotUnicode("directory"))
            );
        }
    }

    #[test]
    fn the_longest_name_has_259_units() {
        let longest = utf16(&"x".repeat(259));
        assert!(decode(Utf16, &start(&longest, b"", 0, 0)).is_ok());
        let full = utf16(&"x".repeat(260));
        assert_eq!(
            decode(Utf16, &start(&full, b"", 0, 0)),
            Err(Malformed::Unterminated("file name"))
        );
    }

    #[test]
    fn bytes_that_are_not_utf8() {
        for bytes in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80"] {
            assert_eq!(
                decode(Utf8, &start(bytes, b"", 0, 0)),
                Err(Malformed::NotUnicode("file name"))
            );
            assert_eq!(
                decode(Utf8, &start(b"", bytes, 0, 0)),
                Err(Malformed::NotUnicode("directory"))
            );
        }
    }

    #[test]
    fn the_longest_name_has_519_bytes() {
        assert!(decode(Utf8, &start(b"", &[b'x'; 519], 0, 0)).is_ok());
        assert_eq!(
            decode(Utf8, &start(b"", &[b'x'; 520], 0, 0)),
            Err(Malformed::Unterminated("directory"))
        );
    }
}
