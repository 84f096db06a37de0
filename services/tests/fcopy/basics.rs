//! Data arrives, in any order, and a request that lies is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use hyperv_services::counters::{Copies, ServiceRecord};
use hyperv_services::progress::Operation;
use hyperv_vmbus::ic::Status;

use crate::guest::{BOTH, Encoding, Guest, OVERWRITE, data, header};

#[test]
fn a_file_arrives() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
        let data = data(100_000);
        guest.copy("file", 0, &data);
        assert_eq!(fs::read(guest.path("file")).unwrap(), data);
        assert_eq!(guest.names(), ["file"]);
    }
}

#[test]
fn a_large_file_arrives_with_and_without_sync() {
    for sync in [true, false] {
        let mut guest = Guest::with(Encoding::Utf16, |config, _| config.sync = sync);
        let data = data(20 << 20);
        guest.copy("file", 0, &data);
        assert!(fs::read(guest.path("file")).unwrap() == data);
    }
}

#[test]
fn copies_are_counted_by_outcome() {
    let mut guest = Guest::new();
    let record = std::sync::Arc::<ServiceRecord>::default();
    guest.service.record_in(&record);
    guest.copy("file", 0, &data(10_000));
    assert_ne!(guest.start("file", 0, 1), Status::OK, "it exists");
    for name in ["one", "two"] {
        assert_eq!(guest.start(name, 0, 100), Status::OK);
        assert_eq!(guest.write(0, &data(10)), Status::OK);
    }
    assert_eq!(guest.cancel(), Status::OK);
    let expected = Copies {
        bytes: 10_020.into(),
        finished: 1.into(),
        failed: 1.into(),
        cancelled: 2.into(),
    };
    assert_eq!(record.counters.fcopy, expected);
}

#[test]
fn an_empty_file_arrives() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
        guest.copy("file", 0, b"");
        assert_eq!(fs::metadata(guest.path("file")).unwrap().len(), 0);
    }
}

#[test]
fn one_after_the_other() {
    let mut guest = Guest::new();
    guest.copy("one", 0, b"1");
    guest.copy("two", 0, b"22");
    assert_eq!(fs::read(guest.path("one")).unwrap(), b"1");
    assert_eq!(fs::read(guest.path("two")).unwrap(), b"22");
}

#[test]
fn a_new_file_has_mode_0744() {
    let mut guest = Guest::new();
    guest.copy("file", 0, b"x");
    let mode = fs::metadata(guest.path("file"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o744);
}

#[test]
fn a_new_file_has_the_configured_mode() {
    let mut guest = Guest::with(Encoding::Utf16, |config, _| config.mode = 0o622);
    guest.copy("new", 0, b"x");
    guest.copy("with-flag", OVERWRITE, b"x");
    for name in ["new", "with-flag"] {
        let mode = fs::metadata(guest.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o622);
    }
}

#[test]
fn nothing_is_seen_before_the_end() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("file", 0, 3), Status::OK);
    assert!(guest.names().is_empty());
    assert_eq!(guest.write(0, b"abc"), Status::OK);
    assert!(guest.names().is_empty());
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(guest.names(), ["file"]);
}

#[test]
fn parts_come_in_any_order_and_overlap() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("file", 0, 10), Status::OK);
    for (offset, part) in [(8, &b"89"[..]), (0, b"01"), (4, b"4567"), (1, b"12345")] {
        assert_eq!(guest.write(offset, part), Status::OK);
    }
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"0123456789");
}

#[test]
fn backwards() {
    let mut guest = Guest::new();
    let data = data(6144 * 3000);
    assert_eq!(guest.start("file", 0, data.len() as u64), Status::OK);
    for (i, part) in data.chunks(6144).enumerate().rev() {
        assert_eq!(guest.write(i as u64 * 6144, part), Status::OK);
    }
    assert_eq!(guest.complete(), Status::OK);
    assert!(fs::read(guest.path("file")).unwrap() == data);
}

#[test]
fn a_hole_is_a_failure() {
    for offset in [1, 4096, 1 << 21] {
        let mut guest = Guest::new();
        assert_eq!(guest.start("file", 0, 10), Status::OK);
        assert_eq!(guest.write(offset, b"x"), Status::OK);
        assert_eq!(guest.complete(), Status::FAIL);
        assert!(guest.names().is_empty());
        guest.log.assert_says("never sent bytes 0 to");
    }
}

#[test]
fn another_size_than_announced_is_logged() {
    for announced in [2, 0, 1 << 20] {
        let mut guest = Guest::new();
        assert_eq!(guest.start("file", 0, announced), Status::OK);
        assert_eq!(guest.write(0, b"abc"), Status::OK);
        assert_eq!(guest.complete(), Status::OK);
        assert_eq!(fs::read(guest.path("file")).unwrap(), b"abc");
        guest
            .log
            .assert_says(&format!("although {announced} bytes were announced"));
        // What was reserved and not needed was given back.
        assert!(fs::metadata(guest.path("file")).unwrap().blocks() <= 128);
    }
}

#[test]
fn sizes_and_offsets_that_lie() {
    let long = vec![7; 7000];
    for encoding in BOTH {
        for (offset, size, data) in [
            (0, 6145, &long[..]),
            (0, u32::MAX, &long),
            (0, 100, b"short"),
            (u64::MAX, 1, b"x"),
            (u64::MAX - 1, 6144, &long[..6144]),
            (i64::MAX as u64, 1, b"x"),
        ] {
            let mut guest = Guest::with(encoding, |_, _| {});
            assert_eq!(guest.start("file", 0, 5), Status::OK);
            let status = guest.write_stating(offset, size, data);
            assert_eq!(status, Status::INVALID_ARGUMENT, "{offset} {size}");
            // A part is missing, whatever comes now.
            assert!(!guest.service.busy());
            assert_eq!(guest.write(0, b"hello"), Status::FAIL);
            assert_eq!(guest.complete(), Status::FAIL);
            assert!(guest.names().is_empty());
        }
    }
}

#[test]
fn a_write_may_be_cut_to_its_data() {
    let mut guest = Guest::with(Encoding::Utf8, |_, _| {});
    assert_eq!(guest.start("file", 0, 1), Status::OK);
    assert_eq!(guest.write(0, b"x"), Status::OK);
    assert_eq!(guest.write(1, b""), Status::OK);
    assert_eq!(guest.complete(), Status::OK);
}

#[test]
fn messages_that_are_too_short_or_mean_nothing() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
        for len in [0, 1, 35] {
            assert_eq!(guest.send(&vec![0; len]), Status::INVALID_ARGUMENT);
        }
        assert_eq!(guest.send(&header(0)), Status::INVALID_ARGUMENT);
        assert_eq!(guest.send(&header(1)), Status::INVALID_ARGUMENT);
        assert_eq!(guest.send(&header(4)), Status::INVALID_ARGUMENT);
        guest.copy("file", 0, b"still works");
    }
}

#[test]
fn a_copy_shows_how_far_it_is() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
        let progress = guest.service.progress().unwrap();
        assert_eq!(progress.snapshot(), None);
        assert_eq!(guest.start("file", 0, 6), Status::OK);
        let copying = |name: &str, done, size| Operation::Copying {
            path: guest.path(name).display().to_string(),
            done,
            size,
        };
        let [none, three, six] = [0, 3, 6].map(|done| copying("file", done, 6));
        let second = copying("two", 0, 1);
        let operation = || progress.snapshot().unwrap().operation;
        assert_eq!(operation(), none);
        assert_eq!(guest.write(0, b"abc"), Status::OK);
        assert_eq!(operation(), three);
        // What follows a hole does not count.
        assert_eq!(guest.write(5, b"f"), Status::OK);
        assert_eq!(operation(), three);
        assert_eq!(guest.write(3, b"de"), Status::OK);
        assert_eq!(operation(), six);
        assert_eq!(guest.complete(), Status::OK);
        assert_eq!(progress.snapshot(), None);

        assert_eq!(guest.start("file", 0, 1), Status::ALREADY_EXISTS);
        assert_eq!(progress.snapshot(), None);
        assert_eq!(guest.start("one", 0, 1), Status::OK);
        assert_eq!(guest.start("two", 0, 1), Status::OK);
        assert_eq!(operation(), second);
        assert_eq!(guest.cancel(), Status::OK);
        assert_eq!(progress.snapshot(), None);
    }
}

#[test]
fn scattered_beyond_reason() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("file", 0, 5), Status::OK);
    let refused = (0..10_000).find(|i| guest.write(1 + i * 2, b"x") != Status::OK);
    assert_eq!(refused, Some(4096));
    assert!(!guest.service.busy());
    guest.log.assert_says("too many separate parts");
}
