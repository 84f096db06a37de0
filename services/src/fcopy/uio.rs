//! Requests as they come over a ring: names in UTF-16. Protocol section 5.

use super::request::{self, BadName, Malformed, NAME_LEN, Request};

/// Decodes what follows the integration-component header. Padding behind the
/// request's fields is ignored.
///
/// # Errors
///
/// Any [`Malformed`]; of the names, a missing NUL or a lone surrogate.
pub fn decode(body: &[u8]) -> Result<Request<'_>, Malformed> {
    request::decode(body, name)
}

fn name(field: &[u8; NAME_LEN]) -> Result<String, BadName> {
    let units = field
        .chunks_exact(2)
        .filter_map(|unit| unit.try_into().ok());
    let units = units.map(u16::from_le_bytes);
    let len = units
        .clone()
        .position(|unit| unit == 0)
        .ok_or(BadName::Unterminated)?;
    char::decode_utf16(units.take(len))
        .collect::<Result<_, _>>()
        .map_err(|_| BadName::NotUnicode)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::request::Start;
    use super::super::request::tests::{start, write};
    use super::*;

    fn utf16(name: &str) -> Vec<u8> {
        name.encode_utf16().flat_map(u16::to_le_bytes).collect()
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
            let mut message = start(&utf16(&file_name), &utf16(&directory), flags, size);
            message.resize(message.len() + padding, 0xee);
            let wanted = Start { directory, file_name, overwrite, create_path, size };
            prop_assert_eq!(decode(&message), Ok(Request::Start(wanted)));
        }

        #[test]
        fn no_bytes_make_it_panic(operation in 0..6u32, bytes: Vec<u8>, fill: u8, len in 0..8000usize) {
            let mut message = operation.to_le_bytes().to_vec();
            message.extend(bytes);
            message.resize(len, fill);
            if let Ok(Request::Write { data, .. }) = decode(&message) {
                prop_assert!(data.len() <= request::MAX_DATA);
            }
        }

        #[test]
        fn a_write_is_decoded(offset: u64, data in proptest::collection::vec(any::<u8>(), 0..6144)) {
            let size = u32::try_from(data.len()).unwrap();
            let message = write(offset, size, &data);
            prop_assert_eq!(decode(&message), Ok(Request::Write { offset, data: &data }));
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
                decode(&start(&bytes, b"", 0, 0)),
                Err(Malformed::NotUnicode("file name"))
            );
            assert_eq!(
                decode(&start(b"", &bytes, 0, 0)),
                Err(Malformed::NotUnicode("directory"))
            );
        }
    }

    #[test]
    fn the_longest_name_has_259_units() {
        let longest = utf16(&"x".repeat(259));
        assert!(decode(&start(&longest, b"", 0, 0)).is_ok());
        let full = utf16(&"x".repeat(260));
        assert_eq!(
            decode(&start(&full, b"", 0, 0)),
            Err(Malformed::Unterminated("file name"))
        );
    }
}
