//! A simulated Hyper-V host.

pub mod blackbox;
pub mod port;
