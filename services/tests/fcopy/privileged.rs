//! What only root can arrange: other owners, labels, protected files.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use hyperv_needs::skip;
use hyperv_vmbus::ic::Status;
use rustix::fs::{IFlags, XattrFlags, getxattr, ioctl_getflags, ioctl_setflags, setxattr};

use crate::guest::{CREATE_PATH, Guest, Mounted, OVERWRITE, in_own_mounts, is_root, names};

#[test]
fn owner_and_labels_are_kept() {
    if !is_root() {
        return skip("giving a file to another user needs root");
    }
    let mut guest = Guest::new();
    let file = guest.path("file");
    fs::write(&file, "old").unwrap();
    let set = |name: &str, value: &[u8]| setxattr(&file, name, value, XattrFlags::empty());
    let get = |name: &str| {
        let mut value = vec![0; 100];
        let len = getxattr(&file, name, &mut value[..]).ok()?;
        value.truncate(len);
        Some(value)
    };
    // In this order: a new owner loses capabilities and set-user-ID.
    chown(&file, Some(12345), Some(54321)).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o6751)).unwrap();
    let label = b"system_u:object_r:etc_t:s0\0";
    let labelled = set("security.selinux", label).and_then(|()| set("trusted.note", b"kept"));
    if let Err(error) = labelled {
        return skip(&format!(
            "setting labels takes root and no container that forbids it ({error})"
        ));
    }
    // Version 2 of the format, no capability in it.
    let capability = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("security.capability", &capability).unwrap();

    guest.copy("file", OVERWRITE, b"new");

    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (12345, 54321));
    assert_eq!(metadata.mode() & 0o7777, 0o6751);
    assert_eq!(get("security.selinux").as_deref(), Some(&label[..]));
    assert_eq!(get("trusted.note").as_deref(), Some(&b"kept"[..]));
    // The capabilities belonged to the old content.
    assert_eq!(get("security.capability"), None);
}

/// A flag of `chattr`, taken off again at the end.
struct Flagged(PathBuf, IFlags);

impl Flagged {
    fn new(path: &Path, flag: IFlags) -> Option<Self> {
        let file = fs::File::open(path).unwrap();
        let before = ioctl_getflags(&file).ok()?;
        ioctl_setflags(&file, before | flag).ok()?;
        Some(Self(path.to_owned(), before))
    }
}

impl Drop for Flagged {
    fn drop(&mut self) {
        let file = fs::File::open(&self.0).unwrap();
        ioctl_setflags(&file, self.1).unwrap();
    }
}

#[test]
fn protected_files_are_refused_at_the_start() {
    for (flag, words) in [
        (IFlags::IMMUTABLE, "immutable"),
        (IFlags::APPEND, "append-only"),
    ] {
        let mut guest = Guest::new();
        fs::write(guest.path("file"), "old").unwrap();
        let Some(_flagged) = Flagged::new(&guest.path("file"), flag) else {
            return skip("protecting a file needs root and a file system that can");
        };
        assert_eq!(guest.start("file", OVERWRITE, 1), Status::FAIL);
        guest.log.assert_says(words);
        assert_eq!(guest.names(), ["file"]);
    }
}

/// A copy that the attribute permits succeeds; others fail with the attribute in the log.
#[test]
fn protected_directories_are_refused_at_the_start() {
    for (flag, attribute, letter) in [
        (IFlags::IMMUTABLE, "immutable", 'i'),
        (IFlags::APPEND, "append-only", 'a'),
    ] {
        let mut guest = Guest::new();
        let directory = guest.path("kept");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "old").unwrap();
        let Some(flagged) = Flagged::new(&directory, flag) else {
            return skip("protecting a directory needs root and a file system that can");
        };
        let kept = directory.to_str().unwrap();
        let reason = format!("the directory {directory:?} is {attribute}");
        let chattr = format!("until `chattr -{letter}`");
        let mut refused = |directory: &str, name: &str, flags| {
            assert_eq!(guest.start_in(directory, name, flags, 1), Status::FAIL);
            let line = guest.log.lines().pop().unwrap();
            assert!(line.contains(&reason) && line.ends_with(&chattr), "{line}");
        };
        refused(kept, "file", OVERWRITE);
        if flag == IFlags::IMMUTABLE {
            refused(kept, "new", 0);
            refused(&format!("{kept}/new/newer"), "new", CREATE_PATH);
        } else {
            guest.copy_to(kept, "new", 0, b"x");
            guest.copy_to(&format!("{kept}/newer"), "new", CREATE_PATH, b"x");
        }
        drop(flagged);
        assert_eq!(fs::read(directory.join("file")).unwrap(), b"old");
        let expected: &[&str] = match flag {
            IFlags::IMMUTABLE => &["file"],
            _ => &["file", "new", "newer"],
        };
        assert_eq!(names(&directory), expected);
    }
}

#[test]
fn a_file_that_becomes_protected_meanwhile() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "old").unwrap();
    assert_eq!(guest.start("file", OVERWRITE, 0), Status::OK);
    let Some(_flagged) = Flagged::new(&guest.path("file"), IFlags::IMMUTABLE) else {
        return skip("protecting a file needs root and a file system that can");
    };
    assert_eq!(guest.complete(), Status::FAIL);
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"old");
    assert_eq!(guest.names(), ["file"]);
}

#[test]
fn a_mount_point_is_refused() {
    if !in_own_mounts("privileged::a_mount_point_is_refused") {
        return;
    }
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "below").unwrap();
    fs::write(guest.path("other"), "above").unwrap();
    let other = guest.path("other").to_str().unwrap().to_owned();
    let _mounted = Mounted::new(&["--bind", &other], &guest.path("file"));
    assert_eq!(guest.start("file", OVERWRITE, 1), Status::FAIL);
    guest.log.assert_says("a mount point");
}

#[test]
fn a_read_only_file_system() {
    if !in_own_mounts("privileged::a_read_only_file_system") {
        return;
    }
    let mut guest = Guest::new();
    let _mounted = Mounted::tmpfs("ro", guest.directory.path());
    assert_eq!(guest.start("file", 0, 1), Status::FAIL);
    guest.log.assert_says("Read-only file system");
    guest.log.assert_says("`rw`");
}
