//! With a list of directories, nothing is written elsewhere.

use std::fs;
use std::os::unix::fs::symlink;

use hyperv_vmbus::ic::Status;

use crate::guest::{CREATE_PATH, Encoding, Guest, OVERWRITE, names};

/// Two allowed directories, `in` and `also/in`, and `out` beside them.
fn guest() -> Guest {
    let guest = Guest::with(Encoding::Utf16, |config, base| {
        config.directories = vec![base.join("in"), base.join("also/in")];
    });
    for directory in ["in/deep", "also/in", "out", "inside"] {
        fs::create_dir_all(guest.path(directory)).unwrap();
    }
    guest
}

fn start_in(guest: &mut Guest, directory: &str, name: &str, flags: u32) -> Status {
    let directory = guest.path(directory).to_str().unwrap().to_owned();
    guest.start_in(&directory, name, flags, 1)
}

#[track_caller]
fn assert_refused(guest: &mut Guest, directory: &str, name: &str) {
    for flags in [0, CREATE_PATH, OVERWRITE, OVERWRITE | CREATE_PATH] {
        assert_eq!(
            start_in(guest, directory, name, flags),
            Status::FAIL,
            "{directory}"
        );
        guest.log.assert_says("lies outside the directories");
    }
    assert!(names(&guest.path("out")).is_empty());
}

#[track_caller]
fn assert_allowed(guest: &mut Guest, directory: &str, name: &str, flags: u32) {
    assert_eq!(
        start_in(guest, directory, name, flags),
        Status::OK,
        "{}",
        guest.log.text()
    );
    assert_eq!(guest.write(0, b"x"), Status::OK);
    assert_eq!(guest.complete(), Status::OK, "{}", guest.log.text());
}

#[test]
fn inside() {
    let mut guest = guest();
    assert_allowed(&mut guest, "in", "f", 0);
    assert_allowed(&mut guest, "in/deep", "f", 0);
    assert_allowed(&mut guest, "also/in", "f", 0);
    assert_allowed(&mut guest, "in/new/er", "f", CREATE_PATH);
    assert_eq!(names(&guest.path("in/new/er")), ["f"]);
}

#[test]
fn outside() {
    let mut guest = guest();
    for directory in ["", "out", "also", "out/new"] {
        assert_refused(&mut guest, directory, "f");
    }
    // Names are compared by component.
    assert_refused(&mut guest, "inside", "f");
    // An allowed directory is not itself a file that may be written.
    assert_refused(&mut guest, "", "in");
}

#[test]
fn nothing_is_allowed_by_an_empty_list() {
    let mut guest = Guest::with(Encoding::Utf16, |config, _| config.directories.clear());
    assert_eq!(guest.start("f", 0, 1), Status::FAIL);
    assert!(guest.names().is_empty());
}

#[test]
fn links_that_lead_out() {
    let mut guest = guest();
    symlink(guest.path("out"), guest.path("in/absolute")).unwrap();
    symlink("../out", guest.path("in/relative")).unwrap();
    symlink("..", guest.path("in/up")).unwrap();
    symlink("/", guest.path("in/root")).unwrap();
    for directory in [
        "in/absolute",
        "in/relative",
        "in/up",
        "in/up/out",
        "in/root",
        "in/relative/new",
    ] {
        assert_refused(&mut guest, directory, "f");
    }
}

#[test]
fn links_that_stay_inside() {
    let mut guest = guest();
    symlink("deep", guest.path("in/link")).unwrap();
    symlink("../deep", guest.path("in/deep/again")).unwrap();
    assert_allowed(&mut guest, "in/link", "a", 0);
    assert_allowed(&mut guest, "in/link/again", "b", 0);
    assert_allowed(&mut guest, "in/link/new", "c", CREATE_PATH);
    assert_eq!(names(&guest.path("in/deep")), ["a", "again", "b", "new"]);
}

#[test]
fn overwriting_through_a_link() {
    let mut guest = guest();
    for file in ["out/f", "in/deep/f", "also/in/f"] {
        fs::write(guest.path(file), "old").unwrap();
    }
    symlink("../out/f", guest.path("in/relative")).unwrap();
    symlink(guest.path("out/f"), guest.path("in/absolute")).unwrap();
    symlink(guest.path("in/../out/f"), guest.path("in/tricky")).unwrap();
    symlink("deep/f", guest.path("in/good")).unwrap();
    symlink(guest.path("also/in/f"), guest.path("in/good-absolute")).unwrap();
    for name in ["relative", "absolute", "tricky"] {
        assert_eq!(
            start_in(&mut guest, "in", name, OVERWRITE),
            Status::FAIL,
            "{name}"
        );
        assert_eq!(start_in(&mut guest, "in", name, 0), Status::ALREADY_EXISTS);
    }
    assert_eq!(fs::read(guest.path("out/f")).unwrap(), b"old");
    assert_allowed(&mut guest, "in", "good", OVERWRITE);
    assert_allowed(&mut guest, "in", "good-absolute", OVERWRITE);
    assert_eq!(fs::read(guest.path("in/deep/f")).unwrap(), b"x");
    assert_eq!(fs::read(guest.path("also/in/f")).unwrap(), b"x");
}

#[test]
fn a_missing_allowed_directory_is_not_made() {
    let mut guest = guest();
    fs::remove_dir_all(guest.path("also")).unwrap();
    assert_eq!(
        start_in(&mut guest, "also/in", "f", CREATE_PATH),
        Status::FAIL
    );
    guest.log.assert_says("also/in");
    assert!(!guest.path("also").exists());
}
