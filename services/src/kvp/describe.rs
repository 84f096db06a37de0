//! Describes messages for those who read captures.

use crate::description::{Context, Description};

/// Describes the body of a message.
pub(super) fn describe(context: &Context, body: &[u8]) -> Description {
    let code = body.first().map(|&code| u32::from(code));
    let code = context.request.or(code);
    Description::new(
        match code {
            Some(0) => "GET",
            Some(1) => "SET",
            Some(2) => "DELETE",
            Some(3) => "ENUMERATE",
            Some(4) => "GET_IP_INFO",
            Some(5) => "SET_IP_INFO",
            _ => "unknown",
        },
        code,
    )
}
