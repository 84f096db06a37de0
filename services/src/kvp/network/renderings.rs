//! The files of every network manager, for fuzzing.

use hyperv_vmbus::Guid;

use super::ini::{Document, Syntax};
use super::networkd::keep::{Kept, keep};
use super::scripts::hv_set_ifconfig;
use super::settings::Settings;
use super::target::Target;
use super::{ifcfg, ifupdown, netplan, networkd, networkmanager, script};

/// A file of systemd-networkd that is in force.
const NETWORK_FILE: &str = "[Network]\nVLAN=vlan10\nDHCP=yes\nAddress=192.168.7.7/24\n\
     DNS=192.168.7.53 fd07::53\n[Address]\nAddress=10.0.0.5/24\n[Route]\nGateway=192.168.7.1\n\
     Metric=5\n[Route]\nDestination=10.50.0.0/16\nGateway=192.168.7.254\n";

/// Renders the files of every network manager for an interface, whose name has letters, digits,
/// `.`, `_` and `-` only.
pub fn renderings(
    name: &str,
    mac: Option<[u8; 6]>,
    device: Guid,
    settings: &Settings,
) -> Vec<String> {
    let target = Target {
        name: name.to_owned(),
        mac,
        permanent: true,
        device,
    };
    let base = Document::parse(NETWORK_FILE, Syntax::Unit);
    vec![
        hv_set_ifconfig::render_ifcfg(&target, settings),
        hv_set_ifconfig::render_keyfile(&target, settings),
        script::write::render(&target, settings, ""),
        netplan::write::render(&target, settings, &netplan::keep::Kept::default()),
        networkd::write::render(&target, settings, &Kept::nothing()),
        networkd::write::render(
            &target,
            settings,
            &keep("10-eth0.network", &base, settings, &|_| true),
        ),
        networkmanager::write::render(&target, settings),
        ifupdown::write::render(&target, settings, "/bin/grep"),
        ifcfg::red_hat::render(&target, settings),
        ifcfg::suse::render("", settings).0,
        ifcfg::suse::render_routes(&target, settings, ""),
    ]
}
