//! ConnMan: while it runs, `connmanctl` gets the settings, and ConnMan writes them into its file;
//! before it runs, the agent writes that file. ConnMan has one address and one gateway of each
//! family.
//!
//! Settings of a service that waits for a lease are ignored without a word, so it is disconnected
//! first. A call for each setting: `connmanctl` takes the words that follow for its arguments.

use std::net::IpAddr;
use std::time::Duration;

use super::read::{Service, path, service};
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, NewFile, Plan, Step};
use crate::kvp::network::settings::{Settings, joined};
use crate::kvp::request::Family;

const MANAGER: &str = "ConnMan";

/// ConnMan removes the previous configuration before it applies the new one.
const STABLE_FOR: Duration = Duration::from_millis(500);

/// The settings of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OfFamily {
    /// `IPv4` or `IPv6`.
    name: &'static str,
    /// `off`, `dhcp`, `auto` or `manual`.
    method: String,
    /// The address, the mask or the prefix length, and the gateway if there is one.
    manual: Vec<String>,
}

/// What the host sets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    families: Vec<OfFamily>,
    dns: Vec<IpAddr>,
}

impl Change {
    /// Of the host's settings, and what `service` has of a family that stays.
    fn new(service: &Service, settings: &Settings) -> Result<Self, InjectError> {
        let one = |count: usize, what| match count {
            0 | 1 => Ok(()),
            _ => Err(unsupported(format!("it has one {what} of each family"))),
        };
        one(settings.v4.len().max(settings.v6.len()), "address")?;
        one(
            settings.gateways4.len().max(settings.gateways6.len()),
            "gateway",
        )?;
        let mut families = Vec::new();
        for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
            if settings.families.0 & family.0 == 0 {
                continue;
            }
            let address = settings.addresses().find(|(ip, _)| family.includes(*ip));
            let (method, mut manual) = match address {
                Some((ip, prefix)) => ("manual", vec![ip.to_string(), prefix.to_string()]),
                None if family == Family::V6 => ("auto", Vec::new()),
                None if settings.dhcp4 => ("dhcp", Vec::new()),
                None => ("off", Vec::new()),
            };
            let mut gateways = settings.routes().map(|route| route.gateway);
            if let Some(gateway) = gateways.find(|ip| family.includes(*ip)) {
                if manual.is_empty() {
                    let why = format!("it takes gateway {gateway} only with an address");
                    return Err(unsupported(why));
                }
                manual.push(gateway.to_string());
            }
            families.push(OfFamily {
                name,
                method: method.to_owned(),
                manual,
            });
        }
        let kept = servers(service).into_iter();
        let kept = kept.filter(|ip| !settings.replaces(*ip) && !settings.dns.contains(ip));
        Ok(Self {
            families,
            dns: settings.dns.iter().copied().chain(kept).collect(),
        })
    }

    /// Of the settings that a service has.
    fn back_to(service: &Service) -> Self {
        let of_family = |(name, default): (&'static str, &str)| {
            let get = |key: &str| service.get(&format!("{name}.{key}")).map(str::to_owned);
            let method = get("method").unwrap_or_else(|| default.to_owned());
            let keys = ["local_address", "netmask_prefixlen", "gateway"];
            let manual = match method.as_str() {
                "manual" => keys.into_iter().filter_map(get).collect(),
                _ => Vec::new(),
            };
            OfFamily {
                name,
                method,
                manual,
            }
        };
        let families = [("IPv4", "dhcp"), ("IPv6", "auto")].map(of_family);
        Self {
            families: families.into(),
            dns: servers(service),
        }
    }

    /// Returns the arguments of the calls of `connmanctl`.
    fn calls(&self, service: &str) -> Vec<Vec<String>> {
        let config = |option: &str, values: Vec<String>| {
            let words = ["config", service, option].map(str::to_owned);
            [words.to_vec(), values].concat()
        };
        let families = self.families.iter().map(|family| {
            let mut values = family.manual.clone();
            values.insert(0, family.method.clone());
            // IPv4 has a mask here.
            if let ("IPv4", Some(prefix)) = (family.name, values.get_mut(2)) {
                *prefix = mask(prefix).unwrap_or_else(|| prefix.clone());
            }
            config(&format!("--{}", family.name.to_lowercase()), values)
        });
        let dns = self.dns.iter().map(IpAddr::to_string).collect();
        families.chain([config("--nameservers", dns)]).collect()
    }

    /// Writes the settings into the file of a service.
    fn write(&self, service: &mut Service) -> String {
        let ours = |key: &str| {
            let mut families = self.families.iter();
            key == "Nameservers" || families.any(|family| is_setting(family.name, key))
        };
        let name = &service.name;
        let mut sections = service.settings.sections.iter_mut();
        if let Some(section) = sections.find(|section| section.name == *name) {
            section.lines.retain(|(key, _)| !ours(key));
            for OfFamily {
                name,
                method,
                manual,
            } in &self.families
            {
                section.push(&format!("{name}.method"), method);
                let keys = ["local_address", "netmask_prefixlen", "gateway"];
                for (key, value) in keys.into_iter().zip(manual) {
                    section.push(&format!("{name}.{key}"), value);
                }
            }
            if !self.dns.is_empty() {
                section.push("Nameservers", joined(&self.dns, ";") + ";");
            }
        }
        service.settings.render()
    }
}

/// Returns whether the key is one of a family's that a change replaces. Others, such as
/// `IPv6.privacy`, stay.
fn is_setting(family: &str, key: &str) -> bool {
    let setting = key
        .strip_prefix(family)
        .and_then(|rest| rest.strip_prefix('.'));
    matches!(
        setting,
        Some("method" | "local_address" | "netmask_prefixlen" | "gateway")
    )
}

fn servers(service: &Service) -> Vec<IpAddr> {
    let list = service.get("Nameservers").unwrap_or_default().split(';');
    list.filter_map(|server| server.parse().ok()).collect()
}

fn mask(prefix: &str) -> Option<String> {
    let ones: u32 = prefix.parse().ok()?;
    let bits = u32::MAX.checked_shl(32_u32.checked_sub(ones)?).unwrap_or(0);
    Some(std::net::Ipv4Addr::from_bits(bits).to_string())
}

fn unsupported(why: String) -> InjectError {
    InjectError::Unsupported {
        manager: MANAGER,
        why,
    }
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let mut service = service(context.root, context.interface).ok_or_else(|| {
        unsupported(format!(
            "it has never connected {}; connect it with connmanctl once",
            context.target.name
        ))
    })?;
    if let Some(name) = service.get("Config.file") {
        let why = format!("/var/lib/connman/{name}.config determines the settings; remove it");
        return Err(unsupported(why));
    }
    let change = Change::new(&service, context.settings)?;
    let back = Change::back_to(&service);
    let name = service.name.clone();
    let connmanctl = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        context.step("connmanctl", &args)
    };
    let steps = |change: &Change| -> Result<Vec<Step>, InjectError> {
        let calls = change.calls(&name);
        let steps = calls.iter().map(|call| connmanctl(call));
        // It reports errors with exit status 0.
        let steps = steps.map(|step| Ok(step?.fails_on("Error")));
        let connect = connmanctl(&["connect".to_owned(), name.clone()])?;
        steps.chain([Ok(connect)]).collect()
    };
    let (apply, revert) = (steps(&change)?, steps(&back)?);
    let disconnect = connmanctl(&["disconnect".to_owned(), name.clone()])?.may_fail();
    // As long as it runs, the file is its own.
    let files = match context.running {
        true => Vec::new(),
        false => {
            let path = context.path(&path(&name));
            vec![NewFile::new(path, change.write(&mut service), 0o600)]
        }
    };
    Ok(Plan {
        stop: vec![disconnect],
        stable_for: STABLE_FOR,
        ..Plan::new(MANAGER, files, apply, revert)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::ini::{Document, Syntax};
    use crate::kvp::request::IpInfo;

    const NAME: &str = "ethernet_00155d010203_cable";
    const SETTINGS: &str = "[ethernet_00155d010203_cable]\nName=Wired\nAutoConnect=true\n\
        IPv4.method=manual\nIPv4.netmask_prefixlen=25\nIPv4.local_address=192.168.7.7\n\
        IPv6.method=auto\nIPv6.privacy=prefered\nNameservers=9.9.9.9;fd00::9;\n";

    fn service() -> Service {
        Service {
            name: NAME.to_owned(),
            settings: Document::parse(SETTINGS, Syntax::KeyFile),
        }
    }

    fn settings(family: Family, addresses: &str, subnets: &str, gateways: &str) -> Settings {
        Settings::parse(&IpInfo {
            family,
            addresses: addresses.to_owned(),
            subnets: subnets.to_owned(),
            gateways: gateways.to_owned(),
            dns: "1.1.1.1".to_owned(),
            ..IpInfo::default()
        })
        .unwrap()
    }

    fn calls(change: &Change) -> Vec<String> {
        let calls = change.calls("S").into_iter();
        calls.map(|call| call.join(" ")).collect()
    }

    #[test]
    fn connmanctl_gets_the_settings_and_the_previous_ones() {
        let both = settings(
            Family::BOTH,
            "10.0.0.5;fd00::5",
            "/24;/64",
            "10.0.0.1;fe80::1",
        );
        let change = Change::new(&service(), &both).unwrap();
        assert_eq!(
            calls(&change),
            [
                "config S --ipv4 manual 10.0.0.5 255.255.255.0 10.0.0.1",
                "config S --ipv6 manual fd00::5 64 fe80::1",
                "config S --nameservers 1.1.1.1"
            ]
        );
        assert_eq!(
            calls(&Change::back_to(&service())),
            [
                "config S --ipv4 manual 192.168.7.7 255.255.255.128",
                "config S --ipv6 auto",
                "config S --nameservers 9.9.9.9 fd00::9"
            ]
        );
        let dhcp = Settings {
            families: Family::V4,
            dhcp4: true,
            ..Settings::default()
        };
        let change = Change::new(&service(), &dhcp).unwrap();
        assert_eq!(
            calls(&change),
            ["config S --ipv4 dhcp", "config S --nameservers fd00::9"]
        );
    }

    #[test]
    fn the_file_gets_the_settings_before_it_runs() {
        let v4 = settings(Family::V4, "10.0.0.5", "/24", "10.0.0.1");
        let change = Change::new(&service(), &v4).unwrap();
        let text = change.write(&mut service());
        assert_eq!(
            text,
            "[ethernet_00155d010203_cable]\nName=Wired\nAutoConnect=true\nIPv6.method=auto\n\
             IPv6.privacy=prefered\nIPv4.method=manual\nIPv4.local_address=10.0.0.5\n\
             IPv4.netmask_prefixlen=24\nIPv4.gateway=10.0.0.1\nNameservers=1.1.1.1;fd00::9;\n"
        );
    }

    #[test]
    fn more_than_it_has_is_refused() {
        for (addresses, subnets, gateways, word) in [
            ("10.0.0.5;10.0.0.6", "/24;/24", "", "address"),
            ("10.0.0.5", "/24", "10.0.0.1;10.0.0.2", "gateway"),
            ("10.0.0.5", "/24", "fe80::1", "gateway fe80::1 only with"),
        ] {
            let settings = settings(Family::BOTH, addresses, subnets, gateways);
            let error = Change::new(&service(), &settings).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
