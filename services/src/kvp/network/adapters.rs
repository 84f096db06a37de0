//! What GET_IP_INFO answers for each of the host's adapters, where that comes from, and which
//! network manager a SET_IP_INFO would go to, for administrators.

use std::io;
use std::net::IpAddr;

use hyperv_vmbus::Guid;
use serde::Serialize;
use slog::{Discard, Logger, o};

use super::choose::choose;
use super::get::{self, Answer};
use super::mac;
use super::manager::Charge;
use super::managers::MANAGERS;
use crate::error_chain::display_chain;
use crate::kvp::config::Config;
use crate::kvp::interfaces::{self, Interface};
use crate::kvp::request::Family;

/// A network adapter of the host, or another interface that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adapter {
    /// The interface.
    pub interface: String,
    /// The Ethernet address by which the host asks for it.
    pub mac: Option<String>,
    /// The instance GUID of its VMBus device, by which the host configures it.
    pub device: Option<String>,
    /// What the host is told; `None` if it is refused.
    pub answer: Option<Told>,
    /// Why the host is told nothing.
    pub refusal: Option<String>,
    /// Where a configuration of the host would go.
    pub target: Target,
}

/// What the host is told of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The interface whose configuration it is: several can have the same Ethernet address.
    pub interface: String,
    /// Whether IPv4 is configured by DHCP.
    pub dhcp: bool,
    /// Addresses with the prefix lengths of their subnets.
    pub addresses: Vec<String>,
    /// Default gateways.
    pub gateways: Vec<IpAddr>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// Who knows it.
    pub sources: Sources,
}

/// Who knows what the host is told: the key of a network manager, or the name of another source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sources {
    /// The addresses.
    pub addresses: &'static str,
    /// The gateways.
    pub gateways: &'static str,
    /// Whether DHCP is used; `None` if nobody knew, so that the lifetimes of addresses decided.
    pub dhcp: Option<&'static str>,
    /// The DNS servers; `None` if nobody knows one.
    pub dns: Option<&'static str>,
}

/// Where a configuration of the host would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The key of the network manager; `None` if the configuration would be refused.
    pub manager: Option<&'static str>,
    /// Why that one, or why none.
    pub why: String,
    /// All network managers, in the order in which they are asked.
    pub candidates: Vec<Candidate>,
}

/// Whether a network manager is in charge of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The key of the network manager.
    pub manager: &'static str,
    /// `yes`, `no`, or `perhaps` if it is installed and does not tell.
    pub in_charge: &'static str,
    /// What shows that it is in charge.
    pub sign: String,
}

/// Why adapters cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum AdaptersError {
    /// The kernel did not list the interfaces.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),
    /// There is no such interface.
    #[error("no interface has the name, the MAC address or the VMBus device {0:?}")]
    Unknown(String),
}

/// Returns the adapters of the host, or the one interface with this name, Ethernet address or
/// VMBus device.
///
/// # Errors
///
/// Any [`AdaptersError`].
pub fn adapters(config: &Config, only: Option<&str>) -> Result<Vec<Adapter>, AdaptersError> {
    let root = &config.environment.root;
    let interfaces = interfaces::list(root).map_err(AdaptersError::Interfaces)?;
    let found = select(&interfaces, only);
    if let (Some(only), true) = (only, found.is_empty()) {
        return Err(AdaptersError::Unknown(only.to_owned()));
    }
    let adapters = found.into_iter();
    Ok(adapters
        .map(|interface| adapter(config, &interfaces, interface))
        .collect())
}

fn select<'a>(interfaces: &'a [Interface], only: Option<&str>) -> Vec<&'a Interface> {
    let Some(only) = only else {
        let mut adapters: Vec<_> = interfaces.iter().collect();
        adapters.retain(|interface| interface.vmbus_device.is_some());
        return adapters;
    };
    let by_name = interfaces.iter().find(|interface| interface.name == only);
    let by_device = || {
        let guid: Guid = only.parse().ok()?;
        interfaces
            .iter()
            .find(|interface| interface.vmbus_device == Some(guid))
    };
    let by_mac = || {
        let mac = mac::parse(only)?;
        let mut interfaces: Vec<_> = interfaces
            .iter()
            .filter(|interface| interface.mac == Some(mac) || interface.permanent_mac == Some(mac))
            .collect();
        // The adapter rather than a VF or a VLAN.
        interfaces.sort_by_key(|interface| interface.vmbus_device.is_none());
        interfaces.first().copied()
    };
    let found = by_name.or_else(by_device).or_else(by_mac);
    found.into_iter().collect()
}

fn adapter(config: &Config, interfaces: &[Interface], interface: &Interface) -> Adapter {
    let device = interface.vmbus_device;
    let mac = interface.permanent_mac.or(interface.mac).map(mac::format);
    let answer = match (&mac, config.access.ip_info) {
        (_, false) => Err("the configuration refuses it (ip-info = false)".to_owned()),
        (None, _) => Err("it has no MAC address".to_owned()),
        (Some(mac), true) => {
            let log = Logger::root(Discard, o!());
            get::explain(config, interfaces, mac, Family::BOTH, &log)
                .map(told)
                .map_err(|error| display_chain(&error))
        }
    };
    let (answer, refusal) = match answer {
        Ok(told) => (Some(told), None),
        Err(refusal) => (None, Some(refusal)),
    };
    Adapter {
        interface: interface.name.clone(),
        mac,
        device: device.map(|device| device.to_string()),
        answer,
        refusal,
        target: target(config, interfaces, interface),
    }
}

fn told(answer: Answer) -> Told {
    let info = answer.info;
    let addresses = info.addresses.iter();
    Told {
        interface: answer.interface,
        dhcp: info.dhcp,
        addresses: addresses
            .map(|address| format!("{}/{}", address.ip, address.prefix))
            .collect(),
        gateways: info.gateways,
        dns: info.dns,
        sources: Sources {
            addresses: "kernel",
            gateways: "kernel",
            dhcp: answer.dhcp_from,
            dns: answer.dns_from,
        },
    }
}

fn target(config: &Config, interfaces: &[Interface], interface: &Interface) -> Target {
    let root = &config.environment.root;
    let top = interfaces::stack::top(interface, interfaces);
    let candidates = MANAGERS.iter().map(|manager| Candidate {
        manager: manager.key(),
        in_charge: match manager.in_charge(root, top) {
            Charge::Now => "yes",
            Charge::Perhaps => "perhaps",
            Charge::No => "no",
        },
        sign: manager.sign(top),
    });
    let master = (top.index != interface.index).then_some(&top.name);
    let (manager, why) = match (choose(root, config.network.backend, top), master) {
        _ if interface.vmbus_device.is_none() => {
            (None, "it is not an adapter of the host".to_owned())
        }
        (Ok(choice), None) => (Some(choice.manager.key()), choice.why.to_string()),
        (Err(error), None) => (None, display_chain(&error)),
        (Ok(choice), Some(master)) if choice.manager.configures_masters(root, top) => {
            let why = format!("it is a port of {master}; {}", choice.why);
            (Some(choice.manager.key()), why)
        }
        (_, Some(master)) => (None, format!("it is a port of {master}")),
    };
    Target {
        manager,
        why,
        candidates: candidates.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::backend::Backend;
    use super::super::testing::*;
    use super::*;
    use crate::kvp::interfaces::testing;

    const DEVICE: Guid = Guid::from_u128(7);

    fn config(root: &std::path::Path) -> Config {
        let mut config = Config::default();
        config.environment.root = root.to_owned();
        config
    }

    #[test]
    fn an_adapter_tells_what_the_host_gets_and_from_whom() {
        let root = root(&[
            ("run/NetworkManager/devices/2", "[device]\nmanaged=true\n"),
            ("etc/resolv.conf", "nameserver 10.0.0.53\n"),
        ]);
        let mut eth0 = eth0(&["10.0.0.5"]);
        eth0.mac = Some([0, 0x15, 0x5d, 1, 2, 3]);
        eth0.gateways = ips(&["10.0.0.1"]);
        eth0.vmbus_device = Some(DEVICE);
        let mut config = config(root.path());
        let bridge = Interface {
            kind: Some("bridge".to_owned()),
            ..testing::interface(9, "br0")
        };
        let all = [eth0.clone(), bridge];
        let show = |config: &Config, interface: &Interface| adapter(config, &all, interface);
        let shown = show(&config, &eth0);
        assert_eq!(shown.mac.as_deref(), Some("00:15:5d:01:02:03"));
        assert_eq!(shown.target.manager, Some("networkmanager"));
        assert_eq!(shown.target.why, "it is in charge of the interface");
        let in_charge = shown.target.candidates.iter();
        let in_charge: Vec<_> = in_charge.map(|one| one.in_charge).collect();
        assert_eq!(in_charge[..4], ["no", "no", "yes", "no"]);
        let told = shown.answer.unwrap();
        assert_eq!(told.gateways, ips(&["10.0.0.1"]));
        assert_eq!(told.dns, ips(&["10.0.0.53"]));
        assert_eq!(
            (told.sources.dhcp, told.sources.dns),
            (None, Some("resolv.conf"))
        );

        // What the host may not read or set.
        let other = Interface {
            vmbus_device: None,
            ..eth0.clone()
        };
        assert_eq!(show(&config, &other).target.manager, None);
        let mut port = eth0.clone();
        port.master = Some(9);
        let shown = show(&config, &port).target;
        assert_eq!((shown.manager, &*shown.why), (None, "it is a port of br0"));
        config.access.ip_info = false;
        config.network.backend = Backend::Off;
        let shown = show(&config, &eth0);
        assert!(shown.refusal.unwrap().contains("ip-info"));
        assert!(shown.target.why.contains("backend = \"off\""));
        config.network.backend = Backend::Auto;
        fs::remove_file(root.path().join("run/NetworkManager/devices/2")).unwrap();
        let shown = show(&config, &eth0).target;
        assert!(
            shown.why.contains("none of script, netplan"),
            "{}",
            shown.why
        );
        assert_eq!(
            shown.candidates[2].sign,
            "managed=true in /run/NetworkManager/devices/2"
        );
    }

    #[test]
    fn an_interface_has_several_names() {
        let mut vf = eth0(&[]);
        vf.name = "enP1".to_owned();
        vf.mac = Some([0, 0x15, 0x5d, 1, 2, 3]);
        let mut eth1 = vf.clone();
        eth1.name = "eth1".to_owned();
        eth1.vmbus_device = Some(DEVICE);
        let lo = Interface {
            name: "lo".to_owned(),
            ..Interface::default()
        };
        let all = [vf, eth1, lo];
        let found = |only| {
            let found = select(&all, only).into_iter();
            found.map(|one| one.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(found(None), ["eth1"]);
        assert_eq!(found(Some("lo")), ["lo"]);
        assert_eq!(found(Some("00-15-5D-01-02-03")), ["eth1"]);
        let device = DEVICE.to_string();
        assert_eq!(found(Some(device.as_str())), ["eth1"]);
        assert_eq!(found(Some("eth9")), [""; 0]);
    }
}
