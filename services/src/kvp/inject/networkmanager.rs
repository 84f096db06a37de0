//! NetworkManager: a key file with the highest priority of all connections.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::error::InjectError;
use super::parse::{Route, Settings, joined};
use super::plan::{Context, HEADER, NewFile, Plan, Step};
use super::target::Target;
use crate::kvp::files;

/// The highest `autoconnect-priority` that NetworkManager accepts.
pub(super) const PRIORITY: u32 = 999;

/// Renders the file.
pub(super) fn render(target: &Target, settings: &Settings) -> String {
    let mut text = format!(
        "{HEADER}[connection]\nid={}\nuuid={}\ntype=ethernet\ninterface-name={}\nautoconnect=true\n\
         autoconnect-priority={PRIORITY}\n",
        target.stem(),
        target.uuid(),
        target.name
    );
    if let Some(mac) = target.permanent_mac() {
        let _ = write!(text, "\n[ethernet]\nmac-address={mac}\n");
    }
    let method = match (settings.dhcp4, settings.v4.is_empty()) {
        (true, _) => "auto",
        (false, false) => "manual",
        (false, true) => "disabled",
    };
    let addresses: Vec<_> = settings
        .v4
        .iter()
        .map(|(ip, prefix)| format!("{ip}/{prefix}"))
        .collect();
    let dns = joined(settings.dns.iter().filter(|ip| ip.is_ipv4()), ";");
    section(
        &mut text,
        "ipv4",
        method,
        &addresses,
        settings.routes4(),
        "0.0.0.0/0",
        &dns,
    );
    let addresses: Vec<_> = settings
        .v6
        .iter()
        .map(|(ip, prefix)| format!("{ip}/{prefix}"))
        .collect();
    let dns = joined(settings.dns.iter().filter(|ip| ip.is_ipv6()), ";");
    section(
        &mut text,
        "ipv6",
        "auto",
        &addresses,
        settings.routes6(),
        "::/0",
        &dns,
    );
    text
}

fn section(
    text: &mut String,
    name: &str,
    method: &str,
    addresses: &[String],
    routes: impl Iterator<Item = Route>,
    destination: &str,
    dns: &str,
) {
    let mut line = |content: String| {
        let _ = writeln!(text, "{content}");
    };
    line(format!("\n[{name}]\nmethod={method}"));
    for (number, address) in (1..).zip(addresses) {
        line(format!("address{number}={address}"));
    }
    // A route, since `gateway` needs a static address.
    for (number, route) in (1..).zip(routes) {
        let metric = route
            .metric
            .map(|metric| format!(",{metric}"))
            .unwrap_or_default();
        line(format!(
            "route{number}={destination},{}{metric}",
            route.gateway
        ));
        if route.on_link {
            line(format!("route{number}_options=onlink=true"));
        }
    }
    if !dns.is_empty() {
        line(format!("dns={dns};"));
    }
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let path = context.path(&format!(
        "etc/NetworkManager/system-connections/{}.nmconnection",
        target.stem()
    ));
    Ok(Plan {
        manager: "NetworkManager",
        stop: Vec::new(),
        apply: apply(context, &path)?,
        revert: revert(context)?,
        files: vec![NewFile {
            path,
            text: render(target, context.settings),
            mode: Some(0o600),
        }],
        stable_for: Duration::ZERO,
    })
}

/// Loads the file of the agent's connection, and brings the connection up.
pub(super) fn apply(context: &Context<'_>, path: &Path) -> Result<Vec<Step>, InjectError> {
    let load = context
        .step("nmcli", &["connection", "load", &path.to_string_lossy()])?
        .fails_on("Could not load");
    let uuid = context.target.uuid().to_string();
    let up = up(context, &["uuid", &uuid])?;
    Ok([load].into_iter().chain(up).collect())
}

/// Reloads all files, and brings the connection up that is active now.
pub(super) fn revert(context: &Context<'_>) -> Result<Vec<Step>, InjectError> {
    let reload = reload(context)?;
    Ok([reload].into_iter().chain(previous(context)?).collect())
}

/// Reloads all files.
pub(super) fn reload(context: &Context<'_>) -> Result<Step, InjectError> {
    context.step("nmcli", &["connection", "reload"])
}

/// Brings a connection up. Without a carrier that would fail; NetworkManager activates the
/// connection of the highest priority as soon as there is one. It does not wait for a DHCP server,
/// which may answer later.
pub(super) fn up(context: &Context<'_>, which: &[&str]) -> Result<Option<Step>, InjectError> {
    let target = &context.target.name;
    if !context.has_carrier() {
        return Ok(None);
    }
    let wait = match context.settings.dhcp4 {
        true => 0,
        false => context.seconds_left(),
    };
    let wait = wait.to_string();
    let args = [
        &["--wait", &wait, "connection", "up"],
        which,
        &["ifname", target],
    ]
    .concat();
    context.step("nmcli", &args).map(Some)
}

/// Brings the connection up that is active now, if there is one.
fn previous(context: &Context<'_>) -> Result<Option<Step>, InjectError> {
    let target = &context.target.name;
    let args = ["--get-values", "GENERAL.CON-UUID", "device", "show", target];
    let output = context.step("nmcli", &args)?.run(context.deadline)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let uuid = said.trim();
    let is_uuid = uuid.len() == 36
        && uuid
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_uuid {
        return Ok(None);
    }
    let args = [
        "--wait",
        "0",
        "connection",
        "up",
        "uuid",
        uuid,
        "ifname",
        target,
    ];
    context.step("nmcli", &args).map(Some)
}

/// Returns whether NetworkManager is in charge of the interface.
pub(super) fn manages(context: &Context<'_>) -> bool {
    let device = context.path(&format!(
        "run/NetworkManager/devices/{}",
        context.target.index
    ));
    files::text(&device)
        .is_some_and(|state| state.lines().any(|line| line.trim() == "managed=true"))
}
