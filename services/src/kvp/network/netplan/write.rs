//! Netplan: a file in `/etc/netplan`.
//!
//! Netplan merges definitions of the same name from several files, and concatenates lists: no
//! later file can remove an address that cloud-init's file assigns to `eth0`. The agent's file
//! therefore has a second definition for the interface. Its name starts with a digit: of the files
//! that netplan generates for systemd-networkd, only the first by name takes effect. Of the
//! connections that it generates for NetworkManager, the one with the highest priority does. The
//! rest of the other files (names of devices, other interfaces) stays in effect.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

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
pub(in crate::kvp::network) fn render(
    target: &Target,
    settings: &Settings,
    renderer: Renderer,
) -> String {
    let mut text = format!("{HEADER}network:\n  version: 2\n  ethernets:\n");
    let mut line = |indent: usize, content: &str| {
        let _ = writeln!(text, "{:indent$}{content}", "");
    };
    line(4, &format!("{}:", definition(target)));
    let name = match renderer {
        Renderer::Networkd => "networkd",
        Renderer::NetworkManager => "NetworkManager",
    };
    line(6, &format!("renderer: {name}"));
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
    if renderer == Renderer::NetworkManager {
        line(6, "networkmanager:");
        line(8, "passthrough:");
        let (key, priority) = ("connection.autoconnect-priority", networkmanager::PRIORITY);
        line(10, &format!("{key}: \"{priority}\""));
        // With static addresses, netplan would switch SLAAC off.
        line(10, "ipv6.method: \"auto\"");
    }
    text
}

/// Plans without `netplan apply`, which would do more, such as to bring interfaces down.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let renderer = renderer(context.root, context.interface);
    let generate = context.step("netplan", &["generate"])?.offline();
    let (apply, revert, stable_for) = match renderer {
        Renderer::Networkd => {
            let steps = vec![networkd::reload(context)?];
            (steps.clone(), steps, networkd::STABLE_FOR)
        }
        Renderer::NetworkManager => {
            let reload = networkmanager::reload(context)?;
            let id = format!("netplan-{}", definition(target));
            let up = networkmanager::up(context, &["id", &id])?;
            (
                vec![reload, up],
                networkmanager::revert(context)?,
                Duration::ZERO,
            )
        }
    };
    let with = |steps| [vec![generate.clone()], steps].concat();
    let path = context.path(&format!("etc/netplan/90-{}.yaml", target.stem()));
    let text = render(target, context.settings, renderer);
    let files = vec![NewFile::new(path, text, 0o600)];
    Ok(Plan {
        stable_for,
        ..Plan::new("netplan", files, with(apply), with(revert))
    })
}
