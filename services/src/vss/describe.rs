//! Describes messages for those who read captures.

use crate::description::{Context, Description};

/// Describes the body of a message.
pub(super) fn describe(context: &Context, body: &[u8]) -> Description {
    let code = body.first().map(|&code| u32::from(code));
    let code = context.request.or(code);
    Description::new(
        match code {
            Some(0) => "CREATE",
            Some(1) => "DELETE",
            Some(2) => "HOT_BACKUP",
            Some(3) => "GET_DM_INFO",
            Some(4) => "BACKUP_COMPLETE",
            Some(5) => "FREEZE",
            Some(6) => "THAW",
            Some(7) => "AUTO_RECOVER",
            _ => "unknown",
        },
        code,
    )
}
