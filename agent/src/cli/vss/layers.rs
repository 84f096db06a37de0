//! The block devices below file systems, as text and in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hyperv_services::vss::block_devices::{self, Azure, Kind, Location};
use hyperv_services::vss::file_system::{FileSystem, LiesOn};
use hyperv_services::vss::plan::Plan;
use serde::Serialize;

use crate::terminal::{aligned, escaped};

/// Devices of one level, and mount points, that are listed before "and 2 more".
const MAX_LISTED: usize = 4;

/// Returns the devices below a file system, from the top down, such as
/// `lvm vg-data < partition sdb1 < disk sdb`.
pub(crate) fn chain(plan: &Plan, file_system: &FileSystem) -> String {
    // Depth, kind and name.
    let mut words: Vec<(usize, &str, String)> = Vec::new();
    for layer in &file_system.layers {
        let (depth, kind) = (layer.depth, layer.kind.as_str());
        let name = match &layer.kind {
            Kind::Mapper { name, .. } => name.clone(),
            _ => short(&layer.node),
        };
        words.push((depth, kind, name));
        match &layer.kind {
            Kind::Loop(Some(file)) => {
                let lies_on = file_system.lies_on.iter().find(|it| it.what == *file);
                let place = match lies_on.and_then(|it| carrier(plan, it)) {
                    Some(point) => point.display().to_string(),
                    None => "an unknown file system".to_owned(),
                };
                let name = format!("{} in {place}", file.display());
                words.push((depth + 1, "file", name));
            }
            Kind::Served(_) => words.push((depth + 1, "unknown", String::new())),
            _ => {}
        }
    }
    let deepest = words.iter().map(|(depth, ..)| depth + 1).max();
    let levels = (0..deepest.unwrap_or(0)).map(|level| {
        let on_level = words.iter().filter(|(depth, ..)| *depth == level);
        let mut before = "";
        let names = on_level.map(|(_, kind, name)| {
            let words = [if before == *kind { "" } else { kind }, name];
            before = kind;
            words.join(" ").trim().to_owned()
        });
        and_more(names.collect())
    });
    let levels: Vec<_> = levels.collect();
    match levels.is_empty() {
        true => "-".to_owned(),
        false => escaped(&levels.join(" < ")),
    }
}

/// Returns a table of the disks that file systems are on, with the controller and
/// LUN of each; empty if there are none.
pub(crate) fn disks(plan: &Plan) -> String {
    // Location, and mount points.
    let mut disks: BTreeMap<&Path, (&Option<Location>, Vec<String>)> = BTreeMap::new();
    for file_system in plan.all() {
        for (node, location) in needed(plan, file_system) {
            let (_, points) = disks.entry(node).or_insert((location, Vec::new()));
            points.push(file_system.mount_point().display().to_string());
        }
    }
    if disks.is_empty() {
        return String::new();
    }
    let header = ["  DISK", "NEEDED BY", "LOCATION"].map(str::to_owned);
    let rows = disks.into_iter().map(|(node, (location, points))| {
        let location = location.as_ref().map(ToString::to_string);
        [
            format!("  {}", escaped(&short(node))),
            escaped(&and_more(points)),
            escaped(location.as_deref().unwrap_or("-")),
        ]
    });
    let rows: Vec<_> = [header].into_iter().chain(rows).collect();
    format!("\nDisks:\n\n{}", aligned(&rows))
}

/// Returns the disks that a file system needs: its own, and those of the file systems
/// that hold the files of its loop devices.
fn needed<'a>(
    plan: &'a Plan,
    file_system: &'a FileSystem,
) -> BTreeMap<&'a Path, &'a Option<Location>> {
    let mut disks = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![file_system];
    while let Some(file_system) = next.pop() {
        if !seen.insert(file_system.device) {
            continue;
        }
        for layer in &file_system.layers {
            if let Kind::Disk(location) = &layer.kind {
                disks.insert(&*layer.node, location);
            }
        }
        let carriers = file_system.lies_on.iter().filter_map(|it| it.file_system);
        next.extend(carriers.filter_map(|device| plan.find(device)));
    }
    disks
}

/// Returns the mount point of the file system that holds a loop device's file.
pub(crate) fn carrier<'a>(plan: &'a Plan, lies_on: &LiesOn) -> Option<&'a Path> {
    let carrier = plan.find(lies_on.file_system?)?;
    Some(carrier.mount_point())
}

/// Returns a node's path below `/dev`.
fn short(node: &Path) -> String {
    node.strip_prefix("/dev")
        .unwrap_or(node)
        .display()
        .to_string()
}

/// Joins the first names, and says how many more there are.
fn and_more(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// A layer in JSON, without keys for what it does not have.
#[derive(Serialize)]
pub(crate) struct Layer {
    device: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<DiskLocation>,
    below: Vec<String>,
}

/// Controller and LUN of a disk in JSON.
#[derive(Serialize, Default)]
struct DiskLocation {
    text: String,
    controller_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller_number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller_location: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    azure_lun: Option<u64>,
}

impl From<&block_devices::Layer> for Layer {
    fn from(layer: &block_devices::Layer) -> Self {
        let lossy = |path: &Path| path.to_string_lossy().into_owned();
        let mut this = Self {
            device: lossy(&layer.node),
            kind: layer.kind.as_str().to_owned(),
            name: None,
            file: None,
            location: None,
            below: layer.below.iter().map(|node| lossy(node)).collect(),
        };
        match &layer.kind {
            Kind::Mapper { name, .. } => this.name = Some(name.clone()),
            Kind::Loop(Some(file)) => this.file = Some(lossy(file)),
            Kind::Disk(location) => this.location = location.as_ref().map(DiskLocation::from),
            _ => {}
        }
        this
    }
}

impl From<&Location> for DiskLocation {
    fn from(location: &Location) -> Self {
        let mut this = Self {
            text: location.to_string(),
            controller_type: "SCSI",
            ..Self::default()
        };
        match location {
            Location::Scsi { controller, lun } => {
                this.controller_id = Some(controller.to_string());
                this.controller_location = Some(*lun);
            }
            Location::Ide {
                controller,
                location,
            } => {
                this.controller_type = "IDE";
                this.controller_number = Some(*controller);
                this.controller_location = Some((*location).into());
            }
            Location::FibreChannel { adapter, lun } => {
                this.controller_type = "FibreChannel";
                this.controller_id = Some(adapter.to_string());
                this.controller_location = Some(*lun);
            }
            Location::OtherScsi { address } => this.address = Some(address.clone()),
            Location::Nvme { namespace, azure } => {
                this.controller_type = "NVMe";
                this.namespace = Some(*namespace);
                if let Some(Azure::Data(lun)) = azure {
                    this.azure_lun = Some(*lun);
                }
            }
            Location::Pmem => this.controller_type = "PMEM",
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use hyperv_services::vss::device_number::DeviceNumber;
    use hyperv_services::vss::file_system::Mount;
    use hyperv_services::vss::plan::{LeftOut, Reason};

    use super::*;

    const GUID: &str = "f8b3781b-1e82-4818-a1c3-63d806ec15bb";

    fn layer(depth: usize, node: &str, kind: Kind, below: &[&str]) -> block_devices::Layer {
        block_devices::Layer {
            node: node.into(),
            kind,
            depth,
            below: below.iter().map(Into::into).collect(),
        }
    }

    fn file_system(minor: u32, point: &str, layers: Vec<block_devices::Layer>) -> FileSystem {
        FileSystem {
            device: DeviceNumber { major: 8, minor },
            mounts: vec![Mount {
                point: point.into(),
                ..Mount::default()
            }],
            layers,
            ..FileSystem::default()
        }
    }

    fn disk(depth: usize, node: &str, lun: u64) -> block_devices::Layer {
        let controller = GUID.parse().unwrap();
        let location = Location::Scsi { controller, lun };
        layer(depth, node, Kind::Disk(Some(location)), &[])
    }

    fn mapper(purpose: &str, name: &str) -> Kind {
        Kind::Mapper {
            purpose: purpose.into(),
            name: name.into(),
        }
    }

    /// `/` on LVM in an encrypted array of two partitions, and `/data` in a file
    /// of it with its log on a disk of its own.
    fn plan() -> Plan {
        let root = file_system(
            1,
            "/",
            vec![
                layer(0, "/dev/dm-1", mapper("lvm", "vg-root"), &["/dev/dm-0"]),
                layer(
                    1,
                    "/dev/dm-0",
                    mapper("crypt", "luks\u{1b}[2J"),
                    &["/dev/md0"],
                ),
                layer(
                    2,
                    "/dev/md0",
                    Kind::Raid("raid1".into()),
                    &["/dev/sda1", "/dev/sdb1"],
                ),
                layer(3, "/dev/sda1", Kind::Partition, &["/dev/sda"]),
                layer(3, "/dev/sdb1", Kind::Partition, &["/dev/sdb"]),
                disk(4, "/dev/sda", 0),
                disk(4, "/dev/sdb", 1),
            ],
        );
        let mut data = file_system(
            2,
            "/data",
            vec![
                layer(0, "/dev/loop0", Kind::Loop(Some("/srv/data".into())), &[]),
                layer(0, "/dev/vda", Kind::Disk(None), &[]),
            ],
        );
        data.lies_on = vec![LiesOn {
            what: "/srv/data".into(),
            file_system: Some(root.device),
            in_memory: false,
        }];
        let net = file_system(
            3,
            "/net",
            vec![layer(0, "/dev/nbd0", Kind::Served("nbd"), &[])],
        );
        let efi = file_system(4, "/boot/efi", vec![disk(0, "/dev/sda", 0)]);
        Plan {
            freeze: vec![net, data, root],
            left_out: vec![LeftOut {
                file_system: efi,
                reason: Reason::Unsupported,
            }],
            ..Plan::default()
        }
    }

    #[test]
    fn layers_of_a_file_system_are_one_line() {
        let plan = plan();
        let chains: Vec<_> = plan.freeze.iter().map(|it| chain(&plan, it)).collect();
        assert_eq!(
            chains,
            [
                "nbd nbd0 < unknown",
                "loop loop0, disk vda < file /srv/data in /",
                "lvm vg-root < crypt luks\\u{1b}[2J < raid1 md0 < partition sda1, sdb1 < disk sda, sdb",
            ]
        );
        assert_eq!(chain(&plan, &FileSystem::default()), "-");
        let disks =
            (0..6).map(|number| layer(0, &format!("/dev/sd{number}"), Kind::Disk(None), &[]));
        let many = file_system(9, "/many", disks.collect());
        assert_eq!(chain(&plan, &many), "disk sd0, sd1, sd2, sd3 and 2 more");
    }

    #[test]
    fn disks_are_listed_with_the_file_systems_that_need_them() {
        let expected = format!(
            "
Disks:

  DISK  NEEDED BY            LOCATION
  sda   /data, /, /boot/efi  SCSI controller {GUID}, LUN 0
  sdb   /data, /             SCSI controller {GUID}, LUN 1
  vda   /data                -
"
        );
        assert_eq!(disks(&plan()), expected);
        assert_eq!(disks(&Plan::default()), "");
    }

    #[test]
    fn json_has_each_layer() {
        let plan = plan();
        let json = |layer: &block_devices::Layer| serde_json::to_value(Layer::from(layer)).unwrap();
        let root: Vec<_> = plan.freeze[2].layers.iter().map(json).collect();
        assert_eq!(
            root[0],
            serde_json::json!({
                "device": "/dev/dm-1",
                "kind": "lvm",
                "name": "vg-root",
                "below": ["/dev/dm-0"],
            })
        );
        assert_eq!(
            root[6],
            serde_json::json!({
                "device": "/dev/sdb",
                "kind": "disk",
                "location": {
                    "text": format!("SCSI controller {GUID}, LUN 1"),
                    "controller_type": "SCSI",
                    "controller_id": GUID,
                    "controller_location": 1,
                },
                "below": [],
            })
        );
        let data = json(&plan.freeze[1].layers[0]);
        assert_eq!(data["file"], "/srv/data");
    }

    #[test]
    fn each_kind_of_location_has_its_own_json_keys() {
        let guid = || GUID.parse().unwrap();
        for (location, expected) in [
            (
                Location::Ide {
                    controller: 1,
                    location: 0,
                },
                serde_json::json!({"controller_type": "IDE", "controller_number": 1, "controller_location": 0}),
            ),
            (
                Location::FibreChannel {
                    adapter: guid(),
                    lun: 2,
                },
                serde_json::json!({"controller_type": "FibreChannel", "controller_id": GUID, "controller_location": 2}),
            ),
            (
                Location::OtherScsi {
                    address: "0:0:0:1".into(),
                },
                serde_json::json!({"controller_type": "SCSI", "address": "0:0:0:1"}),
            ),
            (
                Location::Nvme {
                    namespace: 3,
                    azure: Some(Azure::Data(1)),
                },
                serde_json::json!({"controller_type": "NVMe", "namespace": 3, "azure_lun": 1}),
            ),
            (
                Location::Nvme {
                    namespace: 1,
                    azure: Some(Azure::Os),
                },
                serde_json::json!({"controller_type": "NVMe", "namespace": 1}),
            ),
            (
                Location::Pmem,
                serde_json::json!({"controller_type": "PMEM"}),
            ),
        ] {
            let mut json = serde_json::to_value(DiskLocation::from(&location)).unwrap();
            let text = json.as_object_mut().unwrap().remove("text").unwrap();
            assert_eq!(text, location.to_string());
            assert_eq!(json, expected);
        }
    }
}
