//! What the host asks of a backup, for rings and for the char device. Protocol
//! section 8.

/// Bytes of every message on the char device, and of a short body over rings:
/// both have the operation first and the flags last.
pub const BODY_LEN: usize = 12;

/// Where a body has its flags.
pub(super) const FLAGS_AT: usize = 8;

/// Bytes of a FREEZE's body as some hosts send it: the message is one of 6,260.
pub const LONG_FREEZE: usize = 6232;

/// Bytes of an AUTO_RECOVER's body: the message is one of 12,500.
pub const LONG_RECOVER: usize = 12_472;

/// What the host asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Whether the guest can be backed up while it runs.
    HotBackup,
    /// About file systems that span several disks.
    GetDmInfo,
    /// The file systems are to stand still.
    Freeze,
    /// They are to go on.
    Thaw,
    /// The backup is to be made consistent after the fact, which Linux does not
    /// do.
    AutoRecover,
    /// Any other.
    Other(u8),
}

impl Operation {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::HotBackup => 2,
            Self::GetDmInfo => 3,
            Self::Freeze => 5,
            Self::Thaw => 6,
            Self::AutoRecover => 7,
            Self::Other(number) => number,
        }
    }

    /// A body of so many bytes: the same over rings and on the char device.
    pub fn encode(self, len: usize) -> Vec<u8> {
        let mut body = vec![0; len];
        if let Some(first) = body.first_mut() {
            *first = self.number();
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_operation_first_and_is_as_long_as_it_is_to_be() {
        let expected = [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Operation::Freeze.encode(BODY_LEN), expected);
        let long = Operation::AutoRecover.encode(LONG_RECOVER);
        assert_eq!((long.len() + 28, long[0]), (12_500, 7));
        assert_eq!(Operation::Freeze.encode(LONG_FREEZE).len() + 28, 6260);
        assert!(Operation::Thaw.encode(0).is_empty());
    }
}
