//! systemd-networkd: a file in `/etc/systemd/network` whose name sorts before those of
//! administrators and of netplan. Of the files that match an interface only the first takes
//! effect.

use std::fmt::Write;
use std::time::Duration;

use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan, Step};
use crate::kvp::network::settings::Settings;
use crate::kvp::network::target::Target;

/// Renders the file.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings) -> String {
    let mut text = format!("{HEADER}[Match]\nName={}\n", target.name);
    let mut line = |content: String| {
        let _ = writeln!(text, "{content}");
    };
    if let Some(mac) = target.mac() {
        line(format!("MACAddress={mac}"));
    }
    line("\n[Network]".to_owned());
    let dhcp = if settings.dhcp4 { "ipv4" } else { "no" };
    line(format!("DHCP={dhcp}"));
    line("LinkLocalAddressing=ipv6\nIPv6AcceptRA=yes".to_owned());
    for (ip, prefix) in settings.addresses() {
        line(format!("Address={ip}/{prefix}"));
    }
    for ip in &settings.dns {
        line(format!("DNS={ip}"));
    }
    for route in settings.routes() {
        line(format!("\n[Route]\nGateway={}", route.gateway));
        if route.on_link {
            line("GatewayOnLink=yes".to_owned());
        }
        if let Some(metric) = route.metric {
            line(format!("Metric={metric}"));
        }
    }
    text
}

/// systemd-networkd removes the previous configuration before it applies the new one.
pub(in crate::kvp::network) const STABLE_FOR: Duration = Duration::from_millis(500);

/// Returns the step that reloads all files. This alone reconfigures an interface whose file was replaced, even if the
/// text is the same; `networkctl reconfigure` would remove the new addresses again.
pub(in crate::kvp::network) fn reload(context: &Context<'_>) -> Result<Step, InjectError> {
    context.step("networkctl", &["reload"])
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let steps = vec![reload(context)?];
    let path = context.path(&format!("etc/systemd/network/05-{}.network", target.stem()));
    let files = vec![NewFile::new(path, render(target, context.settings), 0o644)];
    Ok(Plan {
        stable_for: STABLE_FOR,
        ..Plan::new("systemd-networkd", files, steps.clone(), steps)
    })
}
