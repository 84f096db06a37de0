//! Copies that end before they are complete leave no trace.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use hyperv_vmbus::ic::Status;

use crate::guest::{BOTH, CREATE_PATH, Guest, OVERWRITE, Transport, header, names};

/// A guest in the middle of a copy that also made directories.
fn copying(transport: Transport) -> Guest {
    let mut guest = Guest::with(transport, |_, _| {});
    let deep = guest.path("a/b").to_str().unwrap().to_owned();
    assert_eq!(
        guest.start_in(&deep, "file", CREATE_PATH, 100_000),
        Status::OK
    );
    assert_eq!(guest.write(0, &[1; 6144]), Status::OK);
    assert!(guest.service.busy());
    guest
}

#[track_caller]
fn assert_no_trace(guest: &Guest) {
    assert!(guest.names().is_empty());
    assert!(names(&guest.config.state_directory).is_empty());
}

#[test]
fn cancelled() {
    for transport in BOTH {
        let mut guest = copying(transport);
        assert_eq!(guest.cancel(), Status::OK);
        assert!(!guest.service.busy());
        assert_no_trace(&guest);
        assert_eq!(guest.complete(), Status::FAIL);
        assert_no_trace(&guest);
        guest.copy("file", 0, b"next");
    }
}

#[test]
fn another_start() {
    let mut guest = copying(Transport::Uio);
    assert_eq!(guest.start("other", 0, 1), Status::OK);
    assert_no_trace(&guest);
    assert_eq!(guest.write(0, b"x"), Status::OK);
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(guest.names(), ["other"]);
}

#[test]
fn another_start_that_is_refused() {
    let mut guest = copying(Transport::Uio);
    assert_eq!(guest.start("..", 0, 1), Status::INVALID_ARGUMENT);
    assert!(!guest.service.busy());
    assert_no_trace(&guest);
}

#[test]
fn a_malformed_message() {
    // It may have been a part of the file.
    for transport in BOTH {
        let mut guest = copying(transport);
        assert_eq!(guest.send(&[1, 0, 0, 0]), Status::INVALID_ARGUMENT);
        assert_no_trace(&guest);
        assert_eq!(guest.complete(), Status::FAIL);
    }
}

#[test]
fn the_device_goes_away() {
    let mut guest = copying(Transport::Uio);
    guest.reopen();
    assert_no_trace(&guest);
    assert!(!guest.service.busy());
    assert_eq!(guest.complete(), Status::FAIL);
    guest.copy("file", 0, b"next");
}

#[test]
fn a_panic() {
    let guest = copying(Transport::Uio);
    let (directory, state) = (guest.directory, guest.config.state_directory);
    let mut service = guest.service;
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        service.handle_uio(&mut []);
        drop(service);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(names(directory.path()).is_empty());
    assert!(!state.exists() || names(&state).is_empty());
}

#[test]
fn nothing_in_progress() {
    for transport in BOTH {
        let mut guest = Guest::with(transport, |_, _| {});
        assert!(!guest.service.busy());
        assert_eq!(guest.cancel(), Status::OK);
        assert_eq!(guest.complete(), Status::FAIL);
        assert_eq!(guest.write(0, b"x"), Status::FAIL);
        assert_eq!(guest.cancel(), Status::OK);
        guest.copy("file", 0, b"x");
        assert!(!guest.service.busy());
        assert_eq!(guest.complete(), Status::FAIL);
        assert_eq!(guest.cancel(), Status::OK);
        assert_eq!(guest.names(), ["file"]);
    }
}

/// In a process of its own, a copy is begun and the process dies.
#[test]
fn the_agent_is_killed() {
    const VICTIM: &str = "HYPERV_FCOPY_TEST_VICTIM";
    if let Some(base) = std::env::var_os(VICTIM) {
        let base = Path::new(&base);
        let mut guest = Guest::with(Transport::Uio, |config, _| {
            config.state_directory = base.join("state/new");
        });
        let deep = base.join("there/a/b").to_str().unwrap().to_owned();
        let status = guest.start_in(&deep, "file", CREATE_PATH | OVERWRITE, 10);
        assert_eq!(status, Status::OK);
        assert_eq!(guest.write(0, b"x"), Status::OK);
        // No destructor runs, as under kill -9.
        std::process::abort();
    }
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("there")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifetime::the_agent_is_killed"])
        .env(VICTIM, base.path())
        .env("TMPDIR", base.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    // No file, whole or half, at any time; directories until the next start.
    assert_eq!(names(&base.path().join("there/a")), ["b"], "{output:?}");
    assert!(names(&base.path().join("there/a/b")).is_empty());

    let guest = Guest::with(Transport::Uio, |config, _| {
        config.state_directory = base.path().join("state/new");
    });
    assert!(
        names(&base.path().join("there")).is_empty(),
        "{}",
        guest.log.text()
    );
    assert!(names(&base.path().join("state/new")).is_empty());
    guest
        .log
        .assert_says("removed what an interrupted copy left");
}

#[test]
fn a_start_in_the_middle_of_nothing_but_its_header() {
    let mut guest = copying(Transport::Uio);
    assert_eq!(guest.send(&header(0)), Status::INVALID_ARGUMENT);
    assert_no_trace(&guest);
}
