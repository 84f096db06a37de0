//! The hyperv-sim binary.

fn main() {}
