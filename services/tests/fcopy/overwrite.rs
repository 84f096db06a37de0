//! When something of that name is there already.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use hyperv_vmbus::ic::Status;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use crate::guest::{BOTH, CREATE_PATH, Guest, OVERWRITE, names};

fn read(guest: &Guest, name: &str) -> String {
    fs::read_to_string(guest.path(name)).unwrap()
}

#[test]
fn not_without_the_flag() {
    for encoding in BOTH {
        let mut guest = Guest::with(encoding, |_, _| {});
        fs::write(guest.path("file"), "old").unwrap();
        fs::create_dir(guest.path("directory")).unwrap();
        symlink("nowhere", guest.path("dangling")).unwrap();
        for name in ["file", "directory", "dangling"] {
            for flags in [0, CREATE_PATH] {
                assert_eq!(
                    guest.start(name, flags, 3),
                    Status::ALREADY_EXISTS,
                    "{name}"
                );
                assert_eq!(guest.write(0, b"new"), Status::FAIL);
                assert_eq!(guest.complete(), Status::FAIL);
            }
        }
        assert_eq!(guest.names(), ["dangling", "directory", "file"]);
        assert_eq!(read(&guest, "file"), "old");
    }
}

#[test]
fn what_appears_meanwhile_is_not_replaced_without_the_flag() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("file", 0, 3), Status::OK);
    assert_eq!(guest.write(0, b"new"), Status::OK);
    fs::write(guest.path("file"), "old").unwrap();
    assert_eq!(guest.complete(), Status::ALREADY_EXISTS);
    assert_eq!(guest.names(), ["file"]);
    assert_eq!(read(&guest, "file"), "old");
}

#[test]
fn a_shorter_file_replaces_a_longer_one() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "a long old text").unwrap();
    guest.copy("file", OVERWRITE, b"new");
    assert_eq!(read(&guest, "file"), "new");
    assert_eq!(guest.names(), ["file"]);
}

#[test]
fn the_old_file_is_whole_until_the_new_one_is() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "old").unwrap();
    let opened = fs::File::open(guest.path("file")).unwrap();
    assert_eq!(guest.start("file", OVERWRITE, 3), Status::OK);
    assert_eq!(guest.write(0, b"new"), Status::OK);
    assert_eq!(read(&guest, "file"), "old");
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(read(&guest, "file"), "new");
    // Another file took the name; who had the old one open keeps it whole.
    assert_eq!(std::io::read_to_string(opened).unwrap(), "old");
}

#[test]
fn a_copy_that_fails_leaves_the_old_file() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "old").unwrap();
    assert_eq!(guest.start("file", OVERWRITE, 3), Status::OK);
    assert_eq!(guest.write(1, b"ew"), Status::OK);
    assert_eq!(guest.complete(), Status::FAIL);
    assert_eq!(guest.start("file", OVERWRITE, 3), Status::OK);
    assert_eq!(guest.cancel(), Status::OK);
    assert_eq!(read(&guest, "file"), "old");
    assert_eq!(guest.names(), ["file"]);
}

#[test]
fn what_comes_and_goes_meanwhile() {
    let mut guest = Guest::new();
    assert_eq!(guest.start("comes", OVERWRITE, 0), Status::OK);
    fs::write(guest.path("comes"), "old").unwrap();
    fs::set_permissions(guest.path("comes"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(read(&guest, "comes"), "");
    assert_eq!(
        fs::metadata(guest.path("comes")).unwrap().mode() & 0o7777,
        0o640
    );

    fs::write(guest.path("goes"), "old").unwrap();
    assert_eq!(guest.start("goes", OVERWRITE, 0), Status::OK);
    fs::remove_file(guest.path("goes")).unwrap();
    assert_eq!(guest.complete(), Status::OK);
    assert_eq!(
        fs::metadata(guest.path("goes")).unwrap().mode() & 0o7777,
        0o744
    );
}

#[test]
fn the_mode_is_kept() {
    for mode in [0o600, 0o444, 0o4755, 0o2711, 0o000] {
        let mut guest = Guest::new();
        fs::write(guest.path("file"), "old").unwrap();
        fs::set_permissions(guest.path("file"), fs::Permissions::from_mode(mode)).unwrap();
        if fs::File::open(guest.path("file")).is_err() {
            continue;
        }
        guest.copy("file", OVERWRITE, b"new");
        assert_eq!(
            fs::metadata(guest.path("file")).unwrap().mode() & 0o7777,
            mode
        );
    }
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

/// An access control list as the kernel stores it: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NO_ID: u32 = u32::MAX;

/// User 12345 may read and write, others nothing.
fn some_acl() -> Vec<u8> {
    acl(&[
        (1, 6, NO_ID),
        (2, 6, 12345),
        (4, 4, NO_ID),
        (16, 6, NO_ID),
        (32, 0, NO_ID),
    ])
}

#[test]
fn lists_and_attributes_are_kept() {
    let mut guest = Guest::new();
    let file = guest.path("file");
    fs::write(&file, "old").unwrap();
    let list = some_acl();
    set(&file, "system.posix_acl_access", &list);
    set(&file, "user.note", b"important");
    set(&file, "user.empty", b"");
    let mode = fs::metadata(&file).unwrap().mode();
    guest.copy("file", OVERWRITE, b"new");
    assert_eq!(get(&file, "system.posix_acl_access"), Some(list));
    assert_eq!(get(&file, "user.note"), Some(b"important".to_vec()));
    assert_eq!(get(&file, "user.empty"), Some(Vec::new()));
    assert_eq!(fs::metadata(&file).unwrap().mode(), mode);
}

#[test]
fn a_list_that_the_old_file_lacks_is_not_inherited() {
    let mut guest = Guest::new();
    let file = guest.path("file");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o660)).unwrap();
    set(
        guest.directory.path(),
        "system.posix_acl_default",
        &some_acl(),
    );
    guest.copy("file", OVERWRITE, b"new");
    assert_eq!(get(&file, "system.posix_acl_access"), None);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o660);
}

#[test]
fn a_link_is_followed_and_stays() {
    let mut guest = Guest::new();
    fs::create_dir_all(guest.path("a/b")).unwrap();
    symlink("a/one", guest.path("link")).unwrap();
    symlink("b/two", guest.path("a/one")).unwrap();
    symlink(guest.path("a/b/../three"), guest.path("a/b/two")).unwrap();
    fs::write(guest.path("a/three"), "old").unwrap();
    fs::set_permissions(guest.path("a/three"), fs::Permissions::from_mode(0o600)).unwrap();

    guest.copy("link", OVERWRITE, b"new");

    assert_eq!(read(&guest, "a/three"), "new");
    assert_eq!(
        fs::metadata(guest.path("a/three")).unwrap().mode() & 0o7777,
        0o600
    );
    assert!(
        fs::symlink_metadata(guest.path("a/three"))
            .unwrap()
            .is_file()
    );
    assert_eq!(
        fs::read_link(guest.path("link")).unwrap(),
        Path::new("a/one")
    );
    assert_eq!(names(&guest.path("a")), ["b", "one", "three"]);
    guest.log.assert_says("a/three");
}

#[test]
fn links_that_lead_nowhere() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("d")).unwrap();
    for (name, text) in [
        ("dangling", "nothing"),
        ("deep", "no/where"),
        ("loop", "loop"),
        ("to-directory", "d"),
        ("slash", "d/"),
        ("dot", "d/."),
        ("up", "d/.."),
        ("root", "/"),
    ] {
        symlink(text, guest.path(name)).unwrap();
        assert_eq!(guest.start(name, OVERWRITE, 1), Status::FAIL, "{name}");
        assert_eq!(
            guest.start(name, OVERWRITE | CREATE_PATH, 1),
            Status::FAIL,
            "{name}"
        );
        fs::remove_file(guest.path(name)).unwrap();
    }
    guest.log.assert_says("a dangling symbolic link");
    guest.log.assert_says("a loop of symbolic links");
    assert_eq!(guest.names(), ["d"]);
    assert!(names(&guest.path("d")).is_empty());
}

#[test]
fn a_link_that_appears_meanwhile_is_not_followed() {
    let mut guest = Guest::new();
    fs::write(guest.path("victim"), "old").unwrap();
    assert_eq!(guest.start("file", OVERWRITE, 0), Status::OK);
    symlink("victim", guest.path("file")).unwrap();
    assert_eq!(guest.complete(), Status::FAIL);
    assert_eq!(read(&guest, "victim"), "old");
    assert_eq!(guest.names(), ["file", "victim"]);
}

#[test]
fn only_regular_files_are_replaced() {
    let mut guest = Guest::new();
    let _socket = UnixListener::bind(guest.path("socket")).unwrap();
    mknodat(CWD, guest.path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("pipe", guest.path("link-to-pipe")).unwrap();
    let what = [
        ("socket", "a socket"),
        ("pipe", "a named pipe"),
        ("link-to-pipe", "a named pipe"),
    ];
    for (name, words) in what {
        assert_eq!(guest.start(name, OVERWRITE, 1), Status::FAIL);
        guest
            .log
            .assert_says(&format!("is {words} and will not be overwritten"));
    }
    assert_eq!(guest.start_in("/dev", "null", OVERWRITE, 1), Status::FAIL);
    guest
        .log
        .assert_says("is a device and will not be overwritten");
    assert_eq!(guest.names(), ["link-to-pipe", "pipe", "socket"]);
}

#[test]
fn what_stops_being_a_regular_file_meanwhile_is_not_replaced() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "old").unwrap();
    assert_eq!(guest.start("file", OVERWRITE, 0), Status::OK);
    fs::remove_file(guest.path("file")).unwrap();
    mknodat(CWD, guest.path("file"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(guest.complete(), Status::FAIL);
    assert_eq!(guest.names(), ["file"]);
}
