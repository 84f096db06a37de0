//! Opening file systems that are there, and such that were.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;

use hyperv_services::sys;
use hyperv_services::vss::Config;
use hyperv_services::vss::file_system::FileSystem;
use hyperv_services::vss::open::{OpenError, open};
use hyperv_services::vss::plan;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

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
                sys::freeze(&opened.fd).unwrap();
                sys::thaw(&opened.fd).unwrap();
            }
        },
    );
}

/// The parent has the same type, so nothing else distinguishes the two.
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
fn what_is_covered_is_opened_elsewhere_or_uncovered() {
    in_own_root(
        "open::what_is_covered_is_opened_elsewhere_or_uncovered",
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
            cover();
            let file_system = &planned()[0];
            let under = file_system
                .mounts
                .iter()
                .map(|it| it.hidden_under.as_deref());
            let under: Vec<_> = under.collect();
            assert_eq!(under, [None, Some(Path::new("/data"))]);
            let before = fs::read("/proc/self/mountinfo").unwrap();
            let opened = open(file_system, Path::new(ROOT)).unwrap();
            assert_eq!(opened.mount_point, Path::new("/data"));
            assert_eq!(opened.device, device);
            // Nothing has changed for anybody else.
            assert_eq!(fs::read("/proc/self/mountinfo").unwrap(), before);
            sys::freeze(&opened.fd).unwrap();
            sys::thaw(&opened.fd).unwrap();
            drop(opened);

            let mut all = capabilities(None).unwrap();
            all.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, all).unwrap();
            let error = open(file_system, Path::new(ROOT)).unwrap_err();
            assert!(matches!(error, OpenError::Failed { .. }), "{error}");
            let error = error.to_string();
            assert!(error.contains("/fifo: not a directory"), "{error}");
            let covered = "/data: hidden under /data: cannot make a mount namespace";
            assert!(error.contains(covered), "{error}");
        },
    );
}

/// With what is mounted in it, and as mounts of systemd are: what happens to one
/// happens to its copies.
#[test]
fn what_is_below_a_directory_that_is_covered_is_uncovered_for_a_moment() {
    in_own_root(
        "open::what_is_below_a_directory_that_is_covered_is_uncovered_for_a_moment",
        |stage| {
            stage.image("/images/btrfs", "btrfs");
            stage.mount("/images/btrfs", "/mnt/data");
            stage.run("btrfs", &["-q", "subvolume", "create", "/mnt/data/sub"]);
            stage.image("/images/ext4", "ext4");
            stage.mount("/images/ext4", "/mnt/data/deeper/still");
            stage.image("/images/cover", "ext4");
            stage.mount("/images/cover", "/cover");
        },
        |_| {
            let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
            mount_change("/", shared).unwrap();
            let [still, btrfs, cover] = &planned()[..] else {
                panic!("not three");
            };
            let none = MountFlags::empty();
            // Of btrfs only a subvolume is left.
            fs::create_dir("/mnt/other").unwrap();
            let subvolume = Some(c"subvol=sub");
            mount(&btrfs.source, "/mnt/other", "btrfs", none, subvolume).unwrap();
            mount(&cover.source, "/mnt", "ext4", none, None).unwrap();
            let before = fs::read("/proc/self/mountinfo").unwrap();
            for device in [still.device, btrfs.device] {
                let planned = planned();
                let file_system = planned.iter().find(|it| it.device == device).unwrap();
                let cover = Some(Path::new("/mnt"));
                assert_eq!(file_system.mounts[0].hidden_under.as_deref(), cover);
                let opened = open(file_system, Path::new(ROOT)).unwrap();
                assert_eq!(opened.device, device);
            }
            assert_eq!(fs::read("/proc/self/mountinfo").unwrap(), before);
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
            assert_eq!(sys::freeze(lower.fd), Err(Errno::BUSY));
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
