//! What the KVP service sees of the network: interfaces made for the purpose in
//! a network namespace of the test's own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "this is a test from end to end"
)]

#[path = "../common/apart.rs"]
mod apart;
mod current;
mod facts;
mod interfaces;
mod ip_info;
mod namespace;
