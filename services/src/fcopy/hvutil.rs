//! Requests as they come over `/dev/vmbus/hv_fcopy`: names in UTF-8, and a reply
//! that is a bare status. Protocol section 5.

use hyperv_vmbus::ic::Status;

use super::request::{self, BadName, Malformed, NAME_LEN, Request};

/// Decodes one message.
///
/// # Errors
///
/// Any [`Malformed`]; of the names, a missing NUL or bytes that are not UTF-8.
pub fn decode(message: &[u8]) -> Result<Request<'_>, Malformed> {
    request::decode(message, name)
}

/// Leaves the reply at the start of `buffer` and gives its length back; 0 where
/// `buffer` has no room for it.
pub(super) fn encode_reply(buffer: &mut [u8], status: Status) -> usize {
    match buffer.first_chunk_mut() {
        Some(reply) => {
            *reply = status.0.to_le_bytes();
            reply.len()
        }
        None => 0,
    }
}

fn name(field: &[u8; NAME_LEN]) -> Result<String, BadName> {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .ok_or(BadName::Unterminated)?;
    let bytes = field.get(..end).unwrap_or_default();
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| BadName::NotUnicode)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::request::Start;
    use super::super::request::tests::start;
    use super::*;

    fn name_strategy() -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>().prop_filter("NUL", |&c| c != '\0'), 0..=129)
            .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            directory in name_strategy(), file_name in name_strategy(),
            overwrite: bool, create_path: bool, size: u64,
        ) {
            let flags = u32::from(overwrite) | u32::from(create_path) << 1;
            let message = start(file_name.as_bytes(), directory.as_bytes(), flags, size);
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
    }

    #[test]
    fn bytes_that_are_not_utf8() {
        for bytes in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80"] {
            assert_eq!(
                decode(&start(bytes, b"", 0, 0)),
                Err(Malformed::NotUnicode("file name"))
            );
            assert_eq!(
                decode(&start(b"", bytes, 0, 0)),
                Err(Malformed::NotUnicode("directory"))
            );
        }
    }

    #[test]
    fn the_longest_name_has_519_bytes() {
        assert!(decode(&start(b"", &[b'x'; 519], 0, 0)).is_ok());
        assert_eq!(
            decode(&start(b"", &[b'x'; 520], 0, 0)),
            Err(Malformed::Unterminated("directory"))
        );
    }

    #[test]
    fn a_reply_is_four_bytes() {
        let mut buffer = [0xee; 8];
        assert_eq!(encode_reply(&mut buffer, Status::DISK_FULL), 4);
        assert_eq!(buffer, [0x70, 0x00, 0x07, 0x80, 0xee, 0xee, 0xee, 0xee]);
        assert_eq!(encode_reply(&mut [0; 3], Status::OK), 0);
    }
}
