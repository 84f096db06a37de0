//! systemd-networkd: a file of our own in `/etc/systemd/network`, which sorts
//! before those of administrators and of netplan: the first that matches an
//! interface is in force, as a whole.

use std::fmt::Write;
use std::time::Duration;

use super::error::InjectError;
use super::parse::Settings;
use super::plan::{Context, NewFile, Plan, Step};
use super::target::Target;
use crate::kvp::files;

/// The file's text.
pub(super) fn render(target: &Target, settings: &Settings) -> String {
    let mut text = format!(
        "# Written by hyperv-agent: what the Hyper-V host wants this interface to have.\n\
         [Match]\nName={}\n",
        target.name
    );
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
    for route in settings.routes4().chain(settings.routes6()) {
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

/// It takes its configuration off an interface before it puts the new one on.
pub(super) const STABLE_FOR: Duration = Duration::from_millis(500);

/// Has files read again. An interface whose file was written anew is configured
/// anew by that, even if the text is the same; to ask for that once more would
/// take off what was just put on.
pub(super) fn reload(context: &Context<'_>) -> Result<Step, InjectError> {
    context.step("networkctl", &["reload"])
}

/// What systemd-networkd is asked to do.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let steps = vec![reload(context)?];
    Ok(Plan {
        manager: "systemd-networkd",
        before: Vec::new(),
        files: vec![NewFile {
            path: context.path(&format!("etc/systemd/network/05-{}.network", target.stem())),
            text: render(target, context.settings),
            mode: Some(0o644),
        }],
        apply: steps.clone(),
        revert: steps,
        stable_for: STABLE_FOR,
    })
}

/// Whether it is in charge of the interface.
pub(super) fn manages(context: &Context<'_>) -> bool {
    let link = context.path(&format!("run/systemd/netif/links/{}", context.target.index));
    context.path("run/systemd/netif/state").exists()
        && files::text(&link).is_some_and(|state| {
            state
                .lines()
                .any(|line| line.starts_with("ADMIN_STATE=") && line != "ADMIN_STATE=unmanaged")
        })
}
