//! Copies that end before they are complete leave no trace.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hyperv_services::{Config, fcopy};
use hyperv_vmbus::ic::{Negotiated, Status, Version};

use crate::guest::{BOTH, CREATE_PATH, Encoding, Guest, OVERWRITE, header, names};

/// A guest in the middle of a copy that also made directories.
fn copying(encoding: Encoding) -> Guest {
    let mut guest = Guest::with(encoding, |_, _| {});
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
    assert!(names(&guest.config.environment.state_dir).is_empty());
}

#[test]
fn cancelled() {
    for encoding in BOTH {
        let mut guest = copying(encoding);
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
    let mut guest = copying(Encoding::Utf16);
    assert_eq!(guest.start("other", 0, 1), Status::OK);
    assert_no_trace(&guest);
    assert_eq!(guest.write(0, b"x"), Status::OK);
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(guest.names(), ["other"]);
}

#[test]
fn another_start_that_is_refused() {
    let mut guest = copying(Encoding::Utf16);
    assert_eq!(guest.start("..", 0, 1), Status::INVALID_ARGUMENT);
    assert!(!guest.service.busy());
    assert_no_trace(&guest);
}

#[test]
fn a_malformed_message() {
    // It may have been a part of the file.
    for encoding in BOTH {
        let mut guest = copying(encoding);
        assert_eq!(guest.send(&[1, 0, 0, 0]), Status::INVALID_ARGUMENT);
        assert_no_trace(&guest);
        assert_eq!(guest.complete(), Status::FAIL);
    }
}

#[test]
fn the_device_goes_away() {
    let mut guest = copying(Encoding::Utf16);
    guest.reopen();
    assert_no_trace(&guest);
    assert!(!guest.service.busy());
    assert_eq!(guest.complete(), Status::FAIL);
    guest.copy("file", 0, b"next");
}

#[test]
fn a_panic() {
    let guest = copying(Encoding::Utf16);
    let (directory, state) = (guest.directory, guest.config.environment.state_dir);
    let mut service = guest.service;
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        service.handle(Encoding::Utf16, &mut []);
        drop(service);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(names(directory.path()).is_empty());
    assert!(!state.exists() || names(&state).is_empty());
}

#[test]
fn a_new_negotiation() {
    let mut guest = copying(Encoding::Utf16);
    let version = Version::new(1, 1);
    let negotiated = Negotiated {
        framework: version,
        message: version,
    };
    guest.service.negotiated(negotiated);
    assert!(!guest.service.busy());
    assert_no_trace(&guest);
    guest.log.assert_says("negotiated again");
    assert_eq!(guest.write(6144, &[1; 6144]), Status::FAIL);
    let lines = guest.log.lines().len();
    guest.service.negotiated(negotiated);
    assert_eq!(guest.log.lines().len(), lines);
    guest.copy("file", 0, b"next");
}

#[test]
fn a_copy_that_stalls() {
    let mut guest = Guest::new();
    assert_eq!(guest.service.deadline(), None);
    assert_eq!(guest.start("file", 0, 100_000), Status::OK);
    let first = guest.service.deadline().unwrap();
    assert!(first > Instant::now());
    assert_eq!(guest.write(0, &[1; 6144]), Status::OK);
    // Each part puts it off.
    assert!(guest.service.deadline().unwrap() > first);
    guest.service.woken();
    assert!(guest.service.busy());
    let mut config = Config {
        fcopy: guest.config.clone(),
        ..Config::default()
    };
    config.fcopy.idle_limit = Duration::ZERO;
    assert!(guest.service.reconfigure(&config));
    guest.service.woken();
    assert!(!guest.service.busy());
    assert_eq!(guest.service.deadline(), None);
    assert_no_trace(&guest);
    let path = guest.path("file");
    let warning = format!("WARN copy failed: {path:?}: the host sent no more data for 0 s");
    guest.log.assert_says(&warning);
    assert_eq!(guest.write(6144, &[1; 6144]), Status::FAIL);
    assert_eq!(guest.complete(), Status::FAIL);
    guest.copy("file", 0, b"next");
}

/// Whether a copy in progress continues with a new configuration.
#[track_caller]
fn goes_on(change: impl FnOnce(&mut fcopy::Config, &Path)) -> Guest {
    let mut guest = Guest::with(Encoding::Utf16, |config, base| {
        fs::create_dir_all(base.join("in/deep")).unwrap();
        fs::create_dir_all(base.join("out")).unwrap();
        config.directories = vec![base.to_owned()];
    });
    let deep = guest.path("in/deep").to_str().unwrap().to_owned();
    assert_eq!(guest.start_in(&deep, "file", 0, 100), Status::OK);
    let mut config = Config {
        fcopy: guest.config.clone(),
        ..Config::default()
    };
    change(&mut config.fcopy, guest.directory.path());
    assert!(guest.service.reconfigure(&config));
    guest
}

#[test]
fn a_new_configuration_counts_for_a_copy_that_is_under_way() {
    let mut guest = goes_on(|config, base| {
        config.directories = vec![base.join("in")];
        config.max_size = Some(100);
        config.mode = 0o640;
    });
    assert_eq!(guest.write(0, &[1; 100]), Status::OK);
    assert_eq!(guest.complete(), Status::OK);
    let file = fs::metadata(guest.path("in/deep/file")).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o640);
    let started = guest.start("file", 0, 1);
    assert_eq!(started, Status::FAIL, "it counts for the next ones, too");

    type Change = fn(&mut fcopy::Config, &Path);
    let changes: [(Change, &str); 4] = [
        (
            |config, base| config.directories = vec![base.join("out")],
            "lies outside the directories",
        ),
        (
            |config, base| {
                fs::rename(base.join("in"), base.join("out/in")).unwrap();
                symlink("out/in", base.join("in")).unwrap();
                config.directories = vec![base.join("in/deep"), base.join("in")];
            },
            "",
        ),
        (
            |config, _| config.max_size = Some(99),
            "over the configured limit of 99",
        ),
        (
            |config, _| config.keep_free = Some(u64::MAX),
            "stay free (`keep-free`)",
        ),
    ];
    for (change, words) in changes {
        let mut guest = goes_on(change);
        assert_eq!(
            guest.service.busy(),
            words.is_empty(),
            "{}",
            guest.log.text()
        );
        guest.log.assert_says(words);
        let written = guest.write(0, &[1; 100]);
        assert_eq!(written == Status::OK, words.is_empty());
        assert_eq!(names(&guest.path("in/deep")), [""; 0]);
    }
    // An idle service is replaced by a new one.
    let mut guest = Guest::new();
    assert!(!guest.service.reconfigure(&Config::default()));
}

#[test]
fn a_new_configuration_of_other_services_ends_no_copy() {
    // A changed configuration of fcopy would end the copy, which could not begin again.
    let place = |base: &Path| fs::write(base.join("in/deep/file"), "");
    let guest = goes_on(|_, base| place(base).unwrap());
    assert!(guest.service.busy(), "{}", guest.log.text());
    let guest = goes_on(|config, base| {
        place(base).unwrap();
        config.mode = 0o640;
    });
    assert!(!guest.service.busy());
}

#[test]
fn nothing_in_progress() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
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

/// A separate process begins a copy and dies.
#[test]
fn the_agent_is_killed() {
    const VICTIM: &str = "HYPERV_FCOPY_TEST_VICTIM";
    if let Some(base) = std::env::var_os(VICTIM) {
        let base = Path::new(&base);
        let mut guest = Guest::with(Encoding::Utf16, |config, _| {
            config.environment.state_dir = base.join("state/new");
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

    let guest = Guest::with(Encoding::Utf16, |config, _| {
        config.environment.state_dir = base.path().join("state/new");
    });
    assert!(
        names(&base.path().join("there")).is_empty(),
        "{}",
        guest.log.text()
    );
    assert!(names(&base.path().join("state/new")).is_empty());
    guest
        .log
        .assert_says("removed a leftover of an interrupted copy");
}

#[test]
fn a_start_in_the_middle_of_nothing_but_its_header() {
    let mut guest = copying(Encoding::Utf16);
    assert_eq!(guest.send(&header(0)), Status::INVALID_ARGUMENT);
    assert_no_trace(&guest);
}
