//! One line when a copy starts, one when it ends.

use hyperv_vmbus::ic::Status;

use crate::guest::{CREATE_PATH, Guest, OVERWRITE};

#[test]
fn a_copy_is_two_lines() {
    let mut guest = Guest::new();
    guest.copy("file", OVERWRITE | CREATE_PATH, &[1; 100_000]);
    let path = guest.path("file");
    let lines = guest.log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let started =
        format!("INFO copy started: {path:?}, 100000 bytes, may overwrite, may create its path");
    assert!(lines[0].starts_with(&started), "{}", lines[0]);
    let finished = format!("INFO copy finished: {path:?}, 100000 bytes in ");
    assert!(lines[1].starts_with(&finished), "{}", lines[1]);
    assert!(
        lines[1].contains(" s, ") && lines[1].contains(" MiB/s"),
        "{}",
        lines[1]
    );
}

#[test]
fn a_cancelled_copy_is_two_lines() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("file", 0, 100), Status::OK);
    assert_eq!(guest.cancel(), Status::OK);
    let lines = guest.log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("WARN copy cancelled"));
    assert!(lines[1].contains(": the host cancelled it"));
}

#[test]
fn a_failed_copy_is_two_lines_however_much_comes_after() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("file", 0, 100), Status::OK);
    assert_eq!(guest.write_stating(0, 7000, b""), Status::INVALID_ARGUMENT);
    for _ in 0..100 {
        assert_eq!(guest.write(0, b"x"), Status::FAIL);
    }
    assert_eq!(guest.complete(), Status::FAIL);
    assert_eq!(guest.cancel(), Status::OK);
    let lines = guest.log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("WARN copy failed"));
    assert!(lines[1].contains("states 7000 bytes"));
}

#[test]
fn a_copy_that_is_refused_at_once_is_one_line() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("a/b", 0, 100), Status::INVALID_ARGUMENT);
    let lines = guest.log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("WARN copy failed"));
    assert!(lines[0].contains("is not a single path component"));
}

#[test]
fn the_end_of_a_copy_is_an_event() {
    let expect = |guest: &Guest, outcome: &str| {
        let each = guest.log.fields();
        let events = each.iter().filter(|fields| !fields.is_empty()).count();
        assert_eq!(events, 1, "{each:?}");
        let mut last = each.into_iter().next_back().unwrap();
        last.sort();
        let outcome = format!("HYPERV_OUTCOME={outcome}");
        assert_eq!(last, ["HYPERV_EVENT=copy".to_owned(), outcome]);
    };
    let mut guest = Guest::new();
    guest.copy("file", 0, b"x");
    expect(&guest, "finished");
    let mut guest = Guest::new();
    guest.start("file", 0, 100);
    guest.cancel();
    expect(&guest, "cancelled");
    let mut guest = Guest::new();
    guest.start("a/b", 0, 100);
    expect(&guest, "failed");
}

#[test]
fn strays_are_logged_once() {
    let mut guest = Guest::new();
    for _ in 0..100 {
        assert_eq!(guest.complete(), Status::FAIL);
        assert_eq!(guest.send(b"junk"), Status::INVALID_ARGUMENT);
    }
    let lines = guest.log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("no copy is in progress"));
}

#[test]
fn names_cannot_forge_lines_and_stay_readable() {
    let mut guest = Guest::new();
    let name = "Grüße 文件\nroot logged in\u{1b}[2J\u{202e}";
    guest.copy(name, 0, b"x");
    assert_eq!(guest.start(name, 0, 1), Status::ALREADY_EXISTS);
    assert_eq!(guest.start("x\n/y", 0, 1), Status::INVALID_ARGUMENT);
    for line in guest.log.lines() {
        assert!(!line.contains(['\n', '\u{1b}', '\u{202e}']), "{line:?}");
    }
    guest.log.assert_says("Grüße 文件");
}

#[test]
fn a_copy_that_is_cut_short_says_by_what() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("one", 0, 100), Status::OK);
    assert_eq!(guest.start("two", 0, 100), Status::OK);
    guest.reopen();
    let lines = guest.log.lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[1].contains("copy cancelled") && lines[1].contains("the host started another"));
    assert!(lines[3].contains("copy cancelled") && lines[3].contains("the device was closed"));
}
