//! What an ordinary user has put where the host copies to.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use hyperv_needs::skip;
use hyperv_vmbus::ic::Status;

use crate::guest::{CREATE_PATH, Encoding, Guest, OVERWRITE, is_root, names};

const BOB: u32 = 4_000_001;
const EVE: u32 = 4_000_002;

/// A guest with a directory `drop` of this mode, which bob can write to, one of
/// his own, `home`, and a directory `root` that he cannot read, with a file in it.
fn guest(mode: u32) -> Option<Guest> {
    if !is_root() {
        skip("giving a file to another user needs root");
        return None;
    }
    let guest = Guest::with(Encoding::Utf16, |config, _| config.mode = 0o600);
    set_mode(guest.directory.path(), 0o755);
    for (name, mode, owner) in [("drop", mode, 0), ("home", 0o755, BOB), ("root", 0o700, 0)] {
        fs::create_dir(guest.path(name)).unwrap();
        set_mode(&guest.path(name), mode);
        chown(guest.path(name), Some(owner), Some(owner)).unwrap();
    }
    fs::write(guest.path("root/secret"), "root's").unwrap();
    set_mode(&guest.path("root/secret"), 0o600);
    Some(guest)
}

const OPEN: [u32; 5] = [0o1777, 0o1775, 0o777, 0o757, 0o3777];

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A link of that user.
fn link(text: impl AsRef<Path>, path: &Path, owner: u32) {
    symlink(text, path).unwrap();
    lchown(path, Some(owner), Some(owner)).unwrap();
}

/// A file of that user that everybody may read and write.
fn file(path: &Path, owner: u32) {
    fs::write(path, "before").unwrap();
    set_mode(path, 0o666);
    chown(path, Some(owner), Some(owner)).unwrap();
}

/// Directory and name of a path in the guest's directory.
fn place(guest: &Guest, path: &str) -> (String, String) {
    let path: PathBuf = guest.path(path);
    let text = |text: &std::ffi::OsStr| text.to_str().unwrap().to_owned();
    let parent = path.parent().unwrap().as_os_str();
    (text(parent), text(path.file_name().unwrap()))
}

#[track_caller]
fn assert_refused(guest: &mut Guest, path: &str, flags: u32, words: &str) {
    let (directory, name) = place(guest, path);
    let started = guest.start_in(&directory, &name, flags, 3);
    assert_eq!(started, Status::FAIL, "{path}");
    let line = guest.log.lines().pop().unwrap();
    assert!(line.contains(words), "{words:?} is not in {line}");
    assert_untouched(guest);
}

#[track_caller]
fn assert_untouched(guest: &Guest) {
    let secret = guest.path("root/secret");
    assert_eq!(fs::read(&secret).unwrap(), b"root's");
    let found = fs::metadata(&secret).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
    assert_eq!(names(&guest.path("root")), ["secret"]);
}

#[track_caller]
fn copy(guest: &mut Guest, path: &str, flags: u32) {
    let (directory, name) = place(guest, path);
    guest.copy_to(&directory, &name, flags, b"new");
    assert_untouched(guest);
}

#[track_caller]
fn assert_owner(guest: &Guest, path: &str, owner: u32, mode: u32) {
    let found = fs::symlink_metadata(guest.path(path)).unwrap();
    assert_eq!(
        (found.uid(), found.mode() & 0o7777),
        (owner, mode),
        "{path}"
    );
}

#[test]
fn a_link_where_others_may_write_is_not_followed() {
    for mode in OPEN {
        let Some(mut guest) = guest(mode) else { return };
        link("../root/secret", &guest.path("drop/relative"), BOB);
        link(guest.path("root/secret"), &guest.path("drop/absolute"), BOB);
        for name in ["drop/relative", "drop/absolute"] {
            assert_refused(&mut guest, name, OVERWRITE, "is not followed: ");
        }
        link("../root", &guest.path("drop/way"), BOB);
        for flags in [0, OVERWRITE, CREATE_PATH, OVERWRITE | CREATE_PATH] {
            assert_refused(&mut guest, "drop/way/new", flags, "is not followed: ");
            assert_refused(&mut guest, "drop/way/new/er", flags, "is not followed: ");
        }
        assert_eq!(names(&guest.path("drop")), ["absolute", "relative", "way"]);
    }
}

#[test]
fn roots_own_link_is_followed_where_nobody_else_can_rename_it() {
    for (mode, followed) in [
        (0o1777, true),
        (0o1775, true),
        (0o755, true),
        (0o777, false),
    ] {
        let Some(mut guest) = guest(mode) else { return };
        fs::write(guest.path("target"), "before").unwrap();
        link("../target", &guest.path("drop/link"), 0);
        if followed {
            copy(&mut guest, "drop/link", OVERWRITE);
            assert_eq!(fs::read(guest.path("target")).unwrap(), b"new");
        } else {
            assert_refused(
                &mut guest,
                "drop/link",
                OVERWRITE,
                "`chmod +t` the directory",
            );
        }
    }
}

#[test]
fn a_file_where_others_may_write_is_not_replaced() {
    for mode in OPEN {
        let Some(mut guest) = guest(mode) else { return };
        file(&guest.path("drop/file"), BOB);
        assert_refused(
            &mut guest,
            "drop/file",
            OVERWRITE,
            "is not replaced: it belongs to user 4000001",
        );
        assert_eq!(fs::read(guest.path("drop/file")).unwrap(), b"before");
        copy(&mut guest, "drop/new", OVERWRITE);
        assert_owner(&guest, "drop/new", 0, 0o600);
        copy(&mut guest, "drop/new", OVERWRITE);
        assert_owner(&guest, "drop/new", 0, 0o600);
    }
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let Some(mut guest) = guest(0o1777) else {
        return;
    };
    let (directory, name) = place(&guest, "drop/file");
    assert_eq!(guest.start_in(&directory, &name, OVERWRITE, 3), Status::OK);
    assert_eq!(guest.write(0, b"new"), Status::OK);
    file(&guest.path("drop/file"), BOB);
    assert_eq!(guest.complete(), Status::FAIL);
    guest
        .log
        .assert_says("is not replaced: it belongs to user 4000001");
    assert_eq!(fs::read(guest.path("drop/file")).unwrap(), b"before");
    assert_eq!(names(&guest.path("drop")), ["file"]);
}

#[test]
fn a_directory_where_others_may_write_is_not_entered() {
    for mode in OPEN {
        let Some(mut guest) = guest(mode) else { return };
        fs::create_dir(guest.path("drop/bobs")).unwrap();
        chown(guest.path("drop/bobs"), Some(BOB), Some(BOB)).unwrap();
        for path in ["drop/bobs/file", "drop/bobs/new/file"] {
            for flags in [0, CREATE_PATH] {
                assert_refused(
                    &mut guest,
                    path,
                    flags,
                    "is not entered: it belongs to user 4000001",
                );
            }
        }
        assert!(names(&guest.path("drop/bobs")).is_empty());
        copy(&mut guest, "drop/made/by/file", CREATE_PATH);
        assert_owner(&guest, "drop/made", 0, 0o755 | (mode & 0o2000));
        copy(&mut guest, "drop/made/by/other", CREATE_PATH);
    }
}

#[test]
fn another_name_of_roots_file_is_not_replaced() {
    for mode in OPEN {
        let Some(mut guest) = guest(mode) else { return };
        // As anybody can where fs.protected_hardlinks is off.
        for directory in ["drop", "home"] {
            let program = guest.path("root/program");
            fs::write(&program, "su").unwrap();
            set_mode(&program, 0o4755);
            let planted = format!("{directory}/tool");
            fs::hard_link(&program, guest.path(&planted)).unwrap();
            fs::rename(program, guest.path("elsewhere")).unwrap();
            assert_refused(&mut guest, &planted, OVERWRITE, "it is a hard link");
        }
    }
    let Some(mut guest) = guest(0o755) else {
        return;
    };
    fs::write(guest.path("drop/one"), "before").unwrap();
    fs::hard_link(guest.path("drop/one"), guest.path("home/other")).unwrap();
    copy(&mut guest, "drop/one", OVERWRITE);
    assert_eq!(fs::read(guest.path("home/other")).unwrap(), b"before");
}

#[test]
fn a_link_of_a_user_leads_to_what_is_that_users() {
    let Some(mut guest) = guest(0o755) else {
        return;
    };
    fs::create_dir(guest.path("home/his")).unwrap();
    chown(guest.path("home/his"), Some(BOB), Some(BOB)).unwrap();
    fs::create_dir(guest.path("root/bobs")).unwrap();
    chown(guest.path("root/bobs"), Some(BOB), Some(BOB)).unwrap();
    file(&guest.path("root/bobs/file"), BOB);
    file(&guest.path("home/his/file"), BOB);
    file(&guest.path("home/his/roots"), 0);
    file(&guest.path("drop/bobs"), BOB);
    for (name, text) in [
        ("secret", "../root/secret"),
        ("through", "../root/bobs/file"),
        ("roots", "his/roots"),
        ("bobs", "../drop/bobs"),
    ] {
        let (relative, absolute) = (format!("home/{name}"), format!("home/{name}-absolute"));
        link(text, &guest.path(&relative), BOB);
        let whole = guest.path("home").join(text);
        link(whole, &guest.path(&absolute), BOB);
        for path in [relative, absolute] {
            let (directory, name) = place(&guest, &path);
            assert_eq!(
                guest.start_in(&directory, &name, OVERWRITE, 3),
                Status::FAIL,
                "{path}"
            );
            guest
                .log
                .assert_says("a symbolic link of user 4000001 leads there");
        }
    }
    assert_eq!(fs::read(guest.path("root/bobs/file")).unwrap(), b"before");
    fs::remove_dir_all(guest.path("root/bobs")).unwrap();
    link("../root", &guest.path("home/way"), BOB);
    assert_refused(
        &mut guest,
        "home/way/new",
        CREATE_PATH,
        "a symbolic link of user",
    );
    link("../drop", &guest.path("home/aside"), BOB);
    for path in ["home/aside/new", "home/aside/new/er"] {
        assert_refused(&mut guest, path, CREATE_PATH, "a symbolic link of user");
    }
    link("home/his", &guest.path("moved"), EVE);
    assert_refused(
        &mut guest,
        "moved/new",
        0,
        "a symbolic link of user 4000002",
    );
    link("his", &guest.path("home/eves"), EVE);
    assert_refused(
        &mut guest,
        "home/eves/new",
        0,
        "user 4000001 or user 4000002",
    );

    let whole = guest.path("home/his/file");
    link("his/file", &guest.path("home/relative"), BOB);
    link(whole, &guest.path("home/absolute"), BOB);
    link("his", &guest.path("home/inside"), BOB);
    for path in ["home/relative", "home/absolute", "home/inside/file"] {
        copy(&mut guest, path, OVERWRITE);
        assert_eq!(fs::read(guest.path("home/his/file")).unwrap(), b"new");
        assert_owner(&guest, "home/his/file", BOB, 0o666);
        file(&guest.path("home/his/file"), BOB);
    }
}

/// What is in a user's own directory is that user's, and stays so.
#[test]
fn a_users_own_file_keeps_its_owner() {
    let Some(mut guest) = guest(0o755) else {
        return;
    };
    file(&guest.path("home/file"), BOB);
    copy(&mut guest, "home/file", OVERWRITE);
    assert_owner(&guest, "home/file", BOB, 0o666);
}

#[test]
fn the_allowed_directory_itself_is_looked_at() {
    let Some(guest) = guest(0o1777) else { return };
    link("../root", &guest.path("drop/in"), BOB);
    let allowed = guest.path("drop/in");
    let mut confined = Guest::with(Encoding::Utf16, |config, _| {
        config.directories = vec![allowed.clone()];
    });
    let allowed = allowed.to_str().unwrap();
    assert_eq!(confined.start_in(allowed, "new", 0, 1), Status::FAIL);
    confined
        .log
        .assert_says("is not followed: it belongs to user 4000001");
    assert_untouched(&guest);
}

/// Somebody else has taken away what was made, and has one of the same name.
#[test]
fn only_the_directory_that_was_made_is_removed() {
    let Some(mut guest) = guest(0o755) else {
        return;
    };
    let (directory, name) = place(&guest, "home/made/file");
    assert_eq!(
        guest.start_in(&directory, &name, CREATE_PATH, 3),
        Status::OK
    );
    fs::rename(guest.path("home/made"), guest.path("home/moved")).unwrap();
    fs::create_dir(guest.path("home/made")).unwrap();
    assert_eq!(guest.cancel(), Status::OK);
    assert_eq!(names(&guest.path("home")), ["made", "moved"]);
}
