//! The subcommands.

pub(crate) mod bench;
pub(crate) mod copy;
pub(crate) mod run;
