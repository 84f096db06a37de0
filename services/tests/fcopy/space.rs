//! Limits, and disks that fill up.

use std::fs;

use hyperv_vmbus::ic::Status;
use rustix::fs::statvfs;

use crate::guest::{BOTH, CREATE_PATH, Guest, Mounted, OVERWRITE, Transport, data, in_own_mounts};

#[test]
fn a_size_limit() {
    let mut guest = Guest::with(Transport::Uio, |config, _| config.max_size = Some(10));
    guest.copy("fits", 0, b"0123456789");
    assert_eq!(guest.start("announced", 0, 11), Status::INVALID_ARGUMENT);
    guest.log.assert_says("over the configured limit of 10");
    assert_eq!(guest.start("sent", 0, 10), Status::OK);
    assert_eq!(guest.write(5, b"567890"), Status::INVALID_ARGUMENT);
    assert_eq!(guest.complete(), Status::FAIL);
    assert_eq!(guest.names(), ["fits"]);
}

#[test]
fn sizes_that_no_file_has() {
    for transport in BOTH {
        let mut guest = Guest::with(transport, |_, _| {});
        for size in [u64::MAX, 1 << 63] {
            assert_eq!(
                guest.start("file", CREATE_PATH, size),
                Status::INVALID_ARGUMENT
            );
        }
        // A file could have it, this disk does not.
        assert_eq!(guest.start("file", 0, i64::MAX as u64), Status::DISK_FULL);
        assert!(guest.names().is_empty());
    }
}

#[test]
fn full_at_the_start() {
    if !in_own_mounts("space::full_at_the_start") {
        return;
    }
    let mut guest = Guest::new();
    let _mounted = Mounted::tmpfs("size=1m", guest.directory.path());
    assert_eq!(guest.start("file", 0, 2 << 20), Status::DISK_FULL);
    guest.log.assert_says("no room for 2097152 bytes");
    assert!(!guest.service.busy());
    assert!(guest.names().is_empty());
    let deep = guest.path("a/b").to_str().unwrap().to_owned();
    assert_eq!(
        guest.start_in(&deep, "file", CREATE_PATH, 2 << 20),
        Status::DISK_FULL
    );
    assert!(guest.names().is_empty());
    guest.copy("fits", 0, &data(500_000));
}

#[test]
fn full_midway() {
    if !in_own_mounts("space::full_midway") {
        return;
    }
    let mut guest = Guest::new();
    let _mounted = Mounted::tmpfs("size=1m", guest.directory.path());
    fs::write(guest.path("old"), "old").unwrap();
    let free = || statvfs(guest.directory.path()).unwrap().f_bfree;
    let before = free();
    let mut offset = 0;
    // The host sends more than it announced.
    for name in ["new", "old"] {
        assert_eq!(guest.start(name, OVERWRITE, 10), Status::OK);
        let status = loop {
            match guest.write(offset, &[1; 6144]) {
                Status::OK => offset += 6144,
                status => break status,
            }
            assert!(offset < 2 << 20, "more went in than there is room");
        };
        assert_eq!(status, Status::DISK_FULL);
        assert_eq!(guest.complete(), Status::FAIL);
        offset = 0;
    }
    assert_eq!(guest.names(), ["old"]);
    assert_eq!(fs::read(guest.path("old")).unwrap(), b"old");
    assert_eq!(statvfs(guest.directory.path()).unwrap().f_bfree, before);
}

#[test]
fn space_is_reserved_at_the_start() {
    if !in_own_mounts("space::space_is_reserved_at_the_start") {
        return;
    }
    let mut guest = Guest::new();
    let _mounted = Mounted::tmpfs("size=1m", guest.directory.path());
    assert_eq!(guest.start("file", 0, 800_000), Status::OK);
    // What somebody else writes meanwhile cannot take it.
    assert!(fs::write(guest.path("other"), data(500_000)).is_err());
    let data = data(800_000);
    guest.write_all(&data);
    assert_eq!(guest.complete(), Status::OK);
    assert!(fs::read(guest.path("file")).unwrap() == data);
}
