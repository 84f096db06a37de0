//! Where a file goes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use hyperv_vmbus::ic::Status;

use crate::guest::{BOTH, CREATE_PATH, Encoding, Guest, OVERWRITE, names};

#[test]
fn names_in_full_unicode() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
        for name in [
            "Grüße.txt",
            "文件",
            "🦀 crab",
            "e\u{301}",
            "a:b",
            "\u{10ffff}",
            "new\nline",
        ] {
            fs::create_dir(guest.path("d")).unwrap();
            let directory = guest.path("d").to_str().unwrap().to_owned();
            guest.copy_to(
                &format!("{directory}/{name}/{name}"),
                name,
                CREATE_PATH,
                b"x",
            );
            let file = Path::new(&directory).join(name).join(name).join(name);
            assert_eq!(fs::read(file).unwrap(), b"x");
            fs::remove_dir_all(guest.path("d")).unwrap();
        }
    }
}

#[test]
fn names_that_are_not_unicode() {
    let mut uio = Guest::new();
    let mut hvutil = Guest::with(Encoding::Utf8, |_, _| {});
    for bytes in [
        &[0x00, 0xd8][..],
        &[0x00, 0xdc],
        &[0x61, 0x00, 0x00, 0xd8, 0x61, 0x00],
    ] {
        assert_eq!(
            uio.start_raw(b"/\0t\0m\0p\0", bytes, 0, 1),
            Status::INVALID_ARGUMENT
        );
        assert_eq!(uio.start_raw(bytes, b"f\0", 0, 1), Status::INVALID_ARGUMENT);
    }
    for bytes in [&b"\xff"[..], b"\xed\xa0\x80"] {
        assert_eq!(
            hvutil.start_raw(b"/tmp", bytes, 0, 1),
            Status::INVALID_ARGUMENT
        );
        assert_eq!(
            hvutil.start_raw(bytes, b"f", 0, 1),
            Status::INVALID_ARGUMENT
        );
    }
    let full = [b'x'; 520];
    for guest in [&mut uio, &mut hvutil] {
        assert_eq!(guest.start_raw(b"", &full, 0, 1), Status::INVALID_ARGUMENT);
        assert_eq!(
            guest.start_raw(&full, b"f\0", 0, 1),
            Status::INVALID_ARGUMENT
        );
    }
}

#[test]
fn file_names_that_are_not_one_component() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("d")).unwrap();
    for name in ["", ".", "..", "/", "d/f", "../f", "f/", "/etc/f"] {
        for flags in [0, OVERWRITE, OVERWRITE | CREATE_PATH] {
            assert_eq!(
                guest.start(name, flags, 1),
                Status::INVALID_ARGUMENT,
                "{name:?}"
            );
        }
    }
    assert_eq!(guest.names(), ["d"]);
}

#[test]
fn paths_of_windows_are_refused_and_make_nothing() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
        let base = guest.directory.path().to_str().unwrap().to_owned();
        for (directory, name) in [
            ("C:\\tmp", "f"),
            ("C:", "f"),
            ("c:/tmp", "f"),
            ("C:tmp", "f"),
            ("", "C:f"),
            ("\\tmp\\x", "f"),
            ("\\\\server\\share", "f"),
            (&format!("{base}\\x"), "f"),
            (&format!("{base}/x\\"), "f"),
            (&base, "x\\f"),
            (&base, "C:\\tmp\\f"),
        ] {
            assert_eq!(
                guest.start_in(directory, name, OVERWRITE | CREATE_PATH, 1),
                Status::INVALID_ARGUMENT,
                "{directory:?} {name:?}"
            );
        }
        guest.log.assert_says("-DestinationPath /srv/in/");
        assert!(guest.names().is_empty());
        for appeared in ["/C:", "/c:", "/C:tmp", "/C:f", "/C:\\tmp", "/\\tmp\\x"] {
            assert!(!Path::new(appeared).exists(), "{appeared}");
        }
    }
}

/// Without the slash at its end, the host takes the directory for the file's name.
#[test]
fn a_directory_as_destination_is_told_how_to_name_the_file() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("in")).unwrap();
    symlink("in/.", guest.path("link")).unwrap();
    assert_eq!(guest.start("in", 0, 1), Status::ALREADY_EXISTS);
    assert_eq!(guest.start("in", OVERWRITE, 1), Status::FAIL);
    assert_eq!(guest.start("link", OVERWRITE, 1), Status::FAIL);
    let lines = guest.log.lines();
    for (line, name) in lines.iter().zip(["in", "in", "link"]) {
        let hint = format!(
            "end its name with a slash: -DestinationPath {:?}",
            guest.path(name).join("")
        );
        assert!(line.ends_with(&hint), "{line}");
    }
    assert_eq!(lines.len(), 3);
    assert_eq!(guest.names(), ["in", "link"]);
}

#[test]
fn parent_components_are_refused() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("d")).unwrap();
    let base = guest.directory.path().to_str().unwrap().to_owned();
    for directory in [
        "..",
        "../x",
        &format!("{base}/d/.."),
        &format!("{base}/d/../d"),
    ] {
        assert_eq!(
            guest.start_in(directory, "f", CREATE_PATH, 1),
            Status::INVALID_ARGUMENT
        );
    }
}

#[test]
fn a_relative_directory_is_taken_from_the_root() {
    let mut guest = Guest::new();
    let base = guest.directory.path().to_str().unwrap().to_owned();
    let relative = base.strip_prefix('/').unwrap();
    guest.copy_to(relative, "one", 0, b"x");
    guest.copy_to(&format!(".//{relative}/./"), "two", 0, b"x");
    guest.copy_to(&format!("//{base}//"), "three", 0, b"x");
    assert_eq!(guest.names(), ["one", "three", "two"]);
}

#[test]
fn the_longest_names() {
    let mut guest = Guest::new();
    let longest = "x".repeat(255);
    guest.copy(&longest, 0, b"x");
    assert_eq!(guest.names(), [longest]);
    // 256 units fit the field, and no file system.
    assert_eq!(
        guest.start(&"x".repeat(256), 0, 1),
        Status::INVALID_ARGUMENT
    );
    assert_eq!(
        guest.start(&"ü".repeat(200), 0, 1),
        Status::INVALID_ARGUMENT
    );
    assert!(!guest.service.busy());
}

#[test]
fn a_missing_directory_is_an_error() {
    let mut guest = Guest::new();
    let missing = guest.path("no/where").to_str().unwrap().to_owned();
    assert_eq!(guest.start_in(&missing, "f", 0, 1), Status::FAIL);
    guest.log.assert_says("no/where\" does not exist");
    assert!(guest.names().is_empty());
}

#[test]
fn missing_directories_are_made_on_request() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("there")).unwrap();
    let deep = guest.path("there/a/b/c").to_str().unwrap().to_owned();
    guest.copy_to(&deep, "f", CREATE_PATH, b"x");
    assert_eq!(fs::read(guest.path("there/a/b/c/f")).unwrap(), b"x");
    for made in ["there/a", "there/a/b", "there/a/b/c"] {
        let mode = fs::metadata(guest.path(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{made}");
    }
    // And nothing is wrong with the flag where all is there.
    guest.copy_to(&deep, "g", CREATE_PATH, b"x");
}

#[test]
fn made_directories_go_with_a_copy_that_is_dropped() {
    let mut guest = Guest::new();
    let deep = guest.path("a/b/c").to_str().unwrap().to_owned();

    assert_eq!(guest.start_in(&deep, "f", CREATE_PATH, 1), Status::OK);
    assert!(guest.path("a/b/c").is_dir());
    assert_eq!(guest.cancel(), Status::OK);
    assert!(guest.names().is_empty());

    assert_eq!(
        guest.start_in(&deep, "f", CREATE_PATH, 1 << 43),
        Status::DISK_FULL
    );
    assert!(guest.names().is_empty());

    // What somebody else put there stays.
    assert_eq!(guest.start_in(&deep, "f", CREATE_PATH, 1), Status::OK);
    fs::write(guest.path("a/other"), "x").unwrap();
    assert_eq!(guest.cancel(), Status::OK);
    assert_eq!(names(&guest.path("a")), ["other"]);
}

#[test]
fn a_file_in_the_way() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "x").unwrap();
    for directory in ["file", "file/deeper"] {
        let directory = guest.path(directory).to_str().unwrap().to_owned();
        assert_eq!(
            guest.start_in(&directory, "f", CREATE_PATH, 1),
            Status::FAIL
        );
        assert_eq!(guest.start_in(&directory, "f", 0, 1), Status::FAIL);
    }
    guest.log.assert_says("Not a directory");
    assert_eq!(guest.names(), ["file"]);
}

#[test]
fn a_dangling_link_on_the_way() {
    let mut guest = Guest::new();
    symlink("nowhere", guest.path("link")).unwrap();
    let directory = guest.path("link").to_str().unwrap().to_owned();
    assert_eq!(
        guest.start_in(&directory, "f", CREATE_PATH, 1),
        Status::FAIL
    );
    assert_eq!(guest.names(), ["link"]);
}

#[test]
fn links_on_the_way_are_followed_where_everything_is_allowed() {
    let mut guest = Guest::new();
    fs::create_dir_all(guest.path("real/deep")).unwrap();
    symlink("real", guest.path("link")).unwrap();
    symlink(guest.path("real/deep"), guest.path("absolute")).unwrap();
    symlink("../..", guest.path("real/deep/up")).unwrap();
    for (directory, name) in [
        ("link/deep", "a"),
        ("absolute", "b"),
        ("link/deep/up/real/deep", "c"),
    ] {
        let directory = guest.path(directory).to_str().unwrap().to_owned();
        guest.copy_to(&directory, name, 0, b"x");
    }
    let made = guest.path("link/new").to_str().unwrap().to_owned();
    guest.copy_to(&made, "d", CREATE_PATH, b"x");
    assert_eq!(names(&guest.path("real/deep")), ["a", "b", "c", "up"]);
    assert_eq!(names(&guest.path("real/new")), ["d"]);
}

#[test]
fn the_directory_is_the_one_that_was_opened() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("d")).unwrap();
    fs::create_dir(guest.path("other")).unwrap();
    let directory = guest.path("d").to_str().unwrap().to_owned();
    assert_eq!(guest.start_in(&directory, "f", 0, 1), Status::OK);
    fs::rename(guest.path("d"), guest.path("moved")).unwrap();
    symlink("other", guest.path("d")).unwrap();
    assert_eq!(guest.write(0, b"x"), Status::OK);
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(names(&guest.path("moved")), ["f"]);
    assert!(names(&guest.path("other")).is_empty());
}
