//! `ifcfg` files of Red Hat and SUSE.

use std::path::{Path, PathBuf};

use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::server;
use crate::kvp::network::mac;
use crate::kvp::network::state::ManagerState;
use crate::kvp::{assignments, files};
use crate::program;

const DIRECTORIES: [&str; 2] = ["etc/sysconfig/network-scripts", "etc/sysconfig/network"];

/// Prefix of the names of the files.
const PREFIX: &str = "ifcfg-";

/// Highest number of a `DNS` key.
const MAX_SERVERS: usize = 16;

/// Returns whether `ifcfg` files may configure interfaces: there is a directory of them, and the
/// program that reads them.
pub(super) fn in_charge(root: &Path) -> bool {
    match is_suse(root) {
        true => program::find(root, "wicked").is_ok(),
        false => {
            root.join("etc/sysconfig/network-scripts").is_dir()
                && program::find(root, "ifup").is_ok()
        }
    }
}

/// Returns whether this is a directory, as on SUSE; Red Hat has a file there.
pub(super) fn is_suse(root: &Path) -> bool {
    root.join("etc/sysconfig/network").is_dir()
}

/// Returns whether there is a file for the interface.
pub(super) fn has_file(root: &Path, interface: &Interface) -> bool {
    in_force(root, interface).is_some()
}

pub(super) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    in_force(root, interface).map(|file| parse(&file.text))
}

/// An `ifcfg` file.
pub(in crate::kvp::network) struct IfcfgFile {
    pub(in crate::kvp::network) path: PathBuf,
    /// What is after `ifcfg-` in its name.
    pub(in crate::kvp::network) name: String,
    pub(in crate::kvp::network) text: String,
}

/// Returns the file that configures the interface.
pub(in crate::kvp::network) fn in_force(root: &Path, interface: &Interface) -> Option<IfcfgFile> {
    all(root).find(|file| is_for(&file.name, &file.text, interface))
}

/// Returns all files.
pub(in crate::kvp::network) fn all(root: &Path) -> impl Iterator<Item = IfcfgFile> {
    let paths = DIRECTORIES
        .iter()
        .flat_map(|place| files::in_directory(&root.join(place)));
    paths.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.to_owned();
        // Backup copies of editors and package managers.
        let is_copy = [
            ".bak", ".orig", ".old", ".rpmnew", ".rpmsave", ".rpmorig", "~",
        ];
        if is_copy.iter().any(|end| name.ends_with(end)) {
            return None;
        }
        let text = files::text(&path)?;
        Some(IfcfgFile { path, name, text })
    })
}

/// Whether the file is for this interface: by the device or MAC address in it, or by its
/// own name if it has neither.
fn is_for(name: &str, text: &str, interface: &Interface) -> bool {
    if let Some(device) = assignments::last(text, "DEVICE") {
        return device == interface.name;
    }
    if let Some(mac) = assignments::last(text, "HWADDR") {
        return mac::parse(&mac).is_some_and(|mac| interface.mac == Some(mac));
    }
    name == interface.name
}

/// Parses the settings in an `ifcfg` file.
pub fn parse(text: &str) -> ManagerState {
    let protocol = assignments::last(text, "BOOTPROTO").map(|value| value.to_ascii_lowercase());
    let numbered = (1..=MAX_SERVERS).map(|number| format!("DNS{number}"));
    ManagerState {
        // On SUSE, `dhcp6` is not DHCP for IPv4, `dhcp+autoip` is.
        dhcp: protocol
            .map(|value| value == "bootp" || value.starts_with("dhcp") && value != "dhcp6"),
        dns: numbered
            .filter_map(|key| server(&assignments::last(text, &key)?))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::*;

    #[test]
    fn settings_are_parsed() {
        let found = parse("DEVICE=eth0\nBOOTPROTO=none\nDNS2=10.0.0.2\nDNS1=\"10.0.0.1\"\n");
        assert_eq!(found.dhcp, Some(false));
        assert_eq!(found.dns, ips(&["10.0.0.1", "10.0.0.2"]));
        for (value, expected) in [
            ("dhcp", true),
            ("'DHCP'", true),
            ("bootp", true),
            ("dhcp4", true),
            ("dhcp+autoip", true),
            ("dhcp6", false),
            ("static", false),
            ("", false),
        ] {
            let found = parse(&format!("BOOTPROTO={value}"));
            assert_eq!(found.dhcp, Some(expected), "{value}");
        }
        assert_eq!(parse("ONBOOT=yes"), ManagerState::default());
    }

    #[test]
    fn a_file_is_found_by_name_device_or_mac() {
        let scripts = "etc/sysconfig/network-scripts";
        for (path, text, is_it) in [
            ("ifcfg-eth0", "BOOTPROTO=dhcp", true),
            ("ifcfg-eth1", "BOOTPROTO=dhcp", false),
            ("ifcfg-Wired", "DEVICE=eth0\nBOOTPROTO=dhcp", true),
            ("ifcfg-eth0", "DEVICE=eth1\nBOOTPROTO=dhcp", false),
            (
                "ifcfg-Wired",
                "HWADDR=00:15:5D:01:02:03\nBOOTPROTO=dhcp",
                true,
            ),
            (
                "ifcfg-eth0",
                "HWADDR=00:15:5D:01:02:04\nBOOTPROTO=dhcp",
                false,
            ),
            ("ifcfg-eth0.rpmsave", "DEVICE=eth0\nBOOTPROTO=dhcp", false),
            ("route-eth0", "DEVICE=eth0\nBOOTPROTO=dhcp", false),
        ] {
            let root = root(&[(&format!("{scripts}/{path}"), text)]);
            let found = read(root.path(), &eth0(&[]));
            assert_eq!(found.is_some(), is_it, "{path}: {text:?}");
        }
        let suse = root(&[("etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO='static'")]);
        assert_eq!(read(suse.path(), &eth0(&[])).unwrap().dhcp, Some(false));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            prop_assert!(parse(&text).dns.len() <= MAX_SERVERS);
        }
    }
}
