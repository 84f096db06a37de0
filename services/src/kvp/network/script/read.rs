//! What the file for the script says about an interface.

use std::path::{Path, PathBuf};

use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::state::ManagerState;
use crate::program::is_executable;

/// The script, below the root.
pub(super) const SCRIPT: &str = "etc/hyperv-agent/network";

/// Returns the path of the file that has the configuration of an interface.
pub(super) fn file(root: &Path, interface: &str) -> PathBuf {
    files::under(root, &format!("var/lib/hyperv-agent/ip/{interface}"))
}

/// Returns whether there is a script.
pub(super) fn in_charge(root: &Path) -> bool {
    is_executable(&files::under(root, SCRIPT))
}

/// Returns the value of a key in the file.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let of_key = |line: &'a str| {
        let value = line.strip_prefix(key)?.strip_prefix("='")?;
        value.strip_suffix('\'')
    };
    text.lines().find_map(of_key)
}

/// Reads what the host set last.
pub(super) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    if !in_charge(root) {
        return None;
    }
    let text = files::text(&file(root, &interface.name))?;
    let servers = value(&text, "DNS").unwrap_or_default().split(' ');
    Some(ManagerState {
        dhcp: match value(&text, "IPV4")? {
            "dhcp" => Some(true),
            "keep" => None,
            _ => Some(false),
        },
        dns: servers.filter_map(|server| server.parse().ok()).collect(),
    })
}
