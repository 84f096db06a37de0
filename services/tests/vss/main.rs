//! The VSS service on real file systems, made for the purpose in a root of the
//! test's own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "this is a test from end to end"
)]

#[path = "../common/apart.rs"]
mod apart;
mod freeze;
mod machines;
mod open;
mod plan;
mod root;
