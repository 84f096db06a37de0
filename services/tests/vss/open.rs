//! Opening file systems that are there, and such that were.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;

use hyperv_services::kernel;
use hyperv_services::vss::Config;
use hyperv_services::vss::open::{OpenError, open};
use hyperv_services::vss::plan::{self, FileSystem};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use super::root::in_own_root;

const ROOT: &str = "/";

fn planned() -> Vec<FileSystem> {
    plan::make(&Config::default()).unwrap().freeze
}

/// Which mount a descriptor was opened by.
fn mount_id(fd: impl AsFd) -> u64 {
    let info = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let info = fs::read_to_string(info).unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.unwrap().trim().parse().unwrap()
}

#[test]
fn each_is_opened_where_it_is_mounted() {
    in_own_root(
        "open::each_is_opened_where_it_is_mounted",
        |stage| {
            for kind in ["ext4", "xfs", "btrfs"] {
                let image = format!("/images/{kind}");
                stage.image(&image, kind);
                stage.mount(&image, &format!("/{kind}"));
            }
        },
        |_| {
            let planned = planned();
            assert_eq!(planned.len(), 3);
            for file_system in planned {
                let opened = open(&file_system, Path::new(ROOT)).unwrap();
                assert_eq!(opened.mount_point, file_system.mounts[0].point);
                assert_eq!(opened.device, file_system.device);
                assert_eq!(mount_id(&opened.fd), file_system.mounts[0].id);
                kernel::freeze(&opened.fd).unwrap();
                kernel::thaw(&opened.fd).unwrap();
            }
        },
    );
}

/// The parent is of the same type, to be told from it by nothing else.
#[test]
fn what_was_unmounted_meanwhile_is_gone_and_its_parent_is_not_opened() {
    in_own_root(
        "open::what_was_unmounted_meanwhile_is_gone_and_its_parent_is_not_opened",
        |stage| {
            for kind in ["ext4", "btrfs"] {
                for (name, point) in [("parent", ""), ("child", "/child")] {
                    let image = format!("/images/{kind}-{name}");
                    stage.image(&image, kind);
                    stage.mount(&image, &format!("/{kind}{point}"));
                }
            }
        },
        |_| {
            for file_system in &planned()[..2] {
                let point = file_system.mount_point();
                assert!(point.ends_with("child"));
                open(file_system, Path::new(ROOT)).unwrap();
                unmount(point, UnmountFlags::empty()).unwrap();
                let error = open(file_system, Path::new(ROOT)).unwrap_err();
                assert!(matches!(error, OpenError::Gone { .. }), "{error}");
            }
        },
    );
}

#[test]
fn what_is_covered_is_opened_elsewhere_or_said_to_be_covered() {
    in_own_root(
        "open::what_is_covered_is_opened_elsewhere_or_said_to_be_covered",
        |stage| {
            stage.image("/images/ext4", "ext4");
            stage.mount("/images/ext4", "/data");
        },
        |_| {
            // Of these two, only the file does.
            let [file_system] = &planned()[..] else {
                panic!("not one");
            };
            let device = file_system.device;
            let mode = rustix::fs::Mode::RWXU;
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, "/data/fifo", fifo, mode, 0).unwrap();
            fs::write("/data/file", "").unwrap();
            for point in ["/fifo", "/file"] {
                fs::write(point, "").unwrap();
                mount_bind(format!("/data{point}"), point).unwrap();
            }
            let cover = || mount("cover", "/data", "tmpfs", MountFlags::empty(), None).unwrap();
            cover();
            let file_system = &planned()[0];
            let opened = open(file_system, Path::new(ROOT)).unwrap();
            assert_eq!(opened.mount_point, Path::new("/file"));
            assert_eq!(opened.device, device);

            drop(opened);
            unmount("/file", UnmountFlags::empty()).unwrap();
            let file_system = &planned()[0];
            let error = open(file_system, Path::new(ROOT)).unwrap_err();
            assert!(matches!(error, OpenError::Nowhere { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains("/data: another file system"), "{said}");
            assert!(said.contains("/fifo: neither a directory"), "{said}");
        },
    );
}

#[test]
fn what_somebody_else_has_frozen_is_planned_and_opened() {
    let fsfreeze = Path::new("/usr/sbin/fsfreeze");
    in_own_root(
        "open::what_somebody_else_has_frozen_is_planned_and_opened",
        |stage| {
            stage.image("/images/lower", "ext4");
            stage.mount("/images/lower", "/lower");
            stage.image("/lower/upper", "xfs");
            stage.mount("/lower/upper", "/upper");
            stage.install(&[fsfreeze]);
        },
        |_| {
            let mut command = Command::new(fsfreeze);
            let frozen = command.args(["--freeze", "/lower"]).status();
            assert!(frozen.unwrap().success());
            let planned = planned();
            let points = planned.iter().map(FileSystem::mount_point);
            assert_eq!(
                points.collect::<Vec<_>>(),
                ["/upper", "/lower"].map(Path::new)
            );
            for file_system in &planned {
                open(file_system, Path::new(ROOT)).unwrap();
            }
            let lower = open(&planned[1], Path::new(ROOT)).unwrap();
            assert_eq!(kernel::freeze(lower.fd), Err(Errno::BUSY));
        },
    );
}

/// However many there are, and in whatever order, the one that can be reached is
/// found.
#[test]
fn one_mount_in_two_thousand_that_can_be_reached_is_found() {
    in_own_root(
        "open::one_mount_in_two_thousand_that_can_be_reached_is_found",
        |stage| {
            stage.image("/images/btrfs", "btrfs");
            stage.mount("/images/btrfs", "/data");
        },
        |_| {
            fs::create_dir_all("/data/source").unwrap();
            fs::create_dir_all("/covered").unwrap();
            fs::create_dir_all("/the/last/of/all/to/be/tried").unwrap();
            for number in 0..2000 {
                let target = format!("/covered/{number}");
                fs::create_dir(&target).unwrap();
                mount_bind("/data/source", &target).unwrap();
            }
            mount_bind("/data/source", "/the/last/of/all/to/be/tried").unwrap();
            for point in ["/data", "/covered"] {
                mount("cover", point, "tmpfs", MountFlags::empty(), None).unwrap();
            }
            let opened = open(&planned()[0], Path::new(ROOT)).unwrap();
            let found = opened.mount_point;
            assert_eq!(found, Path::new("/the/last/of/all/to/be/tried"));
        },
    );
}
