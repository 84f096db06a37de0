//! The format of a record in a pool file. Protocol section 7.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::PoolError;

/// Size of the largest accepted pool in bytes: some 100,000 records.
pub(super) const MAX_SIZE: u64 = 256 << 20;

/// A key and its value as the host sees them: bytes that are not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Size of the key field in bytes.
pub(super) const KEY_LEN: usize = 512;

/// Size of the value field in bytes.
pub(super) const VALUE_LEN: usize = 2048;

/// Size of a record in bytes.
pub(super) const RECORD_LEN: u64 = (KEY_LEN + VALUE_LEN) as u64;

/// The bytes of a record: UTF-8, terminated and usually padded with NULs. Other programs
/// omit the NUL if a field is full, and leave any bytes after it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(super) struct RawRecord {
    key: [u8; KEY_LEN],
    value: [u8; VALUE_LEN],
}

const _: () = assert!(size_of::<RawRecord>() as u64 == RECORD_LEN);

impl RawRecord {
    /// All bytes zero.
    pub(super) const ZERO: Self = Self {
        key: [0; KEY_LEN],
        value: [0; VALUE_LEN],
    };

    /// Encodes a record.
    ///
    /// # Errors
    ///
    /// A [`PoolError`] about the key or value; they are never truncated.
    pub(super) fn new(key: &str, value: &str) -> Result<Self, PoolError> {
        let mut raw = Self::ZERO;
        if key.is_empty() {
            return Err(PoolError::EmptyKey);
        }
        let too_long = |len, limit| PoolError::KeyTooLong { len, limit };
        fill(&mut raw.key, key, "key", too_long)?;
        let too_long = |len, limit| PoolError::ValueTooLong { len, limit };
        fill(&mut raw.value, value, "value", too_long)?;
        Ok(raw)
    }

    /// Returns the bytes of the key up to its NUL.
    pub(super) fn key(&self) -> &[u8] {
        text(&self.key)
    }

    /// Returns the bytes of the value up to its NUL.
    pub(super) fn value(&self) -> &[u8] {
        text(&self.value)
    }

    /// Returns the whole value field.
    pub(super) fn value_field(&self) -> &[u8] {
        &self.value
    }

    /// Returns this record with the value of another.
    pub(super) fn with_value_of(&self, other: &Self) -> Self {
        Self {
            key: self.key,
            value: other.value,
        }
    }

    /// Returns the record as the host sees it.
    pub(super) fn decode(&self) -> Record {
        Record {
            key: String::from_utf8_lossy(self.key()).into_owned(),
            value: String::from_utf8_lossy(self.value()).into_owned(),
        }
    }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn fill(
    field: &mut [u8],
    text: &str,
    name: &'static str,
    too_long: fn(usize, usize) -> PoolError,
) -> Result<(), PoolError> {
    if text.contains('\0') {
        return Err(PoolError::Nul(name));
    }
    // The last byte stays a NUL: some readers rely on it.
    let (len, limit) = (text.len(), field.len() - 1);
    let start = field.get_mut(..len).filter(|_| len <= limit);
    let start = start.ok_or_else(|| too_long(len, limit))?;
    start.copy_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_strategy(longest: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec(
            any::<char>().prop_filter("NUL", |&c| c != '\0'),
            0..longest / 4,
        )
        .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn an_encoded_record_is_decoded(
            key in text_strategy(KEY_LEN).prop_filter("empty", |key| !key.is_empty()),
            value in text_strategy(VALUE_LEN),
        ) {
            let raw = RawRecord::new(&key, &value).unwrap();
            prop_assert_eq!(raw.decode(), Record { key, value });
        }

        #[test]
        fn any_bytes_are_a_record(bytes in proptest::collection::vec(any::<u8>(), size_of::<RawRecord>())) {
            let raw = RawRecord::read_from_bytes(&bytes).unwrap();
            let Record { key, value } = raw.decode();
            prop_assert!(!key.contains('\0') && !value.contains('\0'));
            prop_assert!(bytes.starts_with(raw.key()));
            prop_assert!(bytes[KEY_LEN..].starts_with(raw.value()));
        }
    }

    #[test]
    fn full_fields_need_no_nul() {
        let raw = RawRecord::read_from_bytes(&[b'x'; size_of::<RawRecord>()]).unwrap();
        assert_eq!((raw.key().len(), raw.value().len()), (KEY_LEN, VALUE_LEN));
    }

    #[test]
    fn bytes_after_a_nul_are_ignored() {
        let mut bytes = [b'#'; size_of::<RawRecord>()];
        bytes[..4].copy_from_slice(b"key\0");
        bytes[KEY_LEN..KEY_LEN + 6].copy_from_slice(b"value\0");
        let raw = RawRecord::read_from_bytes(&bytes).unwrap();
        assert_eq!((raw.key(), raw.value()), (&b"key"[..], &b"value"[..]));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let mut raw = RawRecord::ZERO;
        raw.key[..2].copy_from_slice(b"k\xff");
        assert_eq!(raw.decode().key, "k\u{fffd}");
    }

    #[test]
    fn keys_and_values_that_do_not_fit_are_refused() {
        let longest = |len| "x".repeat(len);
        assert!(RawRecord::new(&longest(511), &longest(2047)).is_ok());
        assert!(matches!(
            RawRecord::new(&longest(512), ""),
            Err(PoolError::KeyTooLong {
                len: 512,
                limit: 511
            })
        ));
        assert!(matches!(
            RawRecord::new("k", &longest(9000)),
            Err(PoolError::ValueTooLong {
                len: 9000,
                limit: 2047
            })
        ));
        // The limit is in bytes, not in characters.
        assert!(RawRecord::new(&"ä".repeat(256), "").is_err());
        assert!(matches!(RawRecord::new("", ""), Err(PoolError::EmptyKey)));
        assert!(matches!(
            RawRecord::new("a\0", ""),
            Err(PoolError::Nul("key"))
        ));
        assert!(matches!(
            RawRecord::new("a", "\0"),
            Err(PoolError::Nul("value"))
        ));
    }
}
