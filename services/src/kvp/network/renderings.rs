//! The files of every network manager, for fuzzing.

use hyperv_vmbus::Guid;

use super::scripts::hv_set_ifconfig;
use super::settings::Settings;
use super::target::Target;
use super::{ifcfg, ifupdown, netplan, networkd, networkmanager, script};

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
    vec![
        hv_set_ifconfig::render_ifcfg(&target, settings),
        hv_set_ifconfig::render_keyfile(&target, settings),
        script::write::render(&target, settings, ""),
        netplan::write::render(&target, settings, netplan::write::Renderer::Networkd),
        netplan::write::render(&target, settings, netplan::write::Renderer::NetworkManager),
        networkd::write::render(&target, settings),
        networkmanager::write::render(&target, settings),
        ifupdown::write::render(&target, settings, "/bin/grep"),
        ifcfg::red_hat::render(&target, settings),
        ifcfg::suse::render("", settings).0,
        ifcfg::suse::render_routes(&target, settings, ""),
    ]
}
