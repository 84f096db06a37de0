//! Why a message cannot be decoded, or a reply cannot be encoded.

/// Why a message cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message is shorter than the fields of its operation.
    #[error("the message of {len} bytes is too short for its operation")]
    TooShort {
        /// Size of the message in bytes.
        len: usize,
    },
    /// The operation is unknown.
    #[error("unknown operation {0}")]
    Operation(u8),
    /// There is no such pool.
    #[error("unknown pool {0}")]
    Pool(u8),
    /// The type of the value is unknown.
    #[error("unknown value type {0}")]
    ValueType(u32),
    /// A size is larger than its field, or no multiple of the size of a unit.
    #[error("invalid size of the {field}: {size} bytes")]
    Size {
        /// The field.
        field: &'static str,
        /// The size in the message.
        size: u32,
    },
    /// A string is longer than a reply to the host can be.
    #[error("the {field} has {units} UTF-16 units: the host can read back at most {limit}")]
    Long {
        /// The field.
        field: &'static str,
        /// Length of the string in UTF-16 units.
        units: usize,
        /// Length of the longest string of a reply in UTF-16 units.
        limit: usize,
    },
    /// A count is larger than its array.
    #[error("invalid count of {field}: {count}, at most {limit}")]
    Count {
        /// What is counted.
        field: &'static str,
        /// The count in the message.
        count: u32,
        /// Length of the array.
        limit: usize,
    },
    /// A string is not valid Unicode.
    #[error("the {0} is not valid Unicode")]
    NotUnicode(&'static str),
}

/// The reply does not fit the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {0} is too long for a reply")]
pub struct TooLong(pub &'static str);
