//! Netplan: a file of our own in `/etc/netplan`.
//!
//! Netplan merges what several files say of one definition, and appends lists:
//! no later file can take an address away that cloud-init's file gives to
//! `eth0`. So the interface gets a second definition, whose name starts with a
//! digit: of the files that netplan then makes for systemd-networkd, the one
//! that sorts first is in force, as a whole; of the connections for
//! NetworkManager, the one of the highest priority is. What else the other
//! files say (names given to devices, other interfaces) stays in force.

use std::fmt::Write;
use std::time::Duration;

use super::error::InjectError;
use super::parse::{Route, Settings, joined};
use super::plan::{Context, NewFile, Plan};
use super::target::Target;
use super::{networkd, networkmanager};

/// Who brings about what netplan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renderer {
    Networkd,
    NetworkManager,
}

/// The name of our definition.
fn definition(target: &Target) -> String {
    format!("0-{}", target.stem())
}

/// The file's text.
pub(super) fn render(target: &Target, settings: &Settings, renderer: Renderer) -> String {
    let mut text = String::from(
        "# Written by hyperv-agent: what the Hyper-V host wants this interface to have.\n\
         network:\n  version: 2\n  ethernets:\n",
    );
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
    let to = |to, routes: Vec<Route>| routes.into_iter().map(move |route| (to, route));
    let routes: Vec<_> = to("0.0.0.0/0", settings.routes4().collect())
        .chain(to("::/0", settings.routes6().collect()))
        .collect();
    if !routes.is_empty() {
        line(6, "routes:");
    }
    for (to, route) in routes {
        line(8, &format!("- to: \"{to}\""));
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
        let priority = networkmanager::PRIORITY;
        line(
            10,
            &format!("connection.autoconnect-priority: \"{priority}\""),
        );
        // It would switch SLAAC off for static addresses.
        line(10, "ipv6.method: \"auto\"");
    }
    text
}

/// What netplan is asked to do. `netplan apply` would do more, such as to bring
/// interfaces down.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let renderer = match networkmanager::manages(context) {
        true => Renderer::NetworkManager,
        false => Renderer::Networkd,
    };
    let generate = context.step("netplan", &["generate"])?;
    let (apply, revert, stable_for) = match renderer {
        Renderer::Networkd => {
            let steps = vec![networkd::reload(context)?];
            (steps.clone(), steps, networkd::STABLE_FOR)
        }
        Renderer::NetworkManager => {
            let reload = context.step("nmcli", &["connection", "reload"])?;
            let id = format!("netplan-{}", definition(target));
            let up = networkmanager::up(context, &["id", &id])?;
            let previous = networkmanager::previous(context)?;
            (
                [reload.clone()].into_iter().chain(up).collect(),
                [reload].into_iter().chain(previous).collect(),
                Duration::ZERO,
            )
        }
    };
    let with = |steps| [vec![generate.clone()], steps].concat();
    Ok(Plan {
        manager: "netplan",
        before: Vec::new(),
        files: vec![NewFile {
            path: context.path(&format!("etc/netplan/90-{}.yaml", target.stem())),
            text: render(target, context.settings, renderer),
            mode: Some(0o600),
        }],
        apply: with(apply),
        revert: with(revert),
        stable_for,
    })
}
