//! The plan of a backup in JSON, as "JSON OUTPUT" in hyperv-agent(8) describes it.

use std::path::Path;

use hyperv_services::vss::file_system::FileSystem;
use hyperv_services::vss::plan::Plan;
use serde::Serialize;

use super::hooks::Hooks;
use super::layers::{Layer, carrier};

/// A plan in JSON.
#[derive(Serialize)]
pub(super) struct Document {
    freeze: Vec<FileSystemItem>,
    blocked: Vec<LeftOut>,
    left_out: Vec<LeftOut>,
    unmatched_patterns: Vec<Unmatched>,
    namespaces_cut: bool,
    hooks: Vec<String>,
    refused_hooks: Vec<String>,
    not_executable_hooks: Vec<String>,
}

/// A file system in JSON. Bytes of paths that are not UTF-8 are replaced.
#[derive(Serialize)]
struct FileSystemItem {
    mount_points: Vec<String>,
    hidden_under: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    number: String,
    devices: Vec<String>,
    layers: Vec<Layer>,
    lies_on: Vec<BackingFile>,
}

#[derive(Serialize)]
struct LeftOut {
    #[serde(flatten)]
    item: FileSystemItem,
    reason: String,
}

/// A pattern that matches nothing, in JSON.
#[derive(Serialize)]
struct Unmatched {
    table: &'static str,
    list: &'static str,
    pattern: String,
}

/// What a device of a file system is made of, in JSON.
#[derive(Serialize)]
struct BackingFile {
    file: String,
    mount_point: Option<String>,
}

pub(super) fn document(plan: &Plan, hooks: &Hooks) -> Document {
    let item = |file_system: &FileSystem| {
        let mounts = file_system.mounts.iter();
        FileSystemItem {
            mount_points: mounts.map(|mount| lossy(&mount.point)).collect(),
            hidden_under: hidden_under(file_system).map(lossy),
            kind: file_system.kind.clone(),
            source: file_system.source.clone(),
            number: file_system.device.to_string(),
            devices: file_system.nodes.iter().map(|node| lossy(node)).collect(),
            layers: file_system.layers.iter().map(Layer::from).collect(),
            lies_on: file_system
                .lies_on
                .iter()
                .map(|lies_on| BackingFile {
                    file: lossy(&lies_on.what),
                    mount_point: carrier(plan, lies_on).map(lossy),
                })
                .collect(),
        }
    };
    let with_reason = |file_system, reason: &dyn ToString| LeftOut {
        item: item(file_system),
        reason: reason.to_string(),
    };
    let blocked = plan.blocked.iter();
    let left_out = plan.left_out.iter();
    let not_executable = hooks.not_executable.iter();
    Document {
        freeze: plan.freeze.iter().map(item).collect(),
        blocked: blocked
            .map(|it| with_reason(&it.file_system, &it.reason))
            .collect(),
        left_out: left_out
            .map(|it| with_reason(&it.file_system, &it.reason))
            .collect(),
        unmatched_patterns: plan
            .unmatched
            .iter()
            .map(|it| Unmatched {
                table: it.table,
                list: it.list,
                pattern: it.pattern.clone(),
            })
            .collect(),
        namespaces_cut: plan.namespaces_cut,
        hooks: hooks.run.iter().map(|path| lossy(path)).collect(),
        refused_hooks: hooks.refused.clone(),
        not_executable_hooks: not_executable.map(|path| lossy(path)).collect(),
    }
}

/// Returns the mount point that hides the file system wherever it is mounted.
pub(super) fn hidden_under(file_system: &FileSystem) -> Option<&Path> {
    file_system.mounts.first()?.hidden_under.as_deref()
}

pub(super) fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use hyperv_services::vss::block_devices::{self, Kind};
    use hyperv_services::vss::device_number::DeviceNumber;
    use hyperv_services::vss::file_system::{LiesOn, Mount};
    use hyperv_services::vss::plan::{self, Reason};

    use super::*;

    fn file_system(minor: u32, points: &[&str], kind: &str, source: &str) -> FileSystem {
        let mount = |point: &&str| Mount {
            point: point.into(),
            ..Mount::default()
        };
        FileSystem {
            device: DeviceNumber { major: 8, minor },
            kind: kind.into(),
            source: source.into(),
            mounts: points.iter().map(mount).collect(),
            nodes: vec![source.into()],
            ..FileSystem::default()
        }
    }

    pub(in super::super) fn example() -> Plan {
        let lies_on = |what: &str, minor: Option<u32>| LiesOn {
            what: what.into(),
            file_system: minor.map(|minor| DeviceNumber { major: 8, minor }),
            in_memory: false,
        };
        let layer = |node: &str, kind| block_devices::Layer {
            node: node.into(),
            kind,
            depth: 0,
            below: Vec::new(),
        };
        let left_out = |file_system, reason| plan::LeftOut {
            file_system,
            reason,
        };
        let mut unknown = file_system(1, &["/mnt"], "ext4", "/dev/nbd0");
        unknown.lies_on = vec![lies_on("/dev/nbd0", None)];
        unknown.layers = vec![layer("/dev/nbd0", Kind::Served("nbd"))];
        let mut upper = file_system(2, &["/a\u{1b}[2J", "/b"], "btrfs", "/dev/loop0");
        upper.nodes.push("/dev/loop1".into());
        upper.lies_on = vec![lies_on("/img/0", Some(3)), lies_on("/img/1", Some(9))];
        upper.layers = vec![
            layer("/dev/loop0", Kind::Loop(Some("/img/0".into()))),
            layer("/dev/loop1", Kind::Loop(Some("/img/1".into()))),
        ];
        upper.mounts[0].hidden_under = Some("/cover".into());
        let mut root = file_system(3, &["/"], "xfs", "/dev/mapper/root");
        root.layers = vec![layer("/dev/sda", Kind::Disk(None))];
        let mut memory = file_system(9, &["/img"], "tmpfs", "tmpfs");
        memory.nodes.clear();
        Plan {
            freeze: vec![unknown, upper, root],
            blocked: vec![plan::Blocked {
                file_system: file_system(7, &["/srv"], "ext4", "/dev/loop2"),
                reason: plan::Blocker::NotResponding("/nfs/image".into()),
            }],
            left_out: vec![
                left_out(
                    file_system(4, &["/boot/efi"], "vfat", "/dev/sda1"),
                    Reason::Unsupported,
                ),
                left_out(memory, Reason::NoBlockDevice),
                left_out(
                    file_system(5, &["/proc"], "proc", "proc"),
                    Reason::NoBlockDevice,
                ),
                left_out(
                    file_system(6, &["/tmp"], "tmpfs", "tmpfs"),
                    Reason::NoBlockDevice,
                ),
            ],
            unmatched: vec![plan::UnmatchedPattern {
                table: "vss.exclude",
                list: "mount-points",
                pattern: "/x\u{1b}".into(),
            }],
            namespaces_cut: false,
        }
    }

    #[test]
    fn json_has_the_whole_plan() {
        let json = serde_json::to_value(document(&example(), &Hooks::default())).unwrap();
        assert_eq!(
            json["freeze"][1],
            serde_json::json!({
                "mount_points": ["/a\u{1b}[2J", "/b"],
                "hidden_under": "/cover",
                "type": "btrfs",
                "source": "/dev/loop0",
                "number": "8:2",
                "devices": ["/dev/loop0", "/dev/loop1"],
                "layers": [
                    {"device": "/dev/loop0", "kind": "loop", "file": "/img/0", "below": []},
                    {"device": "/dev/loop1", "kind": "loop", "file": "/img/1", "below": []},
                ],
                "lies_on": [
                    {"file": "/img/0", "mount_point": "/"},
                    {"file": "/img/1", "mount_point": "/img"},
                ],
            })
        );
        let unknown = serde_json::json!([{"file": "/dev/nbd0", "mount_point": null}]);
        assert_eq!(json["freeze"][0]["lies_on"], unknown);
        assert_eq!(json["blocked"][0]["mount_points"][0], "/srv");
        let reason = "/nfs/image, which it lies on, does not answer";
        assert_eq!(json["blocked"][0]["reason"], reason);
        assert_eq!(
            json["left_out"][0]["reason"],
            Reason::Unsupported.to_string()
        );
        assert_eq!(
            json["unmatched_patterns"],
            serde_json::json!([{
                "table": "vss.exclude",
                "list": "mount-points",
                "pattern": "/x\u{1b}",
            }])
        );
        assert_eq!(json["namespaces_cut"], false);
        assert_eq!(json["left_out"][0]["mount_points"][0], "/boot/efi");
        assert_eq!(json["left_out"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn json_says_that_there_are_too_many_mount_namespaces() {
        let plan = Plan {
            namespaces_cut: true,
            ..Plan::default()
        };
        let json = serde_json::to_value(document(&plan, &Hooks::default())).unwrap();
        assert_eq!(json["namespaces_cut"], true);
    }

    #[test]
    fn json_has_the_hooks() {
        let hooks = Hooks {
            run: vec!["/vss.d/1".into()],
            refused: vec!["/vss.d/3 will not be run".into()],
            not_executable: vec!["/vss.d/\u{1b}4".into()],
            ..Hooks::default()
        };
        let json = serde_json::to_value(document(&Plan::default(), &hooks)).unwrap();
        assert_eq!(json["hooks"][0], "/vss.d/1");
        assert_eq!(json["refused_hooks"][0], "/vss.d/3 will not be run");
        assert_eq!(json["not_executable_hooks"][0], "/vss.d/\u{1b}4");
    }
}
