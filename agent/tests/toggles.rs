//! Offers and removes a device again and again. In its own process, to count what stays
//! behind.

#![expect(clippy::unwrap_used)]

mod common;

use std::thread;
use std::time::Instant;

use common::{Guest, LONG, ONE};

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

fn descriptors_and_threads() -> (usize, usize) {
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[test]
fn twenty_rounds_leave_no_descriptor_and_no_thread() {
    let guest = Guest::start(&[&ONE]);
    guest.log.wait_for("waiting for the host to offer one");
    let before = descriptors_and_threads();
    for round in 1..=20 {
        guest.offer(&ONE);
        let mut device = guest.opened(&ONE);
        device.call(b"request");
        guest.withdraw(&ONE);
        device.wait_closed();
        guest.log.wait_for_count("no longer served", round);
    }
    // The last worker ends right after its last line.
    let deadline = Instant::now() + LONG;
    while descriptors_and_threads() != before && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(descriptors_and_threads(), before);
    guest.stop();
}
