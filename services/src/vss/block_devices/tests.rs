//! Made-up trees of sysfs.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A tree with devices: each a number and a directory below `sys/devices`.
fn tree(devices: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
    for (number, path) in devices {
        let directory = root.path().join("sys/devices").join(path);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("dev"), format!("{number}\n")).unwrap();
        let link = root.path().join("sys/dev/block").join(number);
        symlink(format!("../../devices/{path}"), link).unwrap();
    }
    root
}

fn write(root: &TempDir, path: &str, content: &[u8]) {
    let path = root.path().join("sys/devices").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn link(root: &TempDir, path: &str, target: &str) {
    let path = root.path().join("sys").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(root.path().join("sys/devices").join(target), path).unwrap();
}

fn number(text: &str) -> DeviceNumber {
    text.parse().unwrap()
}

fn layers_of(root: &TempDir, device: &str) -> Vec<Layer> {
    let file_system = FileSystem {
        device: number(device),
        ..FileSystem::default()
    };
    walk(root.path(), &file_system)
}

fn bottom_of(root: &TempDir, device: &str) -> Vec<Bottom> {
    bottom(&layers_of(root, device))
}

fn files(names: &[&str]) -> Vec<Bottom> {
    let files = names.iter().map(|name| Bottom::File(name.into()));
    files.collect()
}

#[test]
fn a_disk_has_nothing_below_it() {
    let root = tree(&[("8:0", "pci/sda"), ("8:1", "pci/sda/sda1")]);
    write(&root, "pci/sda/sda1/partition", b"1\n");
    assert_eq!(bottom_of(&root, "8:0"), []);
    assert_eq!(bottom_of(&root, "8:1"), []);
}

#[test]
fn a_loop_device_and_its_partitions_are_in_a_file() {
    let root = tree(&[("7:0", "virtual/loop0"), ("259:0", "virtual/loop0/loop0p1")]);
    let file = b"/srv/two\nlines and \xff\n";
    write(&root, "virtual/loop0/loop/backing_file", file);
    write(&root, "virtual/loop0/loop0p1/partition", b"1\n");
    let file = OsStr::from_bytes(b"/srv/two\nlines and \xff");
    for device in ["7:0", "259:0"] {
        assert_eq!(bottom_of(&root, device), [Bottom::File(file.into())]);
    }
}

#[test]
fn what_device_mapper_and_md_put_together_is_followed_down() {
    let root = tree(&[
        ("7:0", "virtual/loop0"),
        ("7:1", "virtual/loop1"),
        ("259:0", "virtual/loop1/loop1p2"),
        ("8:0", "pci/sda"),
        ("9:0", "virtual/md0"),
        ("253:0", "virtual/dm-0"),
        ("253:1", "virtual/dm-1"),
    ]);
    write(&root, "virtual/loop0/loop/backing_file", b"/a\n");
    write(&root, "virtual/loop1/loop/backing_file", b"/b\n");
    write(&root, "virtual/loop1/loop1p2/partition", b"2\n");
    // dm-1 on dm-0 and a disk, that on md0 and loop0, and that on a
    // partition of loop1 and again on loop0.
    for (upper, lower, path) in [
        ("dm-1", "dm-0", "virtual/dm-0"),
        ("dm-1", "sda", "pci/sda"),
        ("dm-0", "md0", "virtual/md0"),
        ("dm-0", "loop0", "virtual/loop0"),
        ("md0", "loop1p2", "virtual/loop1/loop1p2"),
        ("md0", "loop0", "virtual/loop0"),
    ] {
        link(
            &root,
            &format!("devices/virtual/{upper}/slaves/{lower}"),
            path,
        );
    }
    assert_eq!(bottom_of(&root, "253:1"), files(&["/a", "/b"]));
    assert_eq!(bottom_of(&root, "7:1"), files(&["/b"]));
}

#[test]
fn a_circle_ends() {
    let root = tree(&[("253:0", "virtual/dm-0"), ("253:1", "virtual/dm-1")]);
    link(&root, "devices/virtual/dm-0/slaves/dm-1", "virtual/dm-1");
    link(&root, "devices/virtual/dm-1/slaves/dm-0", "virtual/dm-0");
    assert_eq!(bottom_of(&root, "253:0"), []);
}

#[test]
fn what_a_program_serves_or_nobody_knows_may_be_anywhere() {
    let root = tree(&[("43:0", "virtual/nbd0"), ("43:1", "virtual/nbd0/nbd0p1")]);
    write(&root, "virtual/nbd0/nbd0p1/partition", b"1\n");
    for (device, node) in [
        ("43:0", "/dev/nbd0"),
        ("43:1", "/dev/nbd0"),
        ("8:7", "/dev/block/8:7"),
    ] {
        assert_eq!(bottom_of(&root, device), [Bottom::Unknown(node.into())]);
    }
}

#[test]
fn nodes_have_the_kernels_names() {
    let root = tree(&[("8:1", "pci/sda/sda1"), ("104:1", "pci/cciss!c0d0p1")]);
    let node = |device| nodes(&layers_of(&root, device));
    assert_eq!(node("8:1"), [Path::new("/dev/sda1")]);
    assert_eq!(node("104:1"), [Path::new("/dev/cciss/c0d0p1")]);
    assert!(node("8:2").is_empty());
}

/// Only root can make nodes.
#[test]
fn a_file_system_on_several_devices_names_one_of_them() {
    use rustix::fs::{CWD, FileType, makedev, mknodat};

    if !rustix::process::geteuid().is_root() {
        return hyperv_needs::skip("only root can make the nodes of devices");
    }
    let root = tree(&[
        ("8:0", "pci/sda"),
        ("8:16", "pci/sdb"),
        ("8:32", "pci/sdc"),
        ("7:0", "virtual/loop0"),
    ]);
    fs::create_dir(root.path().join("dev")).unwrap();
    for (name, minor) in [("sda", 0), ("sdb", 16), ("sdc", 32)] {
        let node = root.path().join("dev").join(name);
        let device = makedev(8, minor);
        mknodat(CWD, node, FileType::BlockDevice, Mode::RUSR, device).unwrap();
    }
    for (uuid, devices) in [("one", &["sda"][..]), ("two", &["sdc", "sdb"])] {
        for device in devices {
            let path = format!("fs/btrfs/{uuid}/devices/{device}");
            link(&root, &path, &format!("pci/{device}"));
        }
    }
    fs::create_dir(root.path().join("sys/fs/btrfs/features")).unwrap();
    let members = |device, kind: &str, source: &str| {
        let file_system = FileSystem {
            device: number(device),
            kind: kind.into(),
            source: source.into(),
            ..FileSystem::default()
        };
        members(root.path(), &file_system)
    };
    let numbers = |texts: &[&str]| -> Vec<_> {
        let numbers = texts.iter().map(|it| Member::Number(number(it)));
        numbers.collect()
    };
    assert_eq!(members("8:3", "xfs", "/dev/sdb"), numbers(&["8:3"]));
    assert_eq!(members("0:40", "btrfs", "/dev/sda"), numbers(&["8:0"]));
    for source in ["/dev/sdb", "/dev/sdc"] {
        assert_eq!(members("0:41", "btrfs", source), numbers(&["8:16", "8:32"]));
    }
    let several = "/dev/sdb:/dev/sda";
    assert_eq!(
        members("0:42", "bcachefs", several),
        numbers(&["8:16", "8:0"])
    );
    for source in ["none", "/dev/root", "/dev", "", "/dev/../dev/sda", "/sda"] {
        let path = Member::Path(source.into());
        assert_eq!(members("0:43", "btrfs", source), [path]);
    }

    // A loop device can be made of a device, too.
    write(&root, "virtual/loop0/loop/backing_file", b"/dev/sdb\n");
    assert_eq!(bottom_of(&root, "7:0"), []);
}

#[test]
fn the_file_of_a_loop_device_is_found_even_when_it_has_no_name_any_more() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("directory")).unwrap();
    fs::write(root.path().join("directory/file"), "").unwrap();
    fs::write(root.path().join("directory/is (deleted)"), "").unwrap();
    let expected = mountinfo::id(fs::File::open(root.path()).unwrap()).unwrap();
    let found = |file: &str| mount_of(root.path(), Path::new(file));
    for file in ["file", "gone (deleted)", "is (deleted)"] {
        assert_eq!(found(&format!("/directory/{file}")), Some(expected));
    }
    for file in ["/directory/gone", "/gone/gone (deleted)", " (deleted)", ""] {
        assert_eq!(found(file), None, "{file}");
    }
}

/// Node, kind and what is below, of each layer.
fn lines(layers: &[Layer]) -> Vec<String> {
    let line = |layer: &Layer| {
        let below = layer.below.iter().map(|it| it.display().to_string());
        let below = below.collect::<Vec<_>>().join(" ");
        let (node, kind) = (layer.node.display(), layer.kind.as_str());
        format!("{} {node} {kind} < {below}", layer.depth)
    };
    layers.iter().map(line).collect()
}

#[test]
fn layers_are_told_down_to_the_disks() {
    let root = tree(&[
        ("253:2", "virtual/block/dm-2"),
        ("253:1", "virtual/block/dm-1"),
        ("253:0", "virtual/block/dm-0"),
        ("9:127", "virtual/block/md127"),
        ("8:1", "pci/sda/sda1"),
        ("8:17", "pci/sdb/sdb1"),
        ("252:0", "virtual/block/bcache0"),
        ("7:0", "virtual/block/loop0"),
        ("251:0", "virtual/block/zram0"),
    ]);
    for (name, uuid) in [
        ("dm-2", "LVM-1n7CzG1yCyVwXZ2f"),
        ("dm-1", "CRYPT-LUKS2-0d0f-luks"),
        ("dm-0", "part2-mpath-36001405"),
    ] {
        let path = |file: &str| format!("virtual/block/{name}/dm/{file}");
        write(&root, &path("name"), format!("name of {name}\n").as_bytes());
        write(&root, &path("uuid"), format!("{uuid}\n").as_bytes());
    }
    write(&root, "virtual/block/md127/md/level", b"raid1\n");
    for disk in ["sda", "sdb"] {
        write(&root, &format!("pci/{disk}/{disk}1/partition"), b"1\n");
    }
    for (upper, lower, path) in [
        ("dm-2", "dm-1", "virtual/block/dm-1"),
        ("dm-2", "dm-0", "virtual/block/dm-0"),
        ("dm-1", "md127", "virtual/block/md127"),
        ("md127", "sdb1", "pci/sdb/sdb1"),
        ("md127", "sda1", "pci/sda/sda1"),
        ("dm-0", "bcache0", "virtual/block/bcache0"),
        ("bcache0", "sda1", "pci/sda/sda1"),
    ] {
        let link_to = format!("devices/virtual/block/{upper}/slaves/{lower}");
        link(&root, &link_to, path);
    }
    let layers = layers_of(&root, "253:2");
    assert_eq!(
        lines(&layers),
        [
            "0 /dev/dm-2 lvm < /dev/dm-0 /dev/dm-1",
            "1 /dev/dm-0 partition < /dev/bcache0",
            "1 /dev/dm-1 crypt < /dev/md127",
            "2 /dev/bcache0 bcache < /dev/sda1",
            "2 /dev/md127 raid1 < /dev/sda1 /dev/sdb1",
            "3 /dev/sda1 partition < /dev/sda",
            "3 /dev/sdb1 partition < /dev/sdb",
            "4 /dev/sda disk < ",
            "4 /dev/sdb disk < ",
        ]
    );
    let name = "name of dm-2".to_owned();
    let purpose = "lvm".to_owned();
    assert_eq!(layers[0].kind, Kind::Mapper { purpose, name });
    assert_eq!(bottom(&layers), []);
    // What is not set up is made of nothing.
    assert_eq!(lines(&layers_of(&root, "7:0")), ["0 /dev/loop0 loop < "]);
    assert_eq!(lines(&layers_of(&root, "251:0")), ["0 /dev/zram0 zram < "]);
    assert_eq!(
        lines(&layers_of(&root, "1:1")),
        ["0 /dev/block/1:1 unknown < "]
    );
}

#[test]
fn purposes_of_device_mapper_are_told_by_the_uuid() {
    for (uuid, expected) in [
        ("", "dm"),
        ("no dash", "dm"),
        ("-", "dm"),
        ("LVM-x-tpool", "lvm"),
        ("CRYPT-PLAIN-swap", "crypt"),
        ("mpath-3600", "multipath"),
        ("part12-mpath-3600", "partition"),
        ("DMRAID-x", "DMRAID"),
    ] {
        assert_eq!(purpose(uuid), expected, "{uuid}");
    }
}

/// Paths as machines on Hyper-V and Azure have them.
const VMBUS: &str = "LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00";

#[test]
fn a_disk_of_hyper_v_is_told_where_it_is() {
    let scsi = "f8b3781b-1e82-4818-a1c3-63d806ec15bb";
    let ide = "00000001-0001-8899-0000-000000000000";
    let fc = "5620e0c7-8062-4dce-aeb7-520c7ef76171";
    let pci = "44444444-5555-0001-0000-000000000000";
    let disks = [
        (
            "8:112",
            format!("{VMBUS}/{scsi}/host2/target2:0:0/2:0:0:13/block/sdh"),
        ),
        (
            "8:0",
            format!("{VMBUS}/{ide}/host0/target0:0:1/0:0:1:0/block/sda"),
        ),
        (
            "8:16",
            format!("{VMBUS}/{fc}/host3/target3:0:0/3:0:0:2/block/sdb"),
        ),
        (
            "8:32",
            "pci0000:00/0000:00:1f.2/ata1/host4/target4:0:0/4:0:0:0/block/sdc".to_owned(),
        ),
        (
            "259:1",
            format!("{VMBUS}/{pci}/pci5555:00/5555:00:00.0/nvme/nvme0/nvme0n3"),
        ),
        (
            "259:2",
            format!("{VMBUS}/{pci}/pci5555:00/5555:00:00.0/nvme/nvme0/nvme0n1"),
        ),
        (
            "259:3",
            format!("{VMBUS}/{pci}/pci6666:00/6666:00:00.0/nvme/nvme1/nvme1n1"),
        ),
        (
            "259:4",
            "LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region0/namespace0.0/block/pmem0"
                .to_owned(),
        ),
        (
            "253:0",
            "pci0000:00/0000:00:04.0/virtio1/block/vda".to_owned(),
        ),
    ];
    let disks: Vec<_> = disks
        .iter()
        .map(|(number, path)| (*number, &**path))
        .collect();
    let root = tree(&disks);
    for (instance, class) in [
        (scsi, "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f"),
        (ide, "32412632-86cb-44a2-9b5c-50d1417354f5"),
        (fc, "2f9bcc4a-0069-4af3-b76b-6fd0be528cda"),
        (pci, "44c4f61d-4444-4400-9d52-802e27ede19f"),
    ] {
        for (file, guid) in [("class_id", class), ("device_id", instance)] {
            let file = format!("{VMBUS}/{instance}/{file}");
            write(&root, &file, format!("{{{guid}}}\n").as_bytes());
        }
    }
    for (_, path) in &disks {
        if let Some(name) = path.split_once("/nvme/").map(|(_, name)| name) {
            let model = match &name[..5] {
                "nvme0" => "MSFT NVMe Accelerator v1.0              ",
                _ => "Microsoft NVMe Direct Disk v2",
            };
            let namespace = &name[name.len() - 1..];
            write(&root, &format!("{path}/nsid"), namespace.as_bytes());
            write(
                &root,
                &format!("{path}/device/model"),
                format!("{model}\n").as_bytes(),
            );
        }
    }
    let place = |device: &str| match &layers_of(&root, device)[..] {
        [
            Layer {
                kind: Kind::Disk(location),
                ..
            },
        ] => location
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        other => panic!("{other:?}"),
    };
    assert_eq!(place("8:112"), format!("SCSI controller {scsi}, LUN 13"));
    assert_eq!(place("8:0"), "IDE controller 1, location 1");
    assert_eq!(place("8:16"), format!("Fibre Channel adapter {fc}, LUN 2"));
    assert_eq!(place("8:32"), "SCSI 4:0:0:0");
    assert_eq!(place("259:1"), "NVMe namespace 3 (Azure: data disk, LUN 1)");
    assert_eq!(place("259:2"), "NVMe namespace 1 (Azure: OS disk)");
    assert_eq!(place("259:3"), "NVMe namespace 1");
    assert_eq!(place("259:4"), "persistent memory");
    assert_eq!(place("253:0"), "");
}

#[test]
fn what_comes_over_a_network_may_be_on_this_machine() {
    let root = tree(&[
        (
            "8:0",
            "platform/host3/session1/target3:0:0/3:0:0:0/block/sda",
        ),
        (
            "8:16",
            "tcm_loop_0/tcm_loop_adapter_0/host4/target4:0:1/4:0:1:0/block/sdb",
        ),
        ("259:0", "virtual/nvme-fabrics/ctl/nvme0/nvme0n1"),
        ("259:1", "virtual/nvme-subsystem/nvme-subsys1/nvme1n1"),
        ("43:0", "virtual/block/ublkb0"),
    ]);
    fs::create_dir_all(
        root.path()
            .join("sys/devices/virtual/nvme-fabrics/ctl/nvme1"),
    )
    .unwrap();
    let controller = "devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1/device/nvme1";
    link(&root, controller, "virtual/nvme-fabrics/ctl/nvme1");
    for (device, kind) in [
        ("8:0", "iscsi"),
        ("8:16", "tcm_loop"),
        ("259:0", "nvme-fabrics"),
        ("259:1", "nvme-fabrics"),
        ("43:0", "ublk"),
    ] {
        let layers = layers_of(&root, device);
        assert_eq!(layers[0].kind.as_str(), kind);
        assert_eq!(bottom(&layers), [Bottom::Unknown(layers[0].node.clone())]);
    }
}

#[test]
fn a_file_system_is_on_its_log_and_on_its_journal_too() {
    let root = tree(&[
        ("8:1", "pci/sda"),
        ("7:257", "virtual/loop257"),
        ("7:3", "virtual/loop3"),
    ]);
    write(&root, "virtual/loop257/loop/backing_file", b"/log\n");
    let file_system = FileSystem {
        device: number("8:1"),
        kind: "xfs".into(),
        external: vec!["/dev/gone".into()],
        ..FileSystem::default()
    };
    let layers = walk(root.path(), &file_system);
    assert_eq!(
        lines(&layers),
        ["0 /dev/sda disk < ", "0 /dev/gone unknown < "]
    );
    assert_eq!(bottom(&layers), [Bottom::Unknown("/dev/gone".into())]);
    assert_eq!(nodes(&layers), [Path::new("/dev/sda")]);

    // The superblock of an ext4 with its journal on 7:257.
    let mut device = vec![0; 4096];
    device[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xef]);
    device[1024 + 0x5c] = 0x3c;
    device[1024 + 0xe4..][..4].copy_from_slice(&[0x01, 0x07, 0x10, 0]);
    fs::create_dir(root.path().join("dev")).unwrap();
    fs::write(root.path().join("dev/sda"), &device).unwrap();
    let journals = root.path().join("proc/fs/jbd2");
    let found = |kind: &str| {
        let file_system = FileSystem {
            device: number("8:1"),
            kind: kind.into(),
            ..FileSystem::default()
        };
        bottom(&walk(root.path(), &file_system))
    };
    // No journal at all is in use.
    assert_eq!(found("ext4"), []);
    fs::create_dir_all(journals.join("loop257")).unwrap();
    fs::create_dir_all(journals.join("sdaa-8")).unwrap();
    assert_eq!(found("ext4"), files(&["/log"]));
    assert_eq!(found("ext3"), files(&["/log"]));
    assert_eq!(found("xfs"), []);
    // It has its own.
    fs::create_dir_all(journals.join("sda-8")).unwrap();
    assert_eq!(found("ext4"), []);
    fs::remove_dir(journals.join("sda-8")).unwrap();
    for (at, wrong) in [(0x38, 0), (0x5c, 0x38), (0xe0, 8)] {
        let mut device = device.clone();
        device[1024 + at] = wrong;
        fs::write(root.path().join("dev/sda"), &device).unwrap();
        assert_eq!(found("ext4"), [], "{at:#x}");
    }
    fs::write(root.path().join("dev/sda"), &device[..2000]).unwrap();
    assert_eq!(found("ext4"), []);
}
