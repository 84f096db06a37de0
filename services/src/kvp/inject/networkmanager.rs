//! NetworkManager: a key file of our own, with a priority above every other
//! connection's.

use std::fmt::Write;
use std::time::Duration;

use super::error::InjectError;
use super::parse::{Route, Settings, joined};
use super::plan::{Context, NewFile, Plan, Step};
use super::target::Target;
use crate::kvp::files;

/// The highest priority of a connection that there is.
pub(super) const PRIORITY: u32 = 999;

/// The file's text.
pub(super) fn render(target: &Target, settings: &Settings) -> String {
    let mut text = format!(
        "# Written by hyperv-agent: what the Hyper-V host wants this interface to have.\n\
         [connection]\nid={}\nuuid={}\ntype=ethernet\ninterface-name={}\nautoconnect=true\n\
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
    everywhere: &str,
    dns: &str,
) {
    let mut line = |content: String| {
        let _ = writeln!(text, "{content}");
    };
    line(format!("\n[{name}]\nmethod={method}"));
    for (number, address) in (1..).zip(addresses) {
        line(format!("address{number}={address}"));
    }
    // A route rather than `gateway`, which needs a static address.
    for (number, route) in (1..).zip(routes) {
        let metric = route
            .metric
            .map(|metric| format!(",{metric}"))
            .unwrap_or_default();
        line(format!(
            "route{number}={everywhere},{}{metric}",
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

/// What NetworkManager is asked to do.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let path = context.path(&format!(
        "etc/NetworkManager/system-connections/{}.nmconnection",
        target.stem()
    ));
    let uuid = target.uuid().to_string();
    let load = context
        .step("nmcli", &["connection", "load", &path.to_string_lossy()])?
        .fails_on("Could not load");
    let reload = context.step("nmcli", &["connection", "reload"])?;
    Ok(Plan {
        manager: "NetworkManager",
        before: Vec::new(),
        apply: [load]
            .into_iter()
            .chain(up(context, &["uuid", &uuid])?)
            .collect(),
        revert: [reload].into_iter().chain(previous(context)?).collect(),
        files: vec![NewFile {
            path,
            text: render(target, context.settings),
            mode: Some(0o600),
        }],
        stable_for: Duration::ZERO,
    })
}

/// Brings a connection up. Without a carrier it cannot be, and NetworkManager
/// takes the one of the highest priority as soon as there is one. A DHCP server
/// is not waited for: it may come later.
pub(super) fn up(context: &Context<'_>, which: &[&str]) -> Result<Option<Step>, InjectError> {
    let target = &context.target.name;
    if !context.has_carrier() {
        return Ok(None);
    }
    let wait = match context.settings.dhcp4 {
        true => 0,
        false => context.seconds(),
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

/// Brings the connection up again that is in use now, if there is one.
pub(super) fn previous(context: &Context<'_>) -> Result<Option<Step>, InjectError> {
    let target = &context.target.name;
    let args = ["--get-values", "GENERAL.CON-UUID", "device", "show", target];
    let output = context.step("nmcli", &args)?.run(context.until)?;
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

/// Whether it is in charge of the interface.
pub(super) fn manages(context: &Context<'_>) -> bool {
    let device = context.path(&format!(
        "run/NetworkManager/devices/{}",
        context.target.index
    ));
    files::text(&device)
        .is_some_and(|state| state.lines().any(|line| line.trim() == "managed=true"))
}
