//! The subcommands.

pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod copy;
pub(crate) mod figures;
pub(crate) mod freeze_chaos;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod soak;
