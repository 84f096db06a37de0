//! A simulated Hyper-V host.

pub mod port;
