//! What is planned, with file systems that are there.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use hyperv_services::vss::Config;
use hyperv_services::vss::file_system::FileSystem;
use hyperv_services::vss::plan::{self, LeftOut, Plan, Reason};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use super::root::in_own_root;

fn make() -> Plan {
    plan::make(&Config::default()).unwrap()
}

/// Where what is frozen is mounted, in order.
fn frozen(plan: &Plan) -> Vec<&str> {
    let points = plan.freeze.iter().map(|it| it.mount_point());
    points.map(|point| point.to_str().unwrap()).collect()
}

/// Returns why the file system that is mounted there is left out.
#[track_caller]
fn reason<'a>(plan: &'a Plan, point: &str) -> &'a Reason {
    let is_there = |it: &&LeftOut| it.file_system.mount_point() == Path::new(point);
    let left_out = plan.left_out.iter().find(is_there);
    &left_out.expect("something that is left out").reason
}

fn directories(names: &[&str]) {
    for name in names {
        fs::create_dir_all(name).unwrap();
    }
}

#[test]
fn what_can_be_frozen_is_and_deeper_before_shallower() {
    in_own_root(
        "plan::what_can_be_frozen_is_and_deeper_before_shallower",
        |stage| {
            for (kind, point) in [("ext4", "/a"), ("xfs", "/a/b/c"), ("btrfs", "/d/e")] {
                let image = format!("/images/{kind}");
                stage.image(&image, kind);
                stage.mount(&image, point);
            }
        },
        |_| {
            let plan = make();
            assert_eq!(frozen(&plan), ["/a/b/c", "/d/e", "/a"]);
            let kinds: Vec<_> = plan.freeze.iter().map(|it| it.kind.as_str()).collect();
            assert_eq!(kinds, ["xfs", "btrfs", "ext4"]);
            for file_system in &plan.freeze {
                let [lies_on] = &file_system.lies_on[..] else {
                    panic!("{file_system:?}");
                };
                let image = PathBuf::from("/images").join(&file_system.kind);
                assert_eq!((&lies_on.what, lies_on.in_memory), (&image, true));
                assert_eq!(file_system.nodes, [Path::new(&file_system.source)]);
            }
            assert_eq!(*reason(&plan, "/"), Reason::NoBlockDevice);
            assert_eq!(*reason(&plan, "/proc"), Reason::NoBlockDevice);
        },
    );
}

#[test]
fn a_file_system_in_a_file_comes_before_the_one_that_has_the_file() {
    in_own_root(
        "plan::a_file_system_in_a_file_comes_before_the_one_that_has_the_file",
        |stage| {
            // Each is deeper than what lies on it, and would be frozen earlier.
            stage.image("/images/lowest", "btrfs");
            stage.mount("/images/lowest", "/z/z/z/lowest");
            stage.image("/z/z/z/lowest/middle", "xfs");
            stage.mount("/z/z/z/lowest/middle", "/z/z/middle");
            stage.image("/z/z/middle/file", "ext4");
            stage.image("/z/z/middle/removed (deleted)", "ext4");
            stage.mount("/z/z/middle/file", "/top");
            stage.mount("/z/z/middle/removed (deleted)", "/other");
        },
        |_| {
            let before = make();
            fs::remove_file("/z/z/middle/removed (deleted)").unwrap();
            let plan = make();
            for plan in [&before, &plan] {
                assert_eq!(
                    frozen(plan),
                    ["/other", "/top", "/z/z/middle", "/z/z/z/lowest"]
                );
                for uppers in plan.freeze[..3].iter() {
                    let lower = plan.find(uppers.lies_on[0].file_system.unwrap()).unwrap();
                    assert!(uppers.lies_on[0].what.starts_with(lower.mount_point()));
                }
            }
        },
    );
}

#[test]
fn a_file_system_is_planned_once_however_often_it_is_mounted() {
    in_own_root(
        "plan::a_file_system_is_planned_once_however_often_it_is_mounted",
        |stage| {
            stage.image("/images/btrfs", "btrfs");
            stage.mount("/images/btrfs", "/top");
            stage.run("btrfs", &["-q", "subvolume", "create", "/top/sub"]);
            stage.image("/images/ext4", "ext4");
            stage.mount("/images/ext4", "/data/first");
        },
        |_| {
            let [ext4, btrfs] = &make().freeze[..] else {
                panic!("not two");
            };
            assert_eq!([&ext4.kind, &btrfs.kind], ["ext4", "btrfs"]);
            let subvolume = "/a long path/with\ttab\nnewline \\ and #/é/sub";
            directories(&[subvolume, "/again", "/data/first/in/it", "/short"]);
            let none = MountFlags::empty();
            let options = Some(c"subvol=sub");
            mount(&btrfs.source, subvolume, "btrfs", none, options).unwrap();
            mount(&ext4.source, "/again", "ext4", none, None).unwrap();
            mount_bind("/data/first/in", "/short").unwrap();
            fs::write("/data/first/file", "").unwrap();
            fs::write("/f", "").unwrap();
            mount_bind("/data/first/file", "/f").unwrap();
            fs::create_dir("/top/sub/directory").unwrap();
            mount_bind("/top/sub/directory", "/short").unwrap();

            let [ext4, btrfs] = &make().freeze[..] else {
                panic!("not two");
            };
            let mounts = |file_system: &FileSystem| -> Vec<_> {
                let mounts = file_system.mounts.iter();
                mounts
                    .map(|it| (it.point.display().to_string(), it.whole))
                    .collect()
            };
            let expected = |expected: &[(&str, bool)]| -> Vec<_> {
                let expected = expected.iter();
                expected
                    .map(|(point, whole)| ((*point).to_owned(), *whole))
                    .collect()
            };
            assert_eq!(
                mounts(ext4),
                expected(&[
                    ("/again", true),
                    ("/data/first", true),
                    ("/f", false),
                    ("/short", false)
                ])
            );
            assert_eq!(
                mounts(btrfs),
                expected(&[("/top", true), (subvolume, true), ("/short", false)])
            );
        },
    );
}

#[test]
fn btrfs_on_several_devices_lies_on_what_each_of_them_does() {
    in_own_root(
        "plan::btrfs_on_several_devices_lies_on_what_each_of_them_does",
        |stage| {
            // It lies on one of the two others, by its second device.
            for name in ["a", "b"] {
                stage.image(&format!("/images/{name}"), "ext4");
                stage.mount(&format!("/images/{name}"), &format!("/x/y/z/{name}"));
            }
            let files = ["/images/first", "/x/y/z/b/second"];
            let devices = files.map(|file| {
                stage.file(file, 20 << 20);
                stage.attach(file)
            });
            let [first, second] = devices.each_ref().map(|it| it.device.as_str());
            stage.run("mkfs.btrfs", &["-q", "-M", first, second]);
            stage.run("btrfs", &["-q", "device", "scan", first, second]);
            fs::create_dir(stage.path("/spread")).unwrap();
            let target = stage.path("/spread");
            mount(first, target, "btrfs", MountFlags::empty(), None).unwrap();
        },
        |_| {
            let plan = make();
            assert_eq!(frozen(&plan), ["/x/y/z/a", "/spread", "/x/y/z/b"]);
            let spread = &plan.freeze[1];
            assert_eq!(spread.nodes.len(), 2);
            let files = spread.lies_on.iter().map(|it| it.what.to_str().unwrap());
            let files: Vec<_> = files.collect();
            assert_eq!(files, ["/images/first", "/x/y/z/b/second"]);
            assert_eq!(spread.lies_on[1].file_system, Some(plan.freeze[2].device));
        },
    );
}

#[test]
fn a_file_system_comes_before_the_one_that_has_its_log() {
    in_own_root(
        "plan::a_file_system_comes_before_the_one_that_has_its_log",
        |stage| {
            // By their mount points alone, what has the logs would come first.
            stage.image("/images/carrier", "xfs");
            stage.mount("/images/carrier", "/a/b/carrier");
            let files = [
                ("/images/xfs", 32 << 20),
                ("/a/b/carrier/log", 12 << 20),
                ("/images/ext4", 8 << 20),
                ("/a/b/carrier/journal", 3 << 20),
            ];
            let devices = files.map(|(file, size)| {
                stage.file(file, size);
                stage.attach(file)
            });
            let [xfs, log, ext4, journal] = devices.each_ref().map(|it| it.device.as_str());
            let on_log = format!("logdev={log}");
            stage.run("mkfs.xfs", &["-q", "--unsupported", "-l", &on_log, xfs]);
            stage.run(
                "mkfs.ext4",
                &["-q", "-b", "1024", "-O", "journal_dev", journal],
            );
            let on_journal = format!("device={journal}");
            stage.run("mkfs.ext4", &["-q", "-b", "1024", "-J", &on_journal, ext4]);
            let none = MountFlags::empty();
            let options = CString::new(on_log).unwrap();
            for point in ["/xfs", "/ext4"] {
                fs::create_dir(stage.path(point)).unwrap();
            }
            mount(xfs, stage.path("/xfs"), "xfs", none, Some(&*options)).unwrap();
            mount(ext4, stage.path("/ext4"), "ext4", none, None).unwrap();
        },
        |_| {
            let plan = make();
            assert_eq!(frozen(&plan), ["/ext4", "/xfs", "/a/b/carrier"]);
            for (file_system, file) in plan.freeze.iter().zip(["journal", "log"]) {
                assert_eq!(file_system.nodes.len(), 2, "{file_system:?}");
                let file = Path::new("/a/b/carrier").join(file);
                let carrier = plan.freeze[2].device;
                let mut lies_on = file_system.lies_on.iter();
                let found = lies_on.find(|it| it.what == file).unwrap();
                assert_eq!(found.file_system, Some(carrier));
            }
        },
    );
}

#[test]
fn what_cannot_be_frozen_is_left_out_with_the_reason() {
    in_own_root(
        "plan::what_cannot_be_frozen_is_left_out_with_the_reason",
        |stage| {
            stage.image("/images/lower", "ext4");
            stage.image("/images/read-only", "ext4");
            stage.mount("/images/lower", "/lower");
            stage.mount_with("/images/read-only", "/read-only", "ro");
        },
        |_| {
            directories(&[
                "/lower/l",
                "/lower/u",
                "/lower/w",
                "/merged",
                "/lower/ro",
                "/memory",
            ]);
            let options = Some(c"lowerdir=/lower/l,upperdir=/lower/u,workdir=/lower/w");
            let none = MountFlags::empty();
            mount("overlay", "/merged", "overlay", none, options).unwrap();
            mount("memory", "/memory", "tmpfs", none, None).unwrap();
            // A mount that is read-only is no file system that is.
            mount_bind("/lower/l", "/lower/ro").unwrap();
            mount_remount("/lower/ro", MountFlags::RDONLY | MountFlags::BIND, c"").unwrap();
            let plan = make();
            assert_eq!(frozen(&plan), ["/lower"]);
            assert_eq!(*reason(&plan, "/read-only"), Reason::ReadOnly);
            assert_eq!(*reason(&plan, "/merged"), Reason::Stacked);
            assert_eq!(*reason(&plan, "/memory"), Reason::NoBlockDevice);
        },
    );
}

#[test]
fn two_thousand_bind_mounts_are_one_file_system() {
    in_own_root(
        "plan::two_thousand_bind_mounts_are_one_file_system",
        |stage| {
            stage.image("/images/ext4", "ext4");
            stage.mount("/images/ext4", "/deep/below/data");
        },
        |_| {
            directories(&["/deep/below/data/source"]);
            for number in 0..2000 {
                let target = format!("/m{number:04}");
                fs::create_dir(&target).unwrap();
                mount_bind("/deep/below/data/source", &target).unwrap();
            }
            let plan = make();
            let [file_system] = &plan.freeze[..] else {
                panic!("not one: {}", plan.freeze.len());
            };
            assert_eq!(file_system.mounts.len(), 2001);
            assert_eq!(frozen(&plan), ["/deep/below/data"]);
            assert_eq!(file_system.mounts[2000].point, Path::new("/m1999"));
        },
    );
}
