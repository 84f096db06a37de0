//! Whether NetworkManager will manage an interface, by its configuration: before it runs it has
//! published nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::ifupdown::read as ifupdown;
use crate::kvp::network::ini;
use crate::kvp::network::mac;

/// Directories of its configuration. A file replaces one of the same name in an earlier directory.
const DIRECTORIES: [&str; 3] = [
    "usr/lib/NetworkManager/conf.d",
    "run/NetworkManager/conf.d",
    "etc/NetworkManager/conf.d",
];

/// Returns whether it will manage the interface, unless another program does when it starts.
pub(super) fn will_manage(root: &Path, interface: &Interface) -> bool {
    let state = root.join(format!("run/NetworkManager/devices/{}", interface.index));
    if state.exists() {
        // It has decided.
        return false;
    }
    let texts = configuration(root);
    let last = |section, key| {
        let mut texts = texts.iter().rev();
        texts.find_map(|text| ini::last(text, section, key))
    };
    let unmanaged = last("keyfile", "unmanaged-devices");
    if unmanaged.is_some_and(|list| matches(list, interface)) {
        return false;
    }
    // Debian's plugin leaves what ifupdown has alone.
    let plugins = last("main", "plugins").unwrap_or_default();
    let mut plugins = plugins.split([',', ';']).map(str::trim);
    let has_plugin = plugins.any(|plugin| plugin == "ifupdown");
    let is_its_own = || ifupdown::read(root, interface).is_some();
    !(has_plugin && last("ifupdown", "managed") != Some("true") && is_its_own())
}

/// Returns the texts of its configuration, in the order in which it reads them.
fn configuration(root: &Path) -> Vec<String> {
    let mut by_name: [BTreeMap<Option<OsString>, PathBuf>; 2] = Default::default();
    for (place, directory) in DIRECTORIES.iter().enumerate() {
        for path in files::in_directory(&root.join(directory)) {
            if path.extension() == Some(OsStr::new("conf")) {
                let name = path.file_name().map(OsStr::to_owned);
                let [vendor, site] = &mut by_name;
                vendor.remove(&name);
                let own = if place < 2 { vendor } else { site };
                own.insert(name, path);
            }
        }
    }
    let [vendor, site] = by_name;
    let main = root.join("etc/NetworkManager/NetworkManager.conf");
    let paths = vendor.into_values().chain([main]).chain(site.into_values());
    paths.filter_map(|path| files::text(&path)).collect()
}

/// Returns whether a list of devices has the interface.
fn matches(list: &str, interface: &Interface) -> bool {
    let mut included = false;
    for spec in list.split([';', ',']).map(str::trim) {
        match spec.strip_prefix("except:") {
            Some(spec) if matches_one(spec, interface) => return false,
            Some(_) => {}
            None => included |= matches_one(spec, interface),
        }
    }
    included
}

fn matches_one(spec: &str, interface: &Interface) -> bool {
    let is_mac = |text: &str| mac::parse(text).is_some_and(|mac| interface.mac == Some(mac));
    match spec.split_once(':') {
        Some(("interface-name", pattern)) => {
            let pattern = pattern.strip_prefix('=').unwrap_or(pattern);
            WildMatch::new(pattern).matches(&interface.name)
        }
        Some(("mac", text)) => is_mac(text),
        // An adapter of Hyper-V.
        Some(("type", kind)) => kind == "ethernet",
        Some(("driver", pattern)) => WildMatch::new(pattern).matches("hv_netvsc"),
        _ => spec == "*" || spec == interface.name || is_mac(spec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::{eth0, root};

    const UBUNTU: &str =
        "[keyfile]\nunmanaged-devices=*,except:type:wifi,except:type:gsm,except:type:cdma\n";
    const VENDOR: &str = "usr/lib/NetworkManager/conf.d/10-globally-managed-devices.conf";

    const DEBIAN: (&str, &str) = (
        "etc/NetworkManager/NetworkManager.conf",
        "[main]\nplugins=ifupdown,keyfile\n\n[ifupdown]\nmanaged=false\n",
    );
    const INTERFACES: (&str, &str) = ("etc/network/interfaces", "iface eth0 inet dhcp\n");

    #[test]
    fn lists_of_devices_have_kinds_of_entries() {
        for (list, expected) in [
            ("", false),
            ("*", true),
            ("eth0", true),
            ("eth1;eth0", true),
            ("eth1", false),
            ("interface-name:eth*", true),
            ("interface-name:=eth0", true),
            ("interface-name:veth*", false),
            ("mac:00:15:5D:01:02:03", true),
            ("00:15:5d:01:02:03", true),
            ("mac:00:15:5D:01:02:04", false),
            ("*,except:type:ethernet", false),
            ("*,except:interface-name:eth1", true),
            ("driver:hv_*", true),
            ("type:bond", false),
        ] {
            assert_eq!(matches(list, &eth0(&[])), expected, "{list}");
        }
    }

    #[test]
    fn the_last_file_counts() {
        for (files, expected) in [
            (&[][..], true),
            (&[(VENDOR, UBUNTU)], false),
            // Netplan's for a global renderer, and Ubuntu's desktop.
            (
                &[
                    (VENDOR, UBUNTU),
                    (
                        "run/NetworkManager/conf.d/10-globally-managed-devices.conf",
                        "",
                    ),
                ],
                true,
            ),
            (
                &[
                    (VENDOR, UBUNTU),
                    (
                        "etc/NetworkManager/conf.d/10-globally-managed-devices.conf",
                        "",
                    ),
                ],
                true,
            ),
            (
                &[
                    (VENDOR, UBUNTU),
                    (
                        "etc/NetworkManager/conf.d/99-managed.conf",
                        "[keyfile]\nunmanaged-devices=none\n",
                    ),
                ],
                true,
            ),
            (
                &[("run/NetworkManager/devices/2", "managed=false\n")],
                false,
            ),
            // Debian's plugin.
            (&[DEBIAN, INTERFACES], false),
            (&[DEBIAN], true),
            (&[INTERFACES], true),
            (
                &[
                    DEBIAN,
                    INTERFACES,
                    (
                        "etc/NetworkManager/conf.d/a.conf",
                        "[ifupdown]\nmanaged=true\n",
                    ),
                ],
                true,
            ),
        ] {
            let root = root(files);
            assert_eq!(will_manage(root.path(), &eth0(&[])), expected, "{files:?}");
        }
    }
}
