//! `ifcfg` files: `/etc/sysconfig/network-scripts` of Red Hat, for NetworkManager where it runs or
//! else the network scripts, and `/etc/sysconfig/network` of SUSE, for wicked.
//!
//! There is one file an interface, whose name is given; the agent replaces all of it.

use std::fmt::Write;
use std::fs;

use super::read::is_suse;
use crate::kvp::network::error::InjectError;
use crate::kvp::network::networkmanager::write as networkmanager;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan};
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::network::target::Target;

const MANAGER: &str = "ifcfg";

/// Renders the `ifcfg` file of Red Hat.
pub(in crate::kvp::network) fn render_red_hat(target: &Target, settings: &Settings) -> String {
    let mut text = String::from(HEADER);
    let mut set = |key: &str, value: &str| {
        let _ = writeln!(text, "{key}={value}");
    };
    set("DEVICE", &target.name);
    set("NAME", &target.stem());
    set("UUID", &target.uuid().to_string());
    if let Some(mac) = target.permanent_mac() {
        set("HWADDR", &mac.to_ascii_uppercase());
    }
    set("TYPE", "Ethernet");
    set("ONBOOT", "yes");
    // NetworkManager may have other connections for the interface.
    let priority = networkmanager::PRIORITY.to_string();
    set("AUTOCONNECT_PRIORITY", &priority);
    set("BOOTPROTO", if settings.dhcp4 { "dhcp" } else { "none" });
    for (number, (ip, prefix)) in (0..).zip(&settings.v4) {
        set(&format!("IPADDR{number}"), &ip.to_string());
        set(&format!("PREFIX{number}"), &prefix.to_string());
    }
    if let Some(gateway) = settings.gateways4.first() {
        set("GATEWAY", &gateway.to_string());
    }
    set("IPV6INIT", "yes");
    set("IPV6_AUTOCONF", "yes");
    if let Some(((ip, prefix), further)) = settings.v6.split_first() {
        set("IPV6ADDR", &format!("{ip}/{prefix}"));
        let further = further.iter().map(|(ip, prefix)| format!("{ip}/{prefix}"));
        let further = joined(further, " ");
        set("IPV6ADDR_SECONDARIES", &format!("\"{further}\""));
    }
    if let Some(gateway) = settings.gateways6.first() {
        set("IPV6_DEFAULTGW", &gateway.to_string());
    }
    for (number, ip) in (1..).zip(&settings.dns) {
        set(&format!("DNS{number}"), &ip.to_string());
    }
    set("PEERDNS", "yes");
    text
}

/// Renders the `ifcfg` file of SUSE.
pub(in crate::kvp::network) fn render_suse(settings: &Settings) -> String {
    let protocol = if settings.dhcp4 { "dhcp4" } else { "static" };
    let mut text = format!("{HEADER}STARTMODE='auto'\nBOOTPROTO='{protocol}'\n");
    for (number, (ip, prefix)) in (0..).zip(settings.addresses()) {
        let _ = writeln!(text, "IPADDR_{number}='{ip}/{prefix}'");
    }
    text
}

/// Renders the `ifroute` file of SUSE: `previous` with its default routes replaced.
pub(in crate::kvp::network) fn render_suse_routes(
    target: &Target,
    settings: &Settings,
    previous: &str,
) -> String {
    let mut text = String::new();
    let is_default = |line: &&str| {
        let destination = line.split_whitespace().next();
        matches!(destination, Some("default" | "0.0.0.0/0" | "::/0"))
    };
    for line in previous.lines().filter(|line| !is_default(line)) {
        let _ = writeln!(text, "{line}");
    }
    for route in settings.routes() {
        let metric = route.metric_after(" metric ");
        let _ = writeln!(text, "default {} - {}{metric}", route.gateway, target.name);
    }
    text
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    match is_suse(context.root) {
        true => plan_suse(context),
        false => plan_red_hat(context),
    }
}

fn plan_red_hat(context: &Context<'_>) -> Result<Plan, InjectError> {
    let (target, settings) = (context.target, context.settings);
    if settings.gateways4.len() > 1 || settings.gateways6.len() > 1 {
        return Err(InjectError::Unsupported {
            manager: MANAGER,
            why: "its files hold one gateway of each family".to_owned(),
        });
    }
    let path = context.path(&format!(
        "etc/sysconfig/network-scripts/ifcfg-{}",
        target.name
    ));
    let (stop, apply, revert) = if context.path("run/NetworkManager").exists() {
        (
            Vec::new(),
            networkmanager::apply(context, &path)?,
            networkmanager::revert(context)?,
        )
    } else {
        let ifup = vec![context.step("ifup", &[&target.name])?];
        let ifdown = context.step("ifdown", &[&target.name])?.may_fail();
        (vec![ifdown], ifup.clone(), ifup)
    };
    let files = vec![NewFile::new(path, render_red_hat(target, settings), 0o644)];
    Ok(Plan {
        stop,
        ..Plan::new(MANAGER, files, apply, revert)
    })
}

fn plan_suse(context: &Context<'_>) -> Result<Plan, InjectError> {
    let (target, settings) = (context.target, context.settings);
    let routes = context.path(&format!("etc/sysconfig/network/ifroute-{}", target.name));
    let previous = fs::read_to_string(&routes).unwrap_or_default();
    let path = context.path(&format!("etc/sysconfig/network/ifcfg-{}", target.name));
    let mut files = vec![
        NewFile::new(path, render_suse(settings), 0o644),
        NewFile::new(
            routes,
            render_suse_routes(target, settings, &previous),
            0o644,
        ),
    ];
    let mut steps = Vec::new();
    // DNS servers belong to the machine, not to an interface.
    if !settings.dns.is_empty() {
        files.push(suse_dns(context)?);
        steps.push(context.step("netconfig", &["update", "-f"])?);
    }
    steps.push(context.step("wicked", &["ifreload", &target.name])?);
    Ok(Plan::new(MANAGER, files, steps.clone(), steps))
}

fn suse_dns(context: &Context<'_>) -> Result<NewFile, InjectError> {
    const KEY: &str = "NETCONFIG_DNS_STATIC_SERVERS=";
    let path = context.path("etc/sysconfig/network/config");
    let text = fs::read_to_string(&path).map_err(InjectError::file("read", &path))?;
    let others = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(KEY))
        .map(str::to_owned);
    let servers = joined(&context.settings.dns, " ");
    let text = joined(others.chain([format!("{KEY}\"{servers}\"")]), "\n") + "\n";
    Ok(NewFile::changed(path, text))
}
