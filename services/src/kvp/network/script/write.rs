//! The file for the script: assignments that a shell can read, with values in single quotes.

use std::fmt::Write;
use std::net::IpAddr;

use super::read::{SCRIPT, file, value};
use crate::kvp::files;
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan, Step};
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::network::target::Target;
use crate::trusted::trusted;

/// Renders the file. What the host does not state is that of `previous`, the file before.
pub(in crate::kvp::network) fn render(
    target: &Target,
    settings: &Settings,
    previous: &str,
) -> String {
    let mut text = HEADER.to_owned();
    let mut set = |key: &str, value: String| {
        let _ = writeln!(text, "{key}='{value}'");
    };
    set("INTERFACE", target.name.clone());
    set("MAC", target.permanent_mac().unwrap_or_default());
    let families = [
        (4, settings.families.has_v4()),
        (6, settings.families.has_v6()),
    ];
    for (family, stated) in families {
        let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == 4);
        let addresses = settings.addresses().filter(|(ip, _)| of_family(ip));
        let addresses = joined(addresses.map(|(ip, prefix)| format!("{ip}/{prefix}")), " ");
        let gateways = settings
            .routes()
            .map(|route| route.gateway)
            .filter(of_family);
        let gateways = joined(gateways, " ");
        let method = match (family, addresses.is_empty()) {
            (4, _) if settings.dhcp4 => "dhcp",
            (_, false) => "static",
            (4, true) => "none",
            (_, true) => "auto",
        };
        for (key, new, unknown) in [
            ("IPV", method.to_owned(), "keep"),
            ("ADDRESSES", addresses, ""),
            ("GATEWAYS", gateways, ""),
        ] {
            let key = format!("{key}{family}");
            let old = || value(previous, &key).unwrap_or(unknown).to_owned();
            let new = if stated { new } else { old() };
            set(&key, new);
        }
    }
    let kept = value(previous, "DNS").unwrap_or_default().split(' ');
    let kept = kept.filter_map(|server| server.parse().ok());
    let kept = kept.filter(|server| !settings.families.includes(*server));
    set("DNS", joined(settings.dns.iter().copied().chain(kept), " "));
    text
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let script = context.path(SCRIPT);
    // The link itself is run: some programs decide by their name what to do.
    trusted(&script).map_err(|source| InjectError::Untrusted {
        path: script.clone(),
        source,
    })?;
    let path = file(context.root, &context.target.name);
    let previous = files::text(&path).unwrap_or_default();
    let text = render(context.target, context.settings, &previous);
    let argument = path.display().to_string();
    let step = |verb| vec![Step::new(script.clone(), &[verb, &argument])];
    let (apply, revert) = (step("apply"), step("revert"));
    let files = vec![NewFile::new(path, text, 0o600)];
    Ok(Plan::new("script", files, apply, revert))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::request::{Family, IpInfo};

    fn target() -> Target {
        Target {
            name: "eth0".to_owned(),
            mac: Some([0, 0x15, 0x5d, 1, 2, 3]),
            permanent: true,
            device: hyperv_vmbus::Guid::from_u128(1),
        }
    }

    fn settings(family: Family, dhcp: bool, addresses: &str, gateways: &str) -> Settings {
        let subnets = addresses.split(';').filter(|ip| !ip.is_empty());
        let subnets = subnets.map(|ip| if ip.contains(':') { "/64" } else { "/24" });
        let mut dns = vec!["1.1.1.1", "fd00::53"];
        if family == Family::V6 {
            dns.remove(0);
        }
        Settings::parse(&IpInfo {
            adapter: String::new(),
            family,
            dhcp,
            addresses: addresses.to_owned(),
            subnets: joined(subnets, ";"),
            gateways: gateways.to_owned(),
            dns: joined(dns, ";"),
        })
        .unwrap()
    }

    const STATIC: &str = "INTERFACE='eth0'\n\
        MAC='00:15:5d:01:02:03'\n\
        IPV4='static'\n\
        ADDRESSES4='10.0.0.5/24 10.0.0.6/24'\n\
        GATEWAYS4='10.0.0.1'\n\
        IPV6='static'\n\
        ADDRESSES6='fd00::5/64'\n\
        GATEWAYS6='fe80::1'\n\
        DNS='1.1.1.1 fd00::53'\n";

    #[test]
    fn a_shell_can_read_the_file() {
        let all = settings(
            Family::BOTH,
            false,
            "10.0.0.5;10.0.0.6;fd00::5",
            "10.0.0.1;fe80::1",
        );
        let text = render(&target(), &all, "");
        assert_eq!(text, format!("{HEADER}{STATIC}"));
        let dhcp = render(&target(), &settings(Family::BOTH, true, "", ""), STATIC);
        assert!(
            dhcp.contains("IPV4='dhcp'\nADDRESSES4=''\nGATEWAYS4=''\n"),
            "{dhcp}"
        );
        assert!(dhcp.contains("IPV6='auto'\nADDRESSES6=''\n"), "{dhcp}");
    }

    #[test]
    fn what_the_host_does_not_state_stays() {
        let v6 = settings(Family::V6, false, "fd00::7", "");
        let text = render(&target(), &v6, STATIC);
        assert!(
            text.contains("IPV4='static'\nADDRESSES4='10.0.0.5/24 10.0.0.6/24'\n"),
            "{text}"
        );
        assert!(
            text.contains("ADDRESSES6='fd00::7/64'\nGATEWAYS6=''\n"),
            "{text}"
        );
        assert!(text.contains("DNS='fd00::53 1.1.1.1'\n"), "{text}");
        let text = render(&target(), &v6, "");
        assert!(
            text.contains("IPV4='keep'\nADDRESSES4=''\nGATEWAYS4=''\n"),
            "{text}"
        );
    }
}
