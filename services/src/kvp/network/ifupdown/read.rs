//! ifupdown: `/etc/network/interfaces` and the files that it sources.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::dns::servers;
use crate::kvp::network::program;
use crate::kvp::network::state::ManagerState;

/// Most sourced files and patterns that are read: a file can source itself.
const MAX_SOURCED: usize = 200;

/// A relevant line of an `interfaces` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The start of a stanza.
    Interface {
        /// The interface.
        name: String,
        /// Whether it configures IPv4, and not IPv6.
        is_v4: bool,
        /// The method, such as `dhcp`.
        method: String,
    },
    /// DNS servers in the current stanza.
    Dns(String),
    /// A file or pattern to read.
    Source(String),
    /// A directory to read the files of.
    SourceDirectory(String),
}

/// Returns whether ifupdown may be in charge of interfaces: it is installed.
pub(super) fn in_charge(root: &Path) -> bool {
    root.join("etc/network/interfaces").exists() && program::find(root, "ifup").is_some()
}

/// Returns whether ifupdown has brought the interface up.
pub(super) fn is_up(root: &Path, interface: &Interface) -> bool {
    brought_up(root, &interface.name).is_some()
}

pub(super) fn read(root: &Path, interface: &Interface) -> Option<ManagerState> {
    let logical = logical(root, &interface.name);
    let mut entries = Vec::new();
    let mut budget = MAX_SOURCED;
    let start = files::under(root, "/etc/network/interfaces");
    read_file(root, &start, &mut budget, &mut entries);

    let mut found = None;
    let mut inside = false;
    for entry in entries {
        match entry {
            Entry::Interface {
                name,
                is_v4,
                method,
            } => {
                inside = name == logical;
                if inside {
                    let settings: &mut ManagerState = found.get_or_insert_default();
                    let dhcp = settings.dhcp == Some(true) || is_v4 && method == "dhcp";
                    settings.dhcp = Some(dhcp);
                }
            }
            Entry::Dns(list) if inside => {
                if let Some(settings) = &mut found {
                    settings.dns.extend(servers(&list));
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the name of the stanzas that configure the interface: its own, unless a mapping
/// chose another.
fn logical(root: &Path, interface: &str) -> String {
    brought_up(root, interface).unwrap_or_else(|| interface.to_owned())
}

/// Returns the name of the stanzas by which the interface was brought up.
fn brought_up(root: &Path, interface: &str) -> Option<String> {
    let state = files::text(&files::under(root, "/run/network/ifstate"))?;
    state.lines().find_map(|line| {
        let (name, logical) = line.trim().split_once('=')?;
        (name == interface && !logical.is_empty()).then(|| logical.to_owned())
    })
}

/// Reads a file and, as far as the budget goes, the files that it sources.
fn read_file(root: &Path, path: &Path, budget: &mut usize, entries: &mut Vec<Entry>) {
    for entry in parse(&files::text(path).unwrap_or_default()) {
        let sourced = match entry {
            Entry::Source(_) | Entry::SourceDirectory(_) if !take_one(budget) => return,
            Entry::Source(pattern) => matching(root, &pattern),
            Entry::SourceDirectory(directory) => {
                let mut paths = files::in_directory(&resolve(root, &directory));
                paths.retain(|path| path.file_name().is_some_and(is_plain));
                paths
            }
            other => {
                entries.push(other);
                continue;
            }
        };
        for path in sourced {
            if !take_one(budget) {
                return;
            }
            read_file(root, &path, budget, entries);
        }
    }
}

/// Takes one from the budget; returns `false` if it is used up.
fn take_one(budget: &mut usize) -> bool {
    let rest = budget.checked_sub(1);
    *budget = rest.unwrap_or_default();
    rest.is_some()
}

/// Returns the files that match a pattern with wildcards in its last component.
fn matching(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = resolve(root, pattern);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
    else {
        return Vec::new();
    };
    let pattern = WildMatch::new(name);
    let mut paths = files::in_directory(directory);
    paths.retain(|path| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| !name.starts_with('.') && pattern.matches(name))
    });
    paths
}

fn resolve(root: &Path, path: &str) -> PathBuf {
    if path.starts_with('/') {
        files::under(root, path)
    } else {
        files::under(root, "/etc/network").join(path)
    }
}

/// Whether ifupdown reads a file of that name in a directory: not the backups of editors
/// and dpkg.
fn is_plain(name: &OsStr) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    name.as_encoded_bytes().iter().all(plain)
}

/// Parses the relevant lines of an `interfaces` file, in order.
pub fn parse(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else {
            continue;
        };
        let rest = || words.clone().collect::<Vec<_>>().join(" ");
        match keyword {
            "iface" => {
                let rest: Vec<_> = words.collect();
                // With `inherits`, the family follows later or is missing.
                let family = rest
                    .iter()
                    .position(|word| matches!(*word, "inet" | "inet6"));
                let method = family.and_then(|at| rest.get(at + 1));
                entries.push(Entry::Interface {
                    name: rest.first().copied().unwrap_or_default().to_owned(),
                    is_v4: family.and_then(|at| rest.get(at)) == Some(&"inet"),
                    method: method.copied().unwrap_or_default().to_owned(),
                });
            }
            "dns-nameservers" | "dns-nameserver" => entries.push(Entry::Dns(rest())),
            "source" => entries.extend(words.map(|word| Entry::Source(word.to_owned()))),
            "source-directory" | "source-dir" => {
                entries.extend(words.map(|word| Entry::SourceDirectory(word.to_owned())));
            }
            _ => {}
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::*;

    fn settings(files: &[(&str, &str)]) -> Option<ManagerState> {
        let root = root(files);
        read(root.path(), &eth0(&[]))
    }

    #[test]
    fn the_stanzas_of_the_interface_are_used() {
        let text = "
            # iface eth0 inet dhcp
            auto lo eth0
            iface lo inet loopback
                dns-nameservers 10.0.0.9

            iface eth0 inet static
                address 10.0.0.7/24
                dns-nameservers 10.0.0.1 \\
                                10.0.0.2
            iface eth0 inet6 static
                address fd00::7/64
                dns-nameserver fd00::1
            allow-hotplug eth1
            iface eth1 inet dhcp
                dns-nameservers 10.0.0.8
        ";
        let found = settings(&[("etc/network/interfaces", text)]).unwrap();
        assert_eq!(found.dhcp, Some(false));
        assert_eq!(found.dns, ips(&["10.0.0.1", "10.0.0.2", "fd00::1"]));
    }

    #[test]
    fn dhcp_is_that_of_ipv4_in_any_stanza() {
        for (text, expected) in [
            ("iface eth0 inet dhcp", Some(true)),
            ("iface eth0 inet dhcp\niface eth0 inet6 static", Some(true)),
            ("iface eth0 inet static\niface eth0 inet dhcp", Some(true)),
            ("iface eth0 inet6 dhcp", Some(false)),
            ("iface eth0 inet manual", Some(false)),
            ("iface eth0 inet", Some(false)),
            ("iface eth0", Some(false)),
            ("iface", None),
            ("iface eth00 inet dhcp", None),
        ] {
            let found = settings(&[("etc/network/interfaces", text)]);
            assert_eq!(found.and_then(|found| found.dhcp), expected, "{text:?}");
        }
        assert_eq!(settings(&[]), None);
    }

    #[test]
    fn sourced_files_are_read_in_their_place() {
        let main = |line| ("etc/network/interfaces", line);
        let cloud = (
            "etc/network/interfaces.d/50-cloud-init",
            "iface eth0 inet dhcp\n",
        );
        let backup = ("etc/network/interfaces.d/old.bak", "iface eth0 inet dhcp\n");
        for line in [
            "source /etc/network/interfaces.d/*",
            "source interfaces.d/*",
            "source interfaces.d/50-*",
            "source-directory /etc/network/interfaces.d",
            "source-directory interfaces.d",
        ] {
            assert!(settings(&[main(line), cloud]).is_some(), "{line}");
        }
        assert!(settings(&[main("source interfaces.d/*.cfg"), cloud]).is_none());
        assert!(settings(&[main("source interfaces.d/*"), backup]).is_some());
        assert!(settings(&[main("source-directory interfaces.d"), backup]).is_none());
    }

    #[test]
    fn a_mapping_selects_other_stanzas() {
        let interfaces = "iface eth0 inet dhcp\niface office inet static\n\
                          dns-nameservers 10.0.0.1\n";
        for (state, dhcp, dns) in [
            ("lo=lo\neth0=office\n", false, &["10.0.0.1"][..]),
            ("lo=lo\neth0=eth0\n", true, &[]),
            ("lo=lo\neth00=office\neth0=\n", true, &[]),
        ] {
            let found = settings(&[
                ("etc/network/interfaces", interfaces),
                ("run/network/ifstate", state),
            ])
            .unwrap();
            assert_eq!(found.dhcp, Some(dhcp), "{state:?}");
            assert_eq!(found.dns, ips(dns), "{state:?}");
        }
    }

    #[test]
    fn a_file_that_sources_itself_ends() {
        let text = "iface eth0 inet dhcp\nsource /etc/network/inter*\nsource /etc/network/*\n";
        let found = settings(&[("etc/network/interfaces", text)]).unwrap();
        assert_eq!(found.dhcp, Some(true));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn no_words_panic(words in prop::collection::vec(
            "iface|inet|inet6|dhcp|source|source-directory|dns-nameservers|eth0|\\\\|\n| |/|\\*", 0..30,
        )) {
            let _ = parse(&words.concat());
        }
    }
}
