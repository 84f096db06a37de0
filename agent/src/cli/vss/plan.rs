//! `hyperv-agent vss plan`: the hooks and file systems of a backup.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use hyperv_services::vss::file_system::FileSystem;
use hyperv_services::vss::hooks::{self, Found, HookError, OnFailure};
use hyperv_services::vss::plan::{self, Plan, Reason};
use hyperv_services::vss::prepare;
use serde::Serialize;

use super::super::args::ConfigFile;
use super::super::output::{self, Exit};
use super::layers::{self, Layer, carrier, chain};
use crate::config;
use crate::terminal::{aligned, escaped};

const HELP: &str = "\
Nothing is frozen and no hook is run. Only root can see every device that a file
system is on.

A file system that turns out not to support freezing is left out at the backup.
[vss.include] and [vss.exclude] in the configuration choose the file systems, see
hyperv-agent.toml(5).";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ShowPlan {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigFile,
}

impl ShowPlan {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let config = config::load(self.config.path.as_deref())?.service.vss;
        // Only root may open what a backup freezes.
        let plan = match rustix::process::geteuid().is_root() {
            true => prepare::plan_and_open(&config)?.plan,
            false => plan::make(&config)?,
        };
        let hooks = Hooks::find(&config.hooks);
        if self.json {
            output::print_json(&document(&plan, &hooks))?;
        } else {
            output::print(&(text(&plan) + &hooks.text()))?;
        }
        Ok(Exit::Success)
    }
}

/// The hooks of a backup.
#[derive(Default)]
struct Hooks {
    /// In the order in which they are run before a freeze.
    run: Vec<PathBuf>,
    /// Messages that say which hook is not run, and why.
    refused: Vec<String>,
    /// Files in the directory that are not executable.
    not_executable: Vec<PathBuf>,
    on_failure: OnFailure,
}

impl Hooks {
    fn find(config: &hooks::Config) -> Self {
        let message = |error: HookError| format!("{:#}", anyhow::Error::from(error));
        let found = hooks::find(&config.directory).unwrap_or_else(|error| Found {
            refused: vec![error],
            ..Found::default()
        });
        Self {
            run: found.hooks,
            refused: found.refused.into_iter().map(message).collect(),
            not_executable: found.not_executable,
            on_failure: config.on_failure,
        }
    }

    /// Returns the hooks as text; empty if there are none.
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.run.is_empty() {
            text +=
                "\nHooks, run in this order before the freeze, and in reverse after the thaw:\n\n";
        }
        for path in &self.run {
            text += &format!("  {}\n", escaped(&path.display().to_string()));
        }
        if !self.refused.is_empty() {
            text += match self.on_failure {
                OnFailure::Stop => "\nA backup fails as long as these hooks are refused:\n\n",
                OnFailure::GoOn => "\nRefused, and skipped:\n\n",
            };
        }
        for why in &self.refused {
            text += &format!("  {}\n", escaped(why));
        }
        if !self.not_executable.is_empty() {
            text += "\nIgnored, as they are not executable (chmod +x makes them hooks):\n\n";
        }
        for path in &self.not_executable {
            text += &format!("  {}\n", escaped(&path.display().to_string()));
        }
        text
    }
}

/// A plan in JSON.
#[derive(Serialize)]
struct Document {
    freeze: Vec<Item>,
    blocked: Vec<LeftOut>,
    left_out: Vec<LeftOut>,
    unmatched_patterns: Vec<Unmatched>,
    hooks: Vec<String>,
    refused_hooks: Vec<String>,
    not_executable_hooks: Vec<String>,
}

/// A file system in JSON. Bytes of paths that are not UTF-8 are replaced.
#[derive(Serialize)]
struct Item {
    mount_points: Vec<String>,
    hidden_under: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    number: String,
    devices: Vec<String>,
    layers: Vec<Layer>,
    lies_on: Vec<Carrier>,
}

#[derive(Serialize)]
struct LeftOut {
    #[serde(flatten)]
    item: Item,
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
struct Carrier {
    file: String,
    mount_point: Option<String>,
}

fn document(plan: &Plan, hooks: &Hooks) -> Document {
    let item = |file_system: &FileSystem| {
        let mounts = file_system.mounts.iter();
        Item {
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
                .map(|lies_on| Carrier {
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
        hooks: hooks.run.iter().map(|path| lossy(path)).collect(),
        refused_hooks: hooks.refused.clone(),
        not_executable_hooks: hooks
            .not_executable
            .iter()
            .map(|path| lossy(path))
            .collect(),
    }
}

/// Returns the plan as text.
fn text(plan: &Plan) -> String {
    let mut text = String::new();
    if plan.freeze.is_empty() {
        text += "No file system would be frozen.\n";
    } else {
        text += "Frozen in this order, thawed in reverse:\n\n";
        let header = ["", "MOUNT POINT", "TYPE", "DEVICE", "LIES ON"].map(str::to_owned);
        let rows = (1..).zip(&plan.freeze).map(|(number, file_system)| {
            let [point, kind, device] = cells(file_system);
            let lies_on = chain(plan, file_system);
            [format!("{number:3}"), point, kind, device, lies_on]
        });
        text += &aligned(&[header].into_iter().chain(rows).collect::<Vec<_>>());
    }

    if !plan.blocked.is_empty() {
        text += "\nA backup fails as long as these cannot be frozen:\n\n";
        let blocked = plan.blocked.iter();
        text += &reasons(blocked.map(|it| (&it.file_system, it.reason.to_string())));
    }
    let (pseudo, others): (Vec<_>, Vec<_>) = plan
        .left_out
        .iter()
        .partition(|it| it.reason == Reason::NoBlockDevice);
    if !others.is_empty() {
        text += "\nLeft out:\n\n";
        text += &reasons(
            others
                .iter()
                .map(|it| (&it.file_system, it.reason.to_string())),
        );
    }
    if !pseudo.is_empty() {
        let types: BTreeSet<_> = pseudo.iter().map(|it| &*it.file_system.kind).collect();
        let types: Vec<_> = types.into_iter().map(escaped).collect();
        text += &format!("\nOn no block device: {}\n", types.join(", "));
    }
    text += &layers::disks(plan);
    if plan.namespaces_cut {
        text += &format!("\nWarning: {}.\n", Plan::NAMESPACES_CUT);
    }
    for unmatched in &plan.unmatched {
        text += &format!("\nWarning: {}.\n", escaped(&unmatched.to_string()));
    }
    text
}

/// Returns a table of file systems with a reason each.
fn reasons<'a>(rows: impl Iterator<Item = (&'a FileSystem, String)>) -> String {
    let header = ["  MOUNT POINT", "TYPE", "DEVICE", "REASON"].map(str::to_owned);
    let rows = rows.map(|(file_system, reason)| {
        let [point, kind, device] = cells(file_system);
        [format!("  {point}"), kind, device, escaped(&reason)]
    });
    aligned(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}

/// Returns mount point, type and device of a file system.
fn cells(file_system: &FileSystem) -> [String; 3] {
    let mut point = and_more(&lossy(file_system.mount_point()), file_system.mounts.len());
    if let Some(cover) = hidden_under(file_system) {
        point += &format!(" (hidden under {})", escaped(&lossy(cover)));
    }
    [
        point,
        escaped(&file_system.kind),
        and_more(&file_system.source, file_system.nodes.len()),
    ]
}

/// Returns the mount point that hides the file system wherever it is mounted.
fn hidden_under(file_system: &FileSystem) -> Option<&Path> {
    file_system.mounts.first()?.hidden_under.as_deref()
}

/// Returns `first`, and how many more there are of `count`.
fn and_more(first: &str, count: usize) -> String {
    match count.saturating_sub(1) {
        0 => escaped(first),
        more => format!("{} (and {more} more)", escaped(first)),
    }
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use hyperv_services::vss::block_devices::{self, Kind};
    use hyperv_services::vss::device_number::DeviceNumber;
    use hyperv_services::vss::file_system::{LiesOn, Mount};
    use hyperv_services::vss::plan;

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

    fn made_up() -> Plan {
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
    fn a_plan_is_shown() {
        let expected = r#"Frozen in this order, thawed in reverse:

     MOUNT POINT                               TYPE   DEVICE                   LIES ON
  1  /mnt                                      ext4   /dev/nbd0                nbd nbd0 < unknown
  2  /a\u{1b}[2J (and 1 more) (hidden under /cover)  btrfs  /dev/loop0 (and 1 more)  loop loop0, loop1 < file /img/0 in /, /img/1 in /img
  3  /                                         xfs    /dev/mapper/root         disk sda

A backup fails as long as these cannot be frozen:

  MOUNT POINT  TYPE  DEVICE      REASON
  /srv         ext4  /dev/loop2  /nfs/image, which it lies on, does not answer

Left out:

  MOUNT POINT  TYPE  DEVICE     REASON
  /boot/efi    vfat  /dev/sda1  file systems of this type cannot be frozen

On no block device: proc, tmpfs

Disks:

  DISK  NEEDED BY       LOCATION
  sda   /a\u{1b}[2J, /  -

Warning: "/x\u{1b}" in mount-points of [vss.exclude] matches no file system.
"#;
        assert_eq!(text(&made_up()), expected);
        assert_eq!(text(&Plan::default()), "No file system would be frozen.\n");
    }

    #[test]
    fn hooks_are_shown() {
        assert_eq!(Hooks::default().text(), "");
        let mut hooks = Hooks {
            run: vec!["/vss.d/1".into(), "/vss.d/\u{1b}2".into()],
            refused: vec!["/vss.d/3 will not be run".into()],
            not_executable: vec!["/vss.d/\u{1b}4".into()],
            on_failure: OnFailure::Stop,
        };
        let runs = r"
Hooks, run in this order before the freeze, and in reverse after the thaw:

  /vss.d/1
  /vss.d/\u{1b}2
";
        let stops = "\nA backup fails as long as these hooks are refused:\n\n";
        let refused = "  /vss.d/3 will not be run\n";
        let files = "
Ignored, as they are not executable (chmod +x makes them hooks):

  /vss.d/\\u{1b}4
";
        assert_eq!(hooks.text(), format!("{runs}{stops}{refused}{files}"));
        hooks.on_failure = OnFailure::GoOn;
        let left_out = "\nRefused, and skipped:\n\n";
        assert_eq!(hooks.text(), format!("{runs}{left_out}{refused}{files}"));
        let json = serde_json::to_value(document(&Plan::default(), &hooks)).unwrap();
        assert_eq!(json["hooks"][0], "/vss.d/1");
        assert_eq!(json["refused_hooks"][0], "/vss.d/3 will not be run");
        assert_eq!(json["not_executable_hooks"][0], "/vss.d/\u{1b}4");
    }

    #[test]
    fn json_has_it_all() {
        let json = serde_json::to_value(document(&made_up(), &Hooks::default())).unwrap();
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
        assert_eq!(json["left_out"][0]["mount_points"][0], "/boot/efi");
        assert_eq!(json["left_out"].as_array().unwrap().len(), 4);
    }
}
