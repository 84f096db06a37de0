//! `ifcfg` files of Red Hat and SUSE.

pub use self::read::parse;

pub(super) mod read;
pub(super) mod write;
