//! The file-copy service as a channel's worker drives it: requests in, statuses
//! out, and what becomes of the file.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "this is a test from end to end"
)]

#[path = "../common/apart.rs"]
mod apart;
mod basics;
mod confined;
mod guest;
mod lifetime;
mod logs;
mod overwrite;
mod paths;
mod plain;
mod planted;
mod privileged;
mod racing;
mod space;
