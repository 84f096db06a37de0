//! `/etc/resolv.conf` of a machine without a program that takes `dns-nameservers` from ifupdown.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;

use super::interfaces::{Interfaces, brought_up};
use crate::kvp::network::dns::{server, servers};
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, NewFile};

/// Returns the new file. A link belongs to another program, and with DHCP its client writes the
/// file. `logical` is the name of the stanzas in force.
pub(super) fn plan(
    context: &Context<'_>,
    interfaces: &Interfaces,
    logical: &str,
    other_is_default: bool,
) -> Result<Option<NewFile>, InjectError> {
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
        Err(cause) if cause.kind() == ErrorKind::NotFound => String::new(),
        Err(cause) => return Err(InjectError::file("read", &path)(cause)),
    };
    let of = |name: &str| -> Vec<IpAddr> {
        let stanzas = interfaces.stanzas(name).into_iter();
        let options = stanzas.flat_map(|stanza| stanza.options);
        let lists = options.filter(|(key, _)| key.starts_with("dns-nameserver"));
        lists.flat_map(|(_, list)| servers(&list)).collect()
    };
    let previous = of(logical);
    let others: Vec<IpAddr> = brought_up(context.root)
        .into_iter()
        .filter(|(name, _)| *name != context.target.name)
        .flat_map(|(_, logical)| of(&logical))
        .collect();
    // Those of other interfaces, and those of a family that the host leaves as it is. Where
    // another interface has the default route, also those that no stanza names.
    let stays = |ip: IpAddr| {
        others.contains(&ip)
            || !settings.replaces(ip)
            || other_is_default && !previous.contains(&ip)
    };
    let ours = settings.dns.iter().map(|ip| match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            format!("nameserver {ip}%{}", context.target.name)
        }
        ip => format!("nameserver {ip}"),
    });
    let (mut lines, mut kept) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.trim_start().strip_prefix("nameserver") {
            None => lines.push(line.to_owned()),
            Some(rest) => {
                let ip = server(rest.trim());
                if ip.is_some_and(|ip| stays(ip) && !settings.dns.contains(&ip)) {
                    kept.push(line.to_owned());
                }
            }
        }
    }
    if other_is_default {
        lines.extend(kept);
        lines.extend(ours);
    } else {
        lines.extend(ours);
        lines.extend(kept);
    }
    Ok(Some(NewFile::changed(path, lines.join("\n") + "\n")))
}
