//! The host's hand in the guest: a small program on the guest's second serial
//! port that does what scenarios ask for there.
//!
//! A request is a line of JSON, and so is its reply; each has a number, so that
//! a reply which comes late is not taken for another's.

mod client;
mod files;
mod helper;
mod network;
mod program;
mod request;
mod sparse;
mod volumes;

pub use client::Guest;
pub use files::RemoteFiles;
pub use helper::Helper;
pub use network::GuestNetwork;
pub use request::{Digest, Numbered, Reply, Request};
pub use volumes::GuestVolumes;

/// Where the guest has the helper.
pub const HELPER: &str = "/bin/hyperv-vm-guest";

/// The serial port, in the guest.
pub const PORT: &str = "/dev/ttyS1";
