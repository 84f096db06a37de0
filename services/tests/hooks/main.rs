//! The administrator's hooks: which are run, in which order, and what becomes of
//! those that fail.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "this is a test from end to end"
)]

mod databases;
mod directory;
mod running;
mod selection;
