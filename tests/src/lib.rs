//! A simulated Hyper-V host, and the scenarios that it plays with a guest.

pub mod channel;
pub mod fcopy;
pub mod ic;
pub mod port;
pub mod ring;
pub mod wait;
