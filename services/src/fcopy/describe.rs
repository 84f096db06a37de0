//! Describes messages for those who read captures.

use crate::description::{Context, Description};

/// Describes the body of a message.
pub(super) fn describe(context: &Context, body: &[u8]) -> Description {
    let code = body.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let code = context.request.or(code);
    Description::new(
        match code {
            Some(0) => "START",
            Some(1) => "WRITE",
            Some(2) => "COMPLETE",
            Some(3) => "CANCEL",
            _ => "unknown",
        },
        code,
    )
}
