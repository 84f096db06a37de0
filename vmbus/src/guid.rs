//! Class and instance GUIDs of VMBus devices.

use std::fmt;
use std::str::FromStr;

/// A GUID. Its bytes are in the order of its text: `34d14be3-dee4-…` starts with the
/// byte `0x34`.
///
/// [`FromStr`] accepts either case, with or without the braces that sysfs writes.
/// [`fmt::Display`] writes lower case without braces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

/// A text is not a GUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid GUID {0:?}: expected xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
pub struct ParseGuidError(String);

impl Guid {
    /// Makes a GUID of its digits as one number.
    pub const fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// Returns its digits as one number.
    pub const fn to_u128(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl FromStr for Guid {
    type Err = ParseGuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseGuidError(text.to_owned());
        let bare = match text.strip_prefix('{') {
            Some(rest) => rest.strip_suffix('}').ok_or_else(error)?,
            None => text,
        };
        let mut groups = bare.split('-');
        let mut value: u128 = 0;
        for digits in [8, 4, 4, 4, 12] {
            let group = groups.next().ok_or_else(error)?;
            if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(error());
            }
            let number = u128::from_str_radix(group, 16).map_err(|_| error())?;
            value = (value << (4 * digits)) | number;
        }
        match groups.next() {
            None => Ok(Self::from_u128(value)),
            Some(_) => Err(error()),
        }
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            if matches!(position, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FCOPY: &str = "34d14be3-dee4-41c8-9ae7-6b174977c192";

    #[test]
    fn every_form_of_sysfs_and_people_is_parsed() {
        let expected = Guid::from_u128(0x34d14be3_dee4_41c8_9ae7_6b174977c192);
        assert_eq!(FCOPY.parse(), Ok(expected));
        assert_eq!(format!("{{{FCOPY}}}").parse(), Ok(expected));
        assert_eq!(FCOPY.to_uppercase().parse(), Ok(expected));
        assert_eq!(expected.to_string(), FCOPY);
    }

    #[test]
    fn what_is_not_a_guid_is_refused() {
        for text in [
            "",
            "{}",
            "34d14be3",
            "{34d14be3-dee4-41c8-9ae7-6b174977c192",
            "34d14be3-dee4-41c8-9ae7-6b174977c192-",
            "34d14be3-dee4-41c8-9ae7-6b174977c19",
            "+4d14be3-dee4-41c8-9ae7-6b174977c192",
            "34d14be3-dee4-41c8-9ae76b-174977c192",
        ] {
            assert!(text.parse::<Guid>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn a_displayed_guid_is_parsed(value: u128) {
            let guid = Guid::from_u128(value);
            prop_assert_eq!(guid.to_string().parse(), Ok(guid));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Guid>();
        }
    }
}
