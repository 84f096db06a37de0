//! The hyperv-agent binary.

fn main() {}
