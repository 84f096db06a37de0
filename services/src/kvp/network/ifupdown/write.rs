//! ifupdown: a file in `/etc/network/interfaces.d`.
//!
//! Stanzas for one interface in several files add up, and Debian's installer and cloud-init both
//! write some. The agent's file therefore defines a logical interface, and maps the interface to
//! it: the stanzas of other files stay there without effect. The script of the mapping is `grep`:
//! ifupdown passes it the interface's name as argument and the line of `map` as input, and `grep`
//! prints the line because the logical name contains the interface's.

use std::fmt::{Display, Write};
use std::fs;
use std::path::PathBuf;

use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan};
use crate::kvp::network::settings::{Route, Settings, joined};
use crate::kvp::network::target::Target;

const MANAGER: &str = "ifupdown";

/// Renders the file. `grep` is the path of that program.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings, grep: &str) -> String {
    let (name, logical) = (&target.name, target.stem());
    let mut text = format!(
        "{HEADER}\
         # Stanzas for {name} in other files have no effect while this file exists.\n\
         auto {name}\n\
         mapping {name}\n    script {grep}\n    map {logical}\n"
    );
    let mut dns = joined(&settings.dns, " ");
    let mut stanza = |family: &str, lines: &[String]| {
        let _ = writeln!(text, "\niface {logical} {family}");
        // Once is enough, in the first stanza.
        let dns = std::mem::take(&mut dns);
        let dns = (!dns.is_empty()).then(|| format!("dns-nameservers {dns}"));
        for line in lines.iter().chain(&dns) {
            let _ = writeln!(text, "    {line}");
        }
    };
    if settings.dhcp4 {
        stanza("inet dhcp", &[]);
    }
    if let Some((&(ip, prefix), further)) = settings.v4.split_first() {
        let mut lines = vec![format!("address {ip}/{prefix}")];
        lines.extend(further.iter().map(|address| up_address("ip", *address)));
        lines.extend(settings.routes4().map(|route| up_route("ip", route)));
        stanza("inet static", &lines);
    }
    let routes = settings.routes6().map(|route| up_route("ip -6", route));
    match settings.v6.split_first() {
        None => stanza("inet6 auto", &routes.collect::<Vec<_>>()),
        Some((&(ip, prefix), further)) => {
            let mut lines = vec![
                format!("address {ip}/{prefix}"),
                "autoconf 1".to_owned(),
                "accept_ra 1".to_owned(),
            ];
            // With a stanza each, duplicate address detection would delay each in turn.
            lines.extend(further.iter().map(|address| up_address("ip -6", *address)));
            lines.extend(routes);
            stanza("inet6 static", &lines);
        }
    }
    text
}

/// Always `onlink`: ifupdown does not check where the gateway is either.
fn up_address(command: &str, (ip, prefix): (impl Display, u8)) -> String {
    format!("up {command} address add {ip}/{prefix} dev $IFACE")
}

fn up_route(ip: &str, route: Route) -> String {
    let (gateway, metric) = (route.gateway, route.metric_after(" metric "));
    format!("up {ip} route add default via {gateway} dev $IFACE onlink{metric}")
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let unsupported = |why: &str| InjectError::Unsupported {
        manager: MANAGER,
        why: why.to_owned(),
    };
    let ifup = context.step("ifup", &[&target.name])?;
    let ifdown = context
        .step("ifdown", &["--force", &target.name])?
        .may_fail();
    let grep = context.program("grep")?;
    // Other programs install their `ifup` as a link to one of these.
    let real = fs::canonicalize(context.program("ifup")?).unwrap_or_default();
    if real.ends_with("busybox") || real.ends_with("ifupdown") {
        return Err(unsupported(
            "its ifup belongs to BusyBox, ifupdown2 or ifupdown-ng, which have no mappings",
        ));
    }
    let path = own_file(context).ok_or_else(|| {
        unsupported(
            "/etc/network/interfaces does not read /etc/network/interfaces.d; add the line \
             `source /etc/network/interfaces.d/*`",
        )
    })?;
    let text = render(target, context.settings, &path_without_root(context, grep));
    let mut files = vec![NewFile::new(path, text, 0o644)];
    files.extend(resolv_conf(context)?);
    Ok(Plan {
        stop: vec![ifdown],
        ..Plan::new(MANAGER, files, vec![ifup.clone()], vec![ifup])
    })
}

fn path_without_root(context: &Context<'_>, path: PathBuf) -> String {
    match path.strip_prefix(context.root) {
        Ok(relative) => format!("/{}", relative.display()),
        Err(_) => path.display().to_string(),
    }
}

/// Returns the path of the agent's file, with a name that `/etc/network/interfaces` includes.
fn own_file(context: &Context<'_>) -> Option<PathBuf> {
    let directory = context.path("etc/network/interfaces.d");
    let stem = context.target.stem();
    let interfaces = fs::read_to_string(context.path("etc/network/interfaces")).ok()?;
    interfaces.lines().find_map(|line| {
        let (keyword, pattern) = line.trim().split_once([' ', '\t'])?;
        let pattern = pattern.trim();
        let inside = pattern
            .strip_prefix("/etc/network/")
            .unwrap_or(pattern)
            .strip_prefix("interfaces.d")?;
        let ending = match (keyword, inside) {
            // ifupdown skips names with a dot in these directories.
            ("source-directory", "" | "/" | "/*") if !stem.contains('.') => "",
            ("source", _) => inside.strip_prefix("/*")?,
            _ => return None,
        };
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '.';
        ending
            .chars()
            .all(plain)
            .then(|| directory.join(format!("{stem}{ending}")))
    })
}

/// Returns the new `/etc/resolv.conf` for a machine without a program that takes `dns-nameservers`
/// from ifupdown. A link belongs to another program, and with DHCP its client writes the file.
fn resolv_conf(context: &Context<'_>) -> Result<Option<NewFile>, InjectError> {
    let path = context.path("etc/resolv.conf");
    let settings = context.settings;
    if settings.dns.is_empty()
        || settings.dhcp4
        || path.is_symlink()
        || context.program("resolvconf").is_ok()
    {
        return Ok(None);
    }
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(cause) => return Err(InjectError::file("read", &path)(cause)),
    };
    let others = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("nameserver"))
        .map(str::to_owned);
    let servers = settings.dns.iter().map(|ip| format!("nameserver {ip}"));
    let text = joined(others.chain(servers), "\n") + "\n";
    Ok(Some(NewFile::changed(path, text)))
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
