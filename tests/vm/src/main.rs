//! Boots a guest under the monitor.

fn main() {}
