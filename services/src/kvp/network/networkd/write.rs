//! systemd-networkd: a file in `/etc/systemd/network` whose name sorts before those of
//! administrators and of netplan. Of the files that match an interface only the first takes
//! effect, so it has what the one in force has, too.

use std::time::Duration;

use super::base::{self, Base, LinkState, file_name};
use super::keep::{Kept, keep};
use super::settle::{obstacle, settle};
use crate::kvp::network::error::InjectError;
use crate::kvp::network::ini::{Document, Section, Syntax};
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan, Step};
use crate::kvp::network::settings::Settings;
use crate::kvp::network::target::Target;

/// Renders the file.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings, kept: &Kept) -> String {
    let mut document = Document::new(Syntax::Unit);
    let mut matching = Section::new("Match");
    matching.push("Name", &target.name);
    if let Some(mac) = target.mac() {
        matching.push("MACAddress", mac);
    }
    let mut network = Section::new("Network");
    let (kept4, kept6) = kept.dhcp;
    let dhcp4 = match settings.families.has_v4() {
        true => settings.dhcp4,
        false => kept4,
    };
    let dhcp = match (dhcp4, kept6) {
        (true, true) => "yes",
        (true, false) => "ipv4",
        (false, true) => "ipv6",
        (false, false) => "no",
    };
    network.push("DHCP", dhcp);
    for (ip, prefix) in settings.addresses() {
        if !kept.addresses.contains(&ip) {
            network.push("Address", format!("{ip}/{prefix}"));
        }
    }
    for ip in &settings.dns {
        network.push("DNS", ip.to_string());
    }
    network.lines.extend_from_slice(&kept.network);
    document.sections.extend([matching, network]);
    for route in settings.routes() {
        let mut section = Section::new("Route");
        section.push("Gateway", route.gateway.to_string());
        if route.on_link {
            section.push("GatewayOnLink", "yes");
        }
        if let Some(metric) = route.metric {
            section.push("Metric", metric.to_string());
        } else {
            // The first of its family.
            let [v4, v6] = &kept.default_routes;
            let lines = if route.gateway.is_ipv4() { v4 } else { v6 };
            section.lines.extend(lines.iter().flatten().cloned());
        }
        document.sections.push(section);
    }
    document.sections.extend_from_slice(&kept.sections);
    format!("{HEADER}{}", document.render())
}

/// systemd-networkd removes the previous configuration before it applies the new one.
const STABLE_FOR: Duration = Duration::from_millis(500);

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    plan_over(context, "systemd-networkd", &|_| false)
}

/// Plans for a manager that generates files for systemd-networkd. Those of a name that
/// `passes_over` returns `true` for are not kept.
pub(in crate::kvp::network) fn plan_over(
    context: &Context<'_>,
    manager: &'static str,
    passes_over: &dyn Fn(&str) -> bool,
) -> Result<Plan, InjectError> {
    let (root, interface, settings) = (context.root, context.interface, context.settings);
    let name = file_name(context.target);
    let base = base::base(root, interface, &name, passes_over);
    // As long as the master is not there, nothing else tells that it has the addresses.
    let port_of = |base: &Base| {
        let masters = ["Bridge", "Bond"].map(|key| base.document.last("Network", key));
        let master = masters
            .into_iter()
            .flatten()
            .find(|master| !master.is_empty());
        master.map(str::to_owned)
    };
    if let (false, Some(master)) = (context.running, base.as_ref().and_then(port_of)) {
        return Err(InjectError::Unsupported {
            manager,
            why: format!(
                "{} will be a port of {master} when it has started",
                context.target.name
            ),
        });
    }
    // The kernel may lack a driver: as long as the device cannot be made, the interface has no
    // configuration at all.
    let failed = LinkState::read(root, interface).is_some_and(|state| state.failed());
    let devices = context.path("sys/class/net");
    let stacked = |device: &str| !failed || devices.join(device).exists();
    let kept = match &base {
        Some(base) => keep(&base.name, &base.document, settings, &stacked),
        None => Kept::nothing(),
    };
    let text = render(context.target, settings, &kept);
    let path = context.path("etc/systemd/network").join(name);
    let file = NewFile {
        owner: base
            .as_ref()
            .and_then(group_only)
            .map(|(_, group)| (0, group)),
        ..NewFile::new(
            path,
            text,
            base.as_ref()
                .and_then(group_only)
                .map_or(0o644, |(mode, _)| mode),
        )
    };
    // `reconfigure` alone does not read files, and after a reload that works it would remove the
    // new addresses once more. `reload` alone does not reconfigure an interface in state "failed".
    let reload = context.step("networkctl", &["reload"])?;
    let reconfigure = context.step("networkctl", &["reconfigure", &context.target.name])?;
    // When systemd-networkd removes the last IPv4 address, the kernel removes the routes without a
    // word. systemd-networkd then takes those that stay for configured.
    let flush = ["-4", "route", "flush", "table", "all", "dev"];
    let flush = [&flush[..], &[&*context.target.name, "proto", "static"]].concat();
    let flush = context.step("ip", &flush).map(Step::may_fail);
    let stop = match settings.families.has_v4() && kept.has_route() {
        true => flush.into_iter().collect(),
        false => Vec::new(),
    };
    Ok(Plan {
        stable_for: STABLE_FOR,
        lost: kept.lost,
        settle: Some(settle),
        obstacle: Some(obstacle),
        stop,
        ..Plan::new(
            manager,
            vec![file],
            vec![reload.clone()],
            vec![reload, reconfigure],
        )
    })
}

/// Returns the permission bits and the group of a file that not everybody may read.
/// systemd-networkd does not run as root.
fn group_only(base: &Base) -> Option<(u32, u32)> {
    (base.mode & 0o004 == 0).then_some((base.mode & 0o640 | 0o600, base.group))
}
