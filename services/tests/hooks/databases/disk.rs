//! File systems of the test's own, which it may freeze.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyperv_services::sys;
use rustix::fs::{major, minor};

use super::{await_that, output};

/// A file system in a file, mounted.
pub(super) struct Disk {
    image: PathBuf,
    copy: PathBuf,
    point: PathBuf,
}

impl Disk {
    /// Makes a file system of this type and mounts it in place of what is there,
    /// which is copied to it.
    pub(super) fn in_place_of(point: &str, kind: &str) -> Self {
        let point = Path::new(point);
        fs::create_dir_all(point).unwrap();
        let name = point.to_str().unwrap().replace('/', "-");
        let disk = Self {
            image: format!("/tmp/image{name}").into(),
            copy: format!("/tmp/copy{name}").into(),
            point: point.to_owned(),
        };
        let file = File::create(&disk.image).unwrap();
        file.set_len(512 << 20).unwrap();
        output(&format!("mkfs.{kind}"), &["-q", path(&disk.image)]);
        output("mount", &["-o", "loop", path(&disk.image), "/mnt"]);
        output("cp", &["-a", &format!("{}/.", path(point)), "/mnt"]);
        output("mount", &["--move", "/mnt", path(point)]);
        disk
    }

    /// Freezes it until what is given back is dropped.
    pub(super) fn freeze(&self) -> Frozen {
        let root = File::open(&self.point).unwrap();
        let device = root.metadata().unwrap().dev();
        let (major, minor) = (major(device), minor(device));
        let number = format!("{major}:{minor}");
        // Neither one of the machine's, nor anything else but this image.
        let machine = env::var("MACHINE").unwrap();
        let machine: Vec<_> = machine.split(' ').collect();
        assert!(machine.len() > 1 && !machine.contains(&number.as_str()));
        let backing = fs::read_to_string(format!("/sys/dev/block/{number}/loop/backing_file"));
        assert_eq!(Path::new(backing.unwrap().trim_end()), self.image);
        sys::freeze(&root).unwrap();
        Frozen(root)
    }

    /// Copies the image of the frozen file system.
    pub(super) fn snapshot(&self, _frozen: &Frozen) {
        output(
            "cp",
            &["--sparse=always", path(&self.image), path(&self.copy)],
        );
    }

    /// Mounts the copy in place of the file system, as soon as the processes of
    /// the killed server are gone.
    pub(super) fn restore(&self) {
        await_that("the file system is in nobody's use", || {
            let umount = Command::new("umount").arg(&self.point).output();
            umount.unwrap().status.success()
        });
        fs::rename(&self.copy, &self.image).unwrap();
        output(
            "mount",
            &["-o", "loop", path(&self.image), path(&self.point)],
        );
    }
}

/// A frozen file system, which thaws whatever happens.
pub(super) struct Frozen(File);

impl Drop for Frozen {
    fn drop(&mut self) {
        sys::thaw(&self.0).unwrap();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
