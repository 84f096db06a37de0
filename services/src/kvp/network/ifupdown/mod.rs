//! ifupdown, of Debian.

pub use self::read::{Entry, parse};

pub(super) mod read;
pub(super) mod write;
