//! Netplan, which has files in `/etc/netplan` and generates others for systemd-networkd or
//! NetworkManager.
//!
//! Netplan merges definitions of the same name from several files, and concatenates lists: no
//! later file can remove an address that cloud-init's file assigns to `eth0`.
//!
//! systemd-networkd uses the first file that matches an interface. Netplan generates its files in
//! `/run` and with names that begin with `10-`, so the agent writes one of its own that comes
//! before these, with what they have.
//!
//! NetworkManager uses the connection of the highest priority. There the agent's file, in
//! `/etc/netplan`, has a second definition for the interface, with what the profile in force has
//! and with the devices on top of it. The rest of the other files (names of devices, other
//! interfaces) stays in effect.

use super::keep::{self, Kept};
use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::error::InjectError;
use crate::kvp::network::ini;
use crate::kvp::network::networkd::read::is_started;
use crate::kvp::network::networkd::write as networkd;
use crate::kvp::network::networkmanager::nmcli as networkmanager;
use crate::kvp::network::networkmanager::read::in_charge;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan};
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::network::target::Target;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The program that netplan generates files for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kvp::network) enum Renderer {
    Networkd,
    NetworkManager,
}

/// Returns whether one of the two programs runs: it takes the agent's file.
pub(super) fn is_rendered(root: &Path, interface: &Interface) -> bool {
    is_started(root) || in_charge(root, interface)
}

/// Returns the program that manages the interface. Where neither runs yet, netplan has made
/// NetworkManager's files if that is to manage it.
pub(super) fn renderer(root: &Path, interface: &Interface) -> Renderer {
    let is_everything = || {
        root.join("run/NetworkManager/conf.d/10-globally-managed-devices.conf")
            .exists()
    };
    let has_connection = || {
        let directory = root.join("run/NetworkManager/system-connections");
        files::in_directory(&directory).iter().any(|path| {
            let text = files::text(path).unwrap_or_default();
            ini::last(&text, "connection", "interface-name") == Some(&interface.name)
        })
    };
    let later = || !is_started(root) && (is_everything() || has_connection());
    match in_charge(root, interface) || later() {
        true => Renderer::NetworkManager,
        false => Renderer::Networkd,
    }
}

fn definition(target: &Target) -> String {
    format!("0-{}", target.stem())
}

/// Renders the file.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings, kept: &Kept) -> String {
    let mut text = format!("{HEADER}network:\n  version: 2\n  ethernets:\n");
    let mut line = |indent: usize, content: &str| {
        let _ = writeln!(text, "{:indent$}{content}", "");
    };
    line(4, &format!("{}:", definition(target)));
    line(6, "renderer: NetworkManager");
    line(6, "match:");
    line(8, &format!("name: \"{}\"", target.name));
    if let Some(mac) = target.permanent_mac() {
        line(8, &format!("macaddress: \"{mac}\""));
    }
    line(6, &format!("dhcp4: {}", settings.dhcp4));
    line(6, "accept-ra: true");
    if settings.addresses().next().is_some() {
        line(6, "addresses:");
    }
    for (ip, prefix) in settings.addresses() {
        line(8, &format!("- \"{ip}/{prefix}\""));
    }
    if settings.routes().next().is_some() {
        line(6, "routes:");
    }
    for route in settings.routes() {
        line(8, &format!("- to: \"{}\"", route.destination()));
        line(10, &format!("via: \"{}\"", route.gateway));
        if route.on_link {
            line(10, "on-link: true");
        }
        if let Some(metric) = route.metric {
            line(10, &format!("metric: {metric}"));
        }
    }
    if !settings.dns.is_empty() {
        line(6, "nameservers:");
        let servers = joined(settings.dns.iter().map(|ip| format!("\"{ip}\"")), ", ");
        line(8, &format!("addresses: [{servers}]"));
    }
    line(6, "networkmanager:");
    line(8, "passthrough:");
    if kept.passthrough.is_empty() {
        let (key, priority) = ("connection.autoconnect-priority", networkmanager::PRIORITY);
        line(10, &format!("{key}: \"{priority}\""));
        // With static addresses, netplan would switch SLAAC off.
        line(10, "ipv6.method: \"auto\"");
    }
    for assignment in &kept.passthrough {
        line(10, assignment);
    }
    for (kind, definitions) in &kept.children {
        let _ = write!(text, "  {kind}:\n{definitions}");
    }
    text
}

/// Plans without `netplan apply`, which would do more, such as to bring interfaces down.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    match renderer(context.root, context.interface) {
        Renderer::Networkd => over_networkd(context),
        Renderer::NetworkManager => over_networkmanager(context),
    }
}

fn path(context: &Context<'_>) -> PathBuf {
    context.path(&format!("etc/netplan/90-{}.yaml", context.target.stem()))
}

/// Plans a file for systemd-networkd that comes before those that netplan generates, and keeps
/// what these have. A file for netplan, which earlier versions of the agent wrote, is removed.
fn over_networkd(context: &Context<'_>) -> Result<Plan, InjectError> {
    let generated = format!("10-netplan-{}", definition(context.target));
    let generate = context.step("netplan", &["generate"])?.offline();
    let mut plan = networkd::plan_over(context, "netplan", &|name| name.starts_with(&generated))?;
    let path = path(context);
    if path.exists() {
        plan.apply.insert(0, generate.clone());
        plan.revert.insert(0, generate);
        plan.files.push(NewFile::removed(path));
    }
    Ok(plan)
}

fn over_networkmanager(context: &Context<'_>) -> Result<Plan, InjectError> {
    let generate = context.step("netplan", &["generate"])?.offline();
    let reload = networkmanager::reload(context)?;
    let id = format!("netplan-{}", definition(context.target));
    let up = networkmanager::up(context, &["id", &id])?;
    let apply = vec![generate.clone(), reload, up];
    let revert = [vec![generate], networkmanager::revert(context)?].concat();
    let path = path(context);
    let kept = keep::kept(context, &definition(context.target), &path);
    let text = render(context.target, context.settings, &kept);
    let files = vec![NewFile::new(path, text, 0o600)];
    Ok(Plan {
        lost: kept.lost,
        ..Plan::new("netplan", files, apply, revert)
    })
}
