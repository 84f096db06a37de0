//! NetworkManager: a key file with the highest priority of all connections.

use std::fmt::Write;
use std::path::Path;

use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan, Step};
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::network::target::Target;

/// The highest `autoconnect-priority` that NetworkManager accepts.
pub(in crate::kvp::network) const PRIORITY: u32 = 999;

/// Renders the file.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings) -> String {
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
    section(&mut text, settings, true);
    section(&mut text, settings, false);
    text
}

fn section(text: &mut String, settings: &Settings, v4: bool) {
    let mut line = |content: String| {
        let _ = writeln!(text, "{content}");
    };
    let (name, method) = match (v4, settings.dhcp4, settings.v4.is_empty()) {
        (true, true, _) => ("ipv4", "auto"),
        (true, false, false) => ("ipv4", "manual"),
        (true, false, true) => ("ipv4", "disabled"),
        (false, ..) => ("ipv6", "auto"),
    };
    line(format!("\n[{name}]\nmethod={method}"));
    let addresses = settings.addresses().filter(|(ip, _)| ip.is_ipv4() == v4);
    for (number, (ip, prefix)) in (1..).zip(addresses) {
        line(format!("address{number}={ip}/{prefix}"));
    }
    // A route, since `gateway` needs a static address.
    let routes = settings
        .routes()
        .filter(|route| route.gateway.is_ipv4() == v4);
    for (number, route) in (1..).zip(routes) {
        let (destination, metric) = (route.destination(), route.metric_after(","));
        let gateway = route.gateway;
        line(format!("route{number}={destination},{gateway}{metric}"));
        if route.on_link {
            line(format!("route{number}_options=onlink=true"));
        }
    }
    let dns = joined(settings.dns.iter().filter(|ip| ip.is_ipv4() == v4), ";");
    if !dns.is_empty() {
        line(format!("dns={dns};"));
    }
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let name = format!("{}.nmconnection", target.stem());
    let path = context
        .path("etc/NetworkManager/system-connections")
        .join(name);
    let (apply, revert) = (apply(context, &path)?, revert(context)?);
    let files = vec![NewFile::new(path, render(target, context.settings), 0o600)];
    Ok(Plan::new("NetworkManager", files, apply, revert))
}

/// Returns the steps that load the agent's connection and bring it up.
pub(in crate::kvp::network) fn apply(
    context: &Context<'_>,
    path: &Path,
) -> Result<Vec<Step>, InjectError> {
    let load = context
        .step("nmcli", &["connection", "load", &path.to_string_lossy()])?
        .fails_on("Could not load");
    let uuid = context.target.uuid().to_string();
    let up = up(context, &["uuid", &uuid])?;
    Ok([load].into_iter().chain(up).collect())
}

/// Returns the steps that reload all files and bring up the connection that is active now.
pub(in crate::kvp::network) fn revert(context: &Context<'_>) -> Result<Vec<Step>, InjectError> {
    let reload = reload(context)?;
    Ok([reload].into_iter().chain(active_up(context)?).collect())
}

/// Returns the step that reloads all files.
pub(in crate::kvp::network) fn reload(context: &Context<'_>) -> Result<Step, InjectError> {
    context.step("nmcli", &["connection", "reload"])
}

/// Returns the step that brings a connection up; none without a carrier: it would fail, and
/// NetworkManager activates the connection of the highest priority as soon as there is one. The
/// step does not wait for a DHCP server, which may answer later.
pub(in crate::kvp::network) fn up(
    context: &Context<'_>,
    which: &[&str],
) -> Result<Option<Step>, InjectError> {
    if !context.has_carrier() {
        return Ok(None);
    }
    let wait = match context.settings.dhcp4 {
        true => 0,
        false => context.seconds_left(),
    };
    up_within(context, wait, which).map(Some)
}

fn up_within(context: &Context<'_>, wait: u64, which: &[&str]) -> Result<Step, InjectError> {
    let (wait, target) = (wait.to_string(), &context.target.name);
    let up = ["--wait", &wait, "connection", "up"];
    let args = [&up[..], which, &["ifname", target]].concat();
    context.step("nmcli", &args)
}

/// Returns the step that brings up the connection that is active now, if there is one.
fn active_up(context: &Context<'_>) -> Result<Option<Step>, InjectError> {
    if !context.running {
        return Ok(None);
    }
    let target = &context.target.name;
    let args = ["--get-values", "GENERAL.CON-UUID", "device", "show", target];
    let output = context.step("nmcli", &args)?.run(context.deadline)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let uuid = stdout.trim();
    let plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if uuid.len() != 36 || !uuid.bytes().all(plain) {
        return Ok(None);
    }
    up_within(context, 0, &["uuid", uuid]).map(Some)
}
