//! Decodes requests and encodes replies, which are the same in both encodings.
//! Protocol section 8.

use hyperv_vmbus::ic::Status;

/// Offset of the flags, after the operation and seven reserved bytes.
pub(super) const FLAGS_AT: usize = 8;

/// Flags of the reply to a HOT_BACKUP: the host need not boot the copied disk to let the
/// guest recover.
const NO_AUTO_RECOVERY: u32 = 5;

/// A request of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Can a running guest be backed up (HOT_BACKUP)?
    HotBackup,
    /// What does the host have to know of the guest's device mapper (GET_DM_INFO)? Nothing.
    DmInfo,
    /// Freeze the file systems (FREEZE).
    Freeze,
    /// Thaw them (THAW).
    Thaw,
    /// A step of a backup that needs no action of a guest without recovery (CREATE, DELETE,
    /// BACKUP_COMPLETE, AUTO_RECOVER).
    Step,
}

/// A message is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is too short.
    #[error("message of {len} bytes is too short: expected {needed}")]
    TooShort {
        /// Its length in bytes.
        len: usize,
        /// The length that it needs.
        needed: usize,
    },
    /// Its operation is unknown.
    #[error("unknown operation {0}")]
    Unknown(u8),
}

impl Malformed {
    /// Returns the status for the host.
    pub(super) fn status(self) -> Status {
        match self {
            Self::TooShort { .. } => Status::INVALID_ARGUMENT,
            Self::Unknown(_) => Status::NOT_SUPPORTED,
        }
    }
}

/// Decodes the body of a message. Some are far longer than what is decoded.
///
/// # Errors
///
/// Any [`Malformed`].
pub fn decode(message: &[u8]) -> Result<Request, Malformed> {
    let too_short = |needed| Malformed::TooShort {
        len: message.len(),
        needed,
    };
    let operation = *message.first().ok_or(too_short(FLAGS_AT))?;
    let (request, needed) = match operation {
        2 => (Request::HotBackup, FLAGS_AT + 4),
        3 => (Request::DmInfo, FLAGS_AT + 4),
        5 => (Request::Freeze, FLAGS_AT),
        6 => (Request::Thaw, FLAGS_AT),
        0 | 1 | 4 | 7 => (Request::Step, FLAGS_AT),
        unknown => return Err(Malformed::Unknown(unknown)),
    };
    if message.len() < needed {
        return Err(too_short(needed));
    }
    Ok(request)
}

/// Writes the reply to a successful `request` over its message.
pub fn encode(request: Request, message: &mut [u8]) {
    let flags = match request {
        Request::HotBackup => NO_AUTO_RECOVERY,
        Request::DmInfo => 0,
        Request::Freeze | Request::Thaw | Request::Step => return,
    };
    let field = message.get_mut(FLAGS_AT..).unwrap_or_default();
    if let Some(field) = field.first_chunk_mut() {
        *field = flags.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_operation_is_known() {
        for (operation, request) in [
            (0, Request::Step),
            (1, Request::Step),
            (2, Request::HotBackup),
            (3, Request::DmInfo),
            (4, Request::Step),
            (5, Request::Freeze),
            (6, Request::Thaw),
            (7, Request::Step),
        ] {
            let mut message = [0xee; 12];
            message[0] = operation;
            assert_eq!(decode(&message), Ok(request));
        }
    }

    #[test]
    fn what_is_no_request() {
        let long_enough = |operation: u8| [operation, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for unknown in 8..=255 {
            assert_eq!(
                decode(&long_enough(unknown)),
                Err(Malformed::Unknown(unknown))
            );
        }
        let too_short = |len, needed| Err(Malformed::TooShort { len, needed });
        assert_eq!(decode(&[]), too_short(0, 8));
        assert_eq!(decode(&long_enough(5)[..7]), too_short(7, 8));
        assert_eq!(decode(&long_enough(5)[..8]), Ok(Request::Freeze));
        assert_eq!(decode(&long_enough(2)[..11]), too_short(11, 12));
    }

    #[test]
    fn a_backup_needs_no_recovery() {
        let mut message = [2, 0, 0, 0, 0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee, 0xee];
        encode(Request::HotBackup, &mut message);
        assert_eq!(message, [2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0xee]);
        encode(Request::DmInfo, &mut message);
        assert_eq!(message[8..], [0, 0, 0, 0, 0xee]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut message: Vec<u8>) {
            let before = message.clone();
            if let Ok(request) = decode(&message) {
                encode(request, &mut message);
                prop_assert_eq!(decode(&message), Ok(request));
            }
            prop_assert_eq!(message.len(), before.len());
        }
    }
}
