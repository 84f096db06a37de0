//! Limits, and disks that fill up.

use std::fs;

use hyperv_vmbus::ic::Status;
use rustix::fs::statvfs;

use crate::apart::program;
use crate::guest::{BOTH, CREATE_PATH, Encoding, Guest, Mounted, OVERWRITE, data, in_own_mounts};

#[test]
fn a_size_limit() {
    let mut guest = Guest::with(Encoding::Utf16, |config, _| config.max_size = Some(10));
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
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
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

/// What others may still take of the directory's file system, in bytes.
fn available(guest: &Guest) -> u64 {
    let fs = statvfs(guest.directory.path()).unwrap();
    fs.f_bavail * fs.f_frsize
}

#[test]
fn the_last_of_a_disk_stays_free() {
    if !in_own_mounts("space::the_last_of_a_disk_stays_free") {
        return;
    }
    for (keep_free, kept) in [
        (None, (20 << 20) / 20),
        (Some(5 << 20), 5 << 20),
        (Some(0), 0),
    ] {
        let mut guest = Guest::with(Encoding::Utf16, |config, _| {
            config.keep_free = keep_free;
            // The thread that sets the disk to work may have the file for longer.
            config.sync = false;
        });
        let _mounted = Mounted::tmpfs("size=20m", guest.directory.path());
        let all = available(&guest);
        assert_eq!(guest.start("all", 0, all - kept + 1), Status::DISK_FULL);
        if kept > 0 {
            guest
                .log
                .assert_says(&format!("{kept} of them stay free (`keep-free`)"));
        }
        assert_eq!(guest.start("most", 0, all - kept), Status::OK);
        assert_eq!(available(&guest), kept);
        assert_eq!(guest.cancel(), Status::OK);
        assert_eq!(available(&guest), all);

        // The host sends more than it announced.
        assert_eq!(guest.start("grows", 0, 10), Status::OK);
        let full = (0..).find(|i| guest.write(i * 6144, &[1; 6144]) == Status::DISK_FULL);
        let (written, left) = (full.unwrap() * 6144, all - kept);
        assert!(
            written <= left && left - written < 16 << 10,
            "{written} of {left}"
        );
        assert_eq!(available(&guest), all);
        assert_eq!(guest.start("far", 0, 10), Status::OK);
        assert_eq!(guest.write(1 << 40, &[1]), Status::DISK_FULL);
        assert_eq!(available(&guest), all);
    }
}

#[test]
fn what_is_reserved_for_root_is_not_used() {
    if !in_own_mounts("space::what_is_reserved_for_root_is_not_used") {
        return;
    }
    let mut guest = Guest::with(Encoding::Utf16, |config, _| config.keep_free = Some(0));
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(16 << 20).unwrap();
    // Half of it is root's.
    let made = program("mkfs.ext4")
        .args(["-q", "-m", "50"])
        .arg(image.path())
        .status();
    assert!(made.unwrap().success());
    let options = ["-o", "loop", image.path().to_str().unwrap()];
    let _mounted = Mounted::new(&options, guest.directory.path());
    let fs = statvfs(guest.directory.path()).unwrap();
    let (all, roots) = (
        fs.f_bavail * fs.f_frsize,
        (fs.f_bfree - fs.f_bavail) * fs.f_frsize,
    );
    assert!(roots > 4 << 20, "{roots} of {all}");
    assert_eq!(guest.start("file", 0, all + 1), Status::DISK_FULL);
    assert_eq!(guest.start("file", 0, 1), Status::OK);
    let full = (0..).find(|i| guest.write(i * 6144, &[1; 6144]) == Status::DISK_FULL);
    assert!(full.unwrap() * 6144 <= all, "{full:?} of {all}");
    let after = statvfs(guest.directory.path()).unwrap();
    assert!(after.f_bfree * after.f_frsize >= roots);
}
