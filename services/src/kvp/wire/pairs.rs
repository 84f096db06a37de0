//! The fields of a key and its value.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{Malformed, TooLong};
use super::fields::string;
use crate::kvp::encoding::Form;

const KEY_LEN: usize = 512;
const VALUE_LEN: usize = 2048;

// Types of a value.
pub(super) const REG_SZ: u32 = 1;
pub(super) const REG_EXPAND_SZ: u32 = 2;
pub(super) const REG_U32: u32 = 4;
pub(super) const REG_U64: u32 = 8;
pub(super) const REG_QWORD: u32 = 11;

/// The fields of a GET and a SET.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ValueFields {
    pub(super) kind: U32,
    pub(super) key_size: U32,
    pub(super) value_size: U32,
    pub(super) key: [u8; KEY_LEN],
    pub(super) value: [u8; VALUE_LEN],
}

const _: () = assert!(size_of::<ValueFields>() == 2572);

/// The fields of an ENUMERATE.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct EnumerateFields {
    pub(super) index: U32,
    pub(super) item: ValueFields,
}

/// The fields of a DELETE.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DeleteFields {
    pub(super) key_size: U32,
    pub(super) key: [u8; KEY_LEN],
}

impl DeleteFields {
    pub(super) fn key<E: Form>(&self) -> Result<String, Malformed> {
        sized_string::<E>("key", &self.key, self.key_size)
    }
}

impl ValueFields {
    pub(super) fn key<E: Form>(&self) -> Result<String, Malformed> {
        sized_string::<E>("key", &self.key, self.key_size)
    }

    /// Decodes the key and the value of a SET. Those that would be truncated in a reply are
    /// refused.
    pub(super) fn key_and_value<E: Form>(&self) -> Result<(String, String), Malformed> {
        let (key, value) = (self.key::<E>()?, self.value::<E>()?);
        for (field, text, size) in [("key", &key, KEY_LEN), ("value", &value, VALUE_LEN)] {
            let (units, limit) = (text.encode_utf16().count(), E::max_units(size));
            if units > limit {
                return Err(Malformed::Long {
                    field,
                    units,
                    limit,
                });
            }
        }
        Ok((key, value))
    }

    pub(super) fn value<E: Form>(&self) -> Result<String, Malformed> {
        let kind = self.kind.get();
        if !E::HAS_NUMBERS || matches!(kind, REG_SZ | REG_EXPAND_SZ) {
            return sized_string::<E>("value", &self.value, self.value_size);
        }
        // The type implies the size of a number; like the kernel, this ignores the size
        // field.
        let number = U64::read_from_prefix(&self.value).map_or(0, |(number, _)| number.get());
        match kind {
            REG_U32 => Ok((number & u64::from(u32::MAX)).to_string()),
            REG_U64 | REG_QWORD => Ok(number.to_string()),
            kind => Err(Malformed::ValueType(kind)),
        }
    }

    pub(super) fn write_key<E: Form>(&mut self, key: &str) -> Result<(), TooLong> {
        let key = truncate(key, E::max_units(KEY_LEN), E::max_bytes(KEY_LEN));
        let size = E::write(key, &mut self.key).ok_or(TooLong("key"))?;
        self.key_size.set(size);
        Ok(())
    }

    pub(super) fn write_value<E: Form>(&mut self, value: &str) -> Result<(), TooLong> {
        let value = truncate(value, E::max_units(VALUE_LEN), E::max_bytes(VALUE_LEN));
        let size = E::write(value, &mut self.value).ok_or(TooLong("value"))?;
        self.kind.set(REG_SZ);
        self.value_size.set(size);
        Ok(())
    }
}

/// Reads a string whose size is in the message.
fn sized_string<E: Form>(name: &'static str, field: &[u8], size: U32) -> Result<String, Malformed> {
    let size = size.get();
    let wrong = Malformed::Size { field: name, size };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| E::is_valid_size(*size));
    let stated = size.and_then(|size| field.get(..size)).ok_or(wrong)?;
    string::<E>(name, stated)
}

/// Truncates the text to this many UTF-16 units and bytes. Records of other programs can
/// be longer than the host accepts, and an enumeration that fails there would hide all
/// later records.
fn truncate(text: &str, max_units: usize, max_bytes: usize) -> &str {
    let mut units = 0;
    let end = text.char_indices().find_map(|(at, letter)| {
        units += letter.len_utf16();
        (units > max_units || at + letter.len_utf8() > max_bytes).then_some(at)
    });
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn truncated_text_ends_with_a_whole_character(
            text in ".{0,400}", units in 0..300usize, bytes in 0..600usize,
        ) {
            let short = truncate(&text, units, bytes);
            prop_assert!(text.starts_with(short));
            prop_assert!(short.encode_utf16().count() <= units && short.len() <= bytes);
            if let Some(next) = text[short.len()..].chars().next() {
                let more = &text[..short.len() + next.len_utf8()];
                prop_assert!(more.encode_utf16().count() > units || more.len() > bytes);
            }
        }
    }
}
