//! `ifcfg` files: `/etc/sysconfig/network-scripts` of Red Hat, applied through
//! NetworkManager where that runs, and `/etc/sysconfig/network` of SUSE, applied
//! through wicked.
//!
//! The interface's file has a name that is not ours to choose, and is replaced
//! as a whole.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use super::error::InjectError;
use super::networkmanager;
use super::parse::{Settings, joined};
use super::plan::{Context, NewFile, Plan};
use super::target::Target;

const MANAGER: &str = "ifcfg";

const HEADING: &str =
    "# Written by hyperv-agent: what the Hyper-V host wants this interface to have.\n";

/// The text of Red Hat's `ifcfg` file.
pub(super) fn render_red_hat(target: &Target, settings: &Settings) -> String {
    let mut text = String::from(HEADING);
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
    // NetworkManager may know other connections for the interface.
    set(
        "AUTOCONNECT_PRIORITY",
        &networkmanager::PRIORITY.to_string(),
    );
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
        set(
            "IPV6ADDR_SECONDARIES",
            &format!("\"{}\"", joined(further, " ")),
        );
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

/// The text of SUSE's `ifcfg` file.
pub(super) fn render_suse(settings: &Settings) -> String {
    let protocol = if settings.dhcp4 { "dhcp4" } else { "static" };
    let mut text = format!("{HEADING}STARTMODE='auto'\nBOOTPROTO='{protocol}'\n");
    for (number, (ip, prefix)) in (0..).zip(settings.addresses()) {
        let _ = writeln!(text, "IPADDR_{number}='{ip}/{prefix}'");
    }
    text
}

/// The text of SUSE's `ifroute` file: its default routes give way to ours, the
/// others stay.
pub(super) fn render_suse_routes(target: &Target, settings: &Settings, previous: &str) -> String {
    let mut text = String::new();
    let is_default = |line: &&str| {
        let destination = line.split_whitespace().next();
        matches!(destination, Some("default" | "0.0.0.0/0" | "::/0"))
    };
    for line in previous.lines().filter(|line| !is_default(line)) {
        let _ = writeln!(text, "{line}");
    }
    for route in settings.routes4().chain(settings.routes6()) {
        let metric = route
            .metric
            .map(|metric| format!(" metric {metric}"))
            .unwrap_or_default();
        let _ = writeln!(text, "default {} - {}{metric}", route.gateway, target.name);
    }
    text
}

/// What the distribution's programs are asked to do.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    match is_suse(context) {
        true => plan_suse(context),
        false => plan_red_hat(context),
    }
}

fn plan_red_hat(context: &Context<'_>) -> Result<Plan, InjectError> {
    let (target, settings) = (context.target, context.settings);
    if settings.gateways4.len() > 1 || settings.gateways6.len() > 1 {
        return Err(InjectError::Unsupported {
            manager: MANAGER,
            why: "its files have room for one gateway of each family".to_owned(),
        });
    }
    let path = context.path(&format!(
        "etc/sysconfig/network-scripts/ifcfg-{}",
        target.name
    ));
    let (before, apply, revert) = if context.path("run/NetworkManager").exists() {
        let load = context
            .step("nmcli", &["connection", "load", &path.to_string_lossy()])?
            .fails_on("Could not load");
        let reload = context.step("nmcli", &["connection", "reload"])?;
        let uuid = target.uuid().to_string();
        (
            Vec::new(),
            [load]
                .into_iter()
                .chain(networkmanager::up(context, &["uuid", &uuid])?)
                .collect(),
            [reload]
                .into_iter()
                .chain(networkmanager::previous(context)?)
                .collect(),
        )
    } else {
        let ifup = vec![context.step("ifup", &[&target.name])?];
        let ifdown = context.step("ifdown", &[&target.name])?.optional();
        (vec![ifdown], ifup.clone(), ifup)
    };
    Ok(Plan {
        manager: MANAGER,
        before,
        files: vec![NewFile {
            path,
            text: render_red_hat(target, settings),
            mode: Some(0o644),
        }],
        apply,
        revert,
        stable_for: Duration::ZERO,
    })
}

fn plan_suse(context: &Context<'_>) -> Result<Plan, InjectError> {
    let (target, settings) = (context.target, context.settings);
    let routes = context.path(&format!("etc/sysconfig/network/ifroute-{}", target.name));
    let previous = fs::read_to_string(&routes).unwrap_or_default();
    let mut files = vec![
        NewFile {
            path: context.path(&format!("etc/sysconfig/network/ifcfg-{}", target.name)),
            text: render_suse(settings),
            mode: Some(0o644),
        },
        NewFile {
            path: routes,
            text: render_suse_routes(target, settings, &previous),
            mode: Some(0o644),
        },
    ];
    let mut steps = Vec::new();
    // An interface has no DNS servers of its own here.
    if !settings.dns.is_empty() {
        files.push(suse_dns(context)?);
        steps.push(context.step("netconfig", &["update", "-f"])?);
    }
    steps.push(context.step("wicked", &["ifreload", &target.name])?);
    Ok(Plan {
        manager: MANAGER,
        before: Vec::new(),
        files,
        apply: steps.clone(),
        revert: steps,
        stable_for: Duration::ZERO,
    })
}

fn suse_dns(context: &Context<'_>) -> Result<NewFile, InjectError> {
    const KEY: &str = "NETCONFIG_DNS_STATIC_SERVERS=";
    let path = context.path("etc/sysconfig/network/config");
    let text = fs::read_to_string(&path).map_err(|source| InjectError::File {
        doing: "read",
        path: path.clone(),
        source,
    })?;
    let others = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(KEY))
        .map(str::to_owned);
    let servers = joined(&context.settings.dns, " ");
    Ok(NewFile {
        text: joined(others.chain([format!("{KEY}\"{servers}\"")]), "\n") + "\n",
        path,
        mode: None,
    })
}

/// SUSE has a directory where Red Hat has a file.
fn is_suse(context: &Context<'_>) -> bool {
    context.path("etc/sysconfig/network").is_dir()
}

/// Whether such files may be in charge of the interface: there are some, and
/// what reads them is there.
pub(super) fn manages(context: &Context<'_>) -> bool {
    match is_suse(context) {
        true => context.program("wicked").is_ok(),
        false => {
            context.path("etc/sysconfig/network-scripts").is_dir()
                && context.program("ifup").is_ok()
        }
    }
}
