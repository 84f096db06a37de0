//! The two files of the stock daemon with a configuration, and `hv_set_ifconfig`, a script of the
//! site that applies them. Protocol section 7.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::trusted::trusted;
use crate::kvp::config::Config;
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, NewFile, Plan, Step};
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::network::target::Target;
use crate::kvp::wire::text_ip::mask;
use crate::program::is_executable;

const NAME: &str = "hv_set_ifconfig";

/// Renders `ifcfg-<interface>`.
pub(in crate::kvp::network) fn render_ifcfg(target: &Target, settings: &Settings) -> String {
    let mut text = String::new();
    let mut set = |key: String, value: String| {
        let _ = writeln!(text, "{key}={value}");
    };
    if let Some(mac) = target.mac() {
        set("HWADDR".to_owned(), mac.to_ascii_uppercase());
    }
    set("DEVICE".to_owned(), target.name.clone());
    let protocol = if settings.dhcp4 { "dhcp" } else { "none" };
    set("BOOTPROTO".to_owned(), protocol.to_owned());
    for (number, (ip, _)) in (0..).zip(&settings.v4) {
        set(format!("IPADDR{number}"), ip.to_string());
    }
    for (number, (ip, _)) in (0..).zip(&settings.v6) {
        set(format!("IPV6ADDR{}", numbered("_", number)), in_full(*ip));
    }
    for (number, (_, prefix)) in (0..).zip(&settings.v4) {
        set(format!("NETMASK{number}"), mask(*prefix).to_string());
    }
    for (number, (_, prefix)) in (0..).zip(&settings.v6) {
        let key = format!("IPV6NETMASK{}", numbered("_", number));
        set(key, format!("/{prefix}"));
    }
    for (number, ip) in (0..).zip(&settings.gateways4) {
        set(format!("GATEWAY{}", numbered("", number)), ip.to_string());
    }
    for (number, ip) in (0..).zip(&settings.gateways6) {
        let key = format!("IPV6_DEFAULTGW{}", numbered("_", number));
        set(key, in_full(*ip));
    }
    for (number, ip) in (1..).zip(&settings.dns) {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => in_full(*ip),
        };
        set(format!("DNS{number}"), ip);
    }
    text
}

/// Returns the suffix of a key: the first has none.
fn numbered(before: &str, number: u32) -> String {
    match number {
        0 => String::new(),
        number => format!("{before}{number}"),
    }
}

/// Formats all eight groups with four digits.
fn in_full(ip: Ipv6Addr) -> String {
    joined(ip.segments().map(|group| format!("{group:04x}")), ":")
}

/// Renders `<interface>.nmconnection`.
pub(in crate::kvp::network) fn render_keyfile(target: &Target, settings: &Settings) -> String {
    let mut text = format!("[connection]\ninterface-name={}\n", target.name);
    if let Some(mac) = target.mac() {
        let mac = mac.to_ascii_uppercase();
        let _ = write!(text, "\n[ethernet]\nmac-address={mac}\n");
    }
    let method = if settings.dhcp4 { "auto" } else { "manual" };
    let dns = |v4: bool| settings.dns.iter().filter(move |ip| ip.is_ipv4() == v4);
    let mut section = |name: &str, method: &str, rest: [String; 3]| {
        let _ = write!(text, "\n[{name}]\nmethod={method}\n{}", rest.concat());
    };
    let addresses = |v4: bool| {
        let addresses = settings.addresses().filter(|(ip, _)| ip.is_ipv4() == v4);
        let lines = (1..)
            .zip(addresses)
            .map(|(number, (ip, prefix))| format!("address{number}={ip}/{prefix}\n"));
        lines.collect::<String>()
    };
    let rest = [
        addresses(true),
        line("gateway", &settings.gateways4),
        line("dns", dns(true)),
    ];
    section("ipv4", method, rest);
    // The stock daemon writes the method of IPv4 here. NetworkManager rejects `manual` without an
    // address.
    let method = if settings.v6.is_empty() {
        "auto"
    } else {
        method
    };
    let rest = [
        addresses(false),
        line("gateway", &settings.gateways6),
        line("dns", dns(false)),
    ];
    section("ipv6", method, rest);
    text
}

fn line<T: std::fmt::Display>(key: &str, values: impl IntoIterator<Item = T>) -> String {
    match joined(values, ",") {
        values if values.is_empty() => values,
        values => format!("{key}={values}\n"),
    }
}

/// Returns both files, in `directory`.
pub(in crate::kvp::network) fn files(context: &Context<'_>, directory: &Path) -> [NewFile; 2] {
    let (target, settings) = (context.target, context.settings);
    let ifcfg = directory.join(format!("ifcfg-{}", target.name));
    let keyfile = directory.join(format!("{}.nmconnection", target.name));
    [
        NewFile::new(ifcfg, render_ifcfg(target, settings), 0o644),
        NewFile::new(keyfile, render_keyfile(target, settings), 0o600),
    ]
}

/// Returns the plan that runs the script on the files, if the configuration names a directory of
/// scripts and it has this one.
pub(in crate::kvp::network) fn plan(
    context: &Context<'_>,
    config: &Config,
) -> Result<Option<Plan>, InjectError> {
    let Some(directory) = &config.network.scripts else {
        return Ok(None);
    };
    let script = directory.join(NAME);
    if !is_executable(&script) {
        return Ok(None);
    }
    let script = trusted(directory, NAME).map_err(|source| InjectError::Untrusted {
        path: script,
        source,
    })?;
    let paths = files(context, &config.directory).map(|file| file.path.display().to_string());
    let existed = paths.iter().all(|path| Path::new(path).exists());
    let step = Step::new(script, &paths.each_ref().map(String::as_str));
    // Without previous files there is nothing to revert to.
    let revert = existed.then(|| step.clone()).into_iter().collect();
    Ok(Some(Plan::new(NAME, Vec::new(), vec![step], revert)))
}

#[cfg(test)]
#[path = "hv_set_ifconfig_tests.rs"]
mod tests;
