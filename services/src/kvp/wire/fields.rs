//! Fields of a message at an offset.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{Malformed, TooLong};
use crate::kvp::encoding::{Form, NotUnicode};

pub(super) fn fields<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    message: &[u8],
    at: usize,
) -> Result<&T, Malformed> {
    let len = message.len();
    let rest = message.get(at..).unwrap_or_default();
    T::ref_from_prefix(rest)
        .map(|(fields, _)| fields)
        .map_err(|_| Malformed::TooShort { len })
}

pub(super) fn fields_mut<T: FromBytes + IntoBytes + KnownLayout + Unaligned>(
    message: &mut [u8],
    at: usize,
) -> Result<&mut T, TooLong> {
    let rest = message.get_mut(at..).unwrap_or_default();
    let (fields, _) = T::mut_from_prefix(rest).map_err(|_| TooLong("message"))?;
    Ok(fields)
}

pub(super) fn string<E: Form>(name: &'static str, field: &[u8]) -> Result<String, Malformed> {
    E::read(field).map_err(|NotUnicode| Malformed::NotUnicode(name))
}
