//! `hyperv-agent vss plan`: the hooks and file systems of a backup.

use std::collections::BTreeSet;

use clap::Args;
use hyperv_services::vss::file_system::FileSystem;
use hyperv_services::vss::plan::{self, Plan, Reason};
use hyperv_services::vss::prepare;

use super::super::args::ConfigFile;
use super::super::output::{self, Exit};
use super::document::{document, hidden_under, lossy};
use super::hooks::Hooks;
use super::layers::{self, chain};
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

/// Returns `first`, and how many more there are of `count`.
fn and_more(first: &str, count: usize) -> String {
    match count.saturating_sub(1) {
        0 => escaped(first),
        more => format!("{} (and {more} more)", escaped(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::tests::example;
    use super::*;

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
        assert_eq!(text(&example()), expected);
        assert_eq!(text(&Plan::default()), "No file system would be frozen.\n");
    }
}
