//! Which `.network` file systemd-networkd will use for an interface: before it runs it has
//! published nothing.

use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use super::directories::network_files;
use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::{ini, mac};

/// Returns the file, unless it leaves the interface unmanaged. Files for which `counts` returns
/// `false` are ignored.
pub(super) fn file(
    root: &Path,
    interface: &Interface,
    counts: &dyn Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let mut paths = network_files(root).into_iter().filter(|path| counts(path));
    let (path, text) = paths.find_map(|path| {
        let text = files::text(&path)?;
        matches(&text, interface).then_some((path, text))
    })?;
    let unmanaged = ini::last(&text, "Link", "Unmanaged");
    let yes = |value: &str| matches!(value, "1" | "yes" | "y" | "true" | "t" | "on");
    (!unmanaged.is_some_and(yes)).then_some(path)
}

/// Returns whether the file is for the interface. Conditions on anything but the interface itself
/// are taken to hold, except that an adapter of Hyper-V is in no container.
fn matches(text: &str, interface: &Interface) -> bool {
    let mut conditions = 0;
    let all = ini::section(text, "Match").all(|(key, value)| {
        conditions += 1;
        match key {
            "Name" => is_in(value, Some(&interface.name)),
            "MACAddress" | "PermanentMACAddress" => value
                .split_whitespace()
                .any(|text| mac::parse(text).is_some_and(|mac| interface.mac == Some(mac))),
            "Type" => is_in(value, Some("ether")),
            "Driver" => is_in(value, Some("hv_netvsc")),
            "Kind" => is_in(value, interface.kind.as_deref()),
            "Virtualization" => !matches!(value, "container" | "!microsoft" | "!vm" | "no"),
            _ => true,
        }
    });
    // Newer versions ignore a file without conditions.
    conditions > 0 && all
}

/// Returns whether one of the patterns matches; with `!` in front, none. None matches what the
/// interface does not have.
fn is_in(patterns: &str, text: Option<&str>) -> bool {
    let (patterns, expected) = match patterns.strip_prefix('!') {
        Some(rest) => (rest, false),
        None => (patterns, true),
    };
    let matches = |pattern| text.is_some_and(|text| WildMatch::new(pattern).matches(text));
    patterns.split_whitespace().any(matches) == expected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::{eth0, root};

    #[test]
    fn conditions_are_compared_with_the_interface() {
        for (text, expected) in [
            ("[Match]\nName=eth0\n", true),
            ("[Match]\nName=ens* eth*\n", true),
            ("[Match]\nName=!eth0\n", false),
            ("[Match]\nName=!lo\n", true),
            ("[Match]\nMACAddress=00:15:5D:01:02:03\nName=*\n", true),
            ("[Match]\nMACAddress=00:15:5d:01:02:04\nName=*\n", false),
            ("[Match]\nType=ether\nKind=!*\n", true),
            ("[Match]\nType=wlan\n", false),
            ("[Match]\nName=eth0\nVirtualization=container\n", false),
            ("[Match]\nName=eth0\nKernelCommandLine=!nfsroot\n", true),
            ("[Network]\nDHCP=yes\n", false),
        ] {
            assert_eq!(matches(text, &eth0(&[])), expected, "{text}");
        }
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let eth = (
            "run/systemd/network/10-netplan-eth0.network",
            "[Match]\nName=eth0\n",
        );
        let all = (
            "usr/lib/systemd/network/99-all.network",
            "[Match]\nName=*\n[Link]\nUnmanaged=yes\n",
        );
        let found = |files: &[(&str, &str)]| {
            let root = root(files);
            let file = file(root.path(), &eth0(&[]), &|_| true)?;
            Some(file.strip_prefix(root.path()).unwrap().to_owned())
        };
        assert_eq!(found(&[all, eth]), Some(eth.0.into()));
        assert_eq!(found(&[all]), None);
        // A file of the administrator replaces that of the same name.
        let own = ("etc/systemd/network/99-all.network", "[Match]\nName=*\n");
        assert_eq!(found(&[all, own]), Some(own.0.into()));
        assert_eq!(found(&[]), None);
    }
}
