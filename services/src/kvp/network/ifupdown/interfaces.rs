//! `/etc/network/interfaces` and the files that it sources, in the syntax of ifupdown,
//! ifupdown-ng, ifupdown2 and BusyBox.

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use crate::kvp::files;

/// Most sourced files and patterns that are read: a file can source itself.
const MAX_SOURCED: usize = 200;

/// Most stanzas that one inherits from, directly or not: it can inherit from itself.
const MAX_INHERITED: usize = 32;

/// An entry of an `interfaces` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The start of a stanza.
    Stanza {
        /// The interface or the template.
        name: String,
        /// The family, which ifupdown-ng and ifupdown2 do not need.
        family: Option<Family>,
        /// The method, such as `dhcp`.
        method: String,
        /// The stanzas to inherit from.
        inherits: Vec<String>,
    },
    /// An option of the current stanza.
    Option {
        /// The keyword.
        key: String,
        /// The rest of the line.
        value: String,
    },
    /// Interfaces to bring up at boot. It ends the current stanza.
    Auto(Vec<String>),
    /// Interfaces to bring up otherwise, such as when they appear. It ends the current stanza.
    Allow(Vec<String>),
    /// Another line that ends the current stanza.
    End,
    /// A file or pattern to read.
    Source(String),
    /// A directory to read the files of.
    SourceDirectory(String),
}

/// The address family of a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `inet`.
    V4,
    /// `inet6`.
    V6,
}

/// An entry, and the lines of the file that it is on.
pub(super) struct Located {
    pub(super) lines: Range<usize>,
    pub(super) entry: Entry,
}

/// A file that is read.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// Returns whether the text is the file's: a file that is not UTF-8, or too long to be read,
    /// must not be rewritten.
    pub(super) fn is_whole(&self) -> bool {
        let len = fs::metadata(&self.path).map(|metadata| metadata.len());
        let read = files::bytes(&self.path);
        read.is_some_and(|read| {
            read == self.text.as_bytes() && len.ok() == u64::try_from(read.len()).ok()
        })
    }
}

/// A stanza with all that it inherits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stanza {
    pub(super) family: Option<Family>,
    pub(super) method: String,
    /// Keywords and values; those that are inherited come first.
    pub(super) options: Vec<(String, String)>,
}

/// All that is read, in order.
#[derive(Default)]
pub(super) struct Interfaces {
    pub(super) sources: Vec<Source>,
    pub(super) entries: Vec<Entry>,
}

impl Interfaces {
    pub(super) fn read(root: &Path) -> Self {
        let mut interfaces = Self::default();
        let mut budget = MAX_SOURCED;
        let start = files::under(root, "/etc/network/interfaces");
        interfaces.read_file(root, start, &mut budget);
        interfaces
    }

    /// Reads a file and, as far as the budget goes, the files that it sources.
    fn read_file(&mut self, root: &Path, path: PathBuf, budget: &mut usize) {
        if self.sources.iter().any(|source| source.path == path) {
            return;
        }
        let text = files::text(&path).unwrap_or_default();
        let entries = parse(&text);
        self.sources.push(Source { path, text });
        for entry in entries {
            let sourced = match entry {
                Entry::Source(_) | Entry::SourceDirectory(_) if !take_one(budget) => return,
                Entry::Source(pattern) => matching(root, &pattern),
                Entry::SourceDirectory(directory) => {
                    let mut paths = files::in_directory(&resolve(root, &directory));
                    paths.retain(|path| path.file_name().is_some_and(is_plain));
                    paths
                }
                other => {
                    self.entries.push(other);
                    continue;
                }
            };
            for path in sourced {
                if !take_one(budget) {
                    return;
                }
                self.read_file(root, path, budget);
            }
            self.entries.push(Entry::End);
        }
    }

    /// Returns the permission bits of a file that may have what any of the files has: there can be
    /// secrets in them, such as `wpa-psk`.
    pub(super) fn mode(&self) -> u32 {
        let modes = self.sources.iter().filter_map(|source| {
            let metadata = fs::metadata(&source.path).ok()?;
            Some(metadata.mode())
        });
        modes.fold(0o644, |all, mode| all & mode) | 0o600
    }

    /// Returns the stanzas of an interface, with what they inherit.
    pub(super) fn stanzas(&self, name: &str) -> Vec<Stanza> {
        let mut budget = MAX_INHERITED;
        self.expanded(name, &mut budget)
    }

    fn expanded(&self, wanted: &str, budget: &mut usize) -> Vec<Stanza> {
        let mut stanzas: Vec<Stanza> = Vec::new();
        let mut inside = false;
        for entry in &self.entries {
            match entry {
                Entry::Stanza {
                    name,
                    family,
                    method,
                    inherits,
                } => {
                    inside = name == wanted;
                    if inside {
                        let mut stanza = Stanza {
                            family: *family,
                            method: method.clone(),
                            options: Vec::new(),
                        };
                        for from in inherits {
                            self.inherit(&mut stanza, from, budget);
                        }
                        stanzas.push(stanza);
                    }
                }
                Entry::Option { key, value } if inside => {
                    let Some(stanza) = stanzas.last_mut() else {
                        continue;
                    };
                    match &**key {
                        "inherit" | "inherits" => self.inherit(stanza, value, budget),
                        _ => stanza.options.push((key.clone(), value.clone())),
                    }
                }
                Entry::Option { .. } => {}
                _ => inside = false,
            }
        }
        stanzas
    }

    fn inherit(&self, stanza: &mut Stanza, from: &str, budget: &mut usize) {
        if !take_one(budget) {
            return;
        }
        for base in self.expanded(from, budget) {
            let same_family = match (stanza.family, base.family) {
                (Some(one), Some(other)) => one == other,
                _ => true,
            };
            if same_family {
                stanza.family = stanza.family.or(base.family);
                if stanza.method.is_empty() {
                    stanza.method = base.method;
                }
                stanza.options.extend(base.options);
            }
        }
    }

    /// Returns the name of the stanzas that an interface is brought up with, but for mappings.
    pub(super) fn name_at_boot(&self, interface: &str) -> String {
        let mut words = self.entries.iter().flat_map(|entry| match entry {
            Entry::Auto(words) | Entry::Allow(words) => words.as_slice(),
            _ => &[],
        });
        let logical = words.find_map(|word| {
            let (pattern, logical) = word.split_once('=').filter(|(_, name)| !name.is_empty())?;
            let matches = match pattern.strip_prefix('/') {
                // There may be options behind another slash.
                Some(rest) => {
                    let pattern = rest.split('/').next().unwrap_or_default();
                    WildMatch::new(pattern).matches(interface)
                }
                None => pattern == interface,
            };
            matches.then(|| logical.to_owned())
        });
        logical.unwrap_or_else(|| interface.to_owned())
    }

    /// Returns the names of all stanzas.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Stanza { name, .. } => Some(&**name),
            _ => None,
        })
    }
}

/// Returns the interfaces that are up and the names of their stanzas.
pub(super) fn brought_up(root: &Path) -> Vec<(String, String)> {
    // The second one is that of ifupdown-ng and BusyBox.
    let states = ["/run/network/ifstate", "/run/ifstate"];
    let texts = states.map(|path| files::text(&files::under(root, path)).unwrap_or_default());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once('=')?;
            let logical = rest.split_whitespace().next()?;
            Some((name.to_owned(), logical.to_owned()))
        })
        .collect()
}

/// Returns the name of the stanzas that an interface is up with, if it is up: its own, unless a
/// mapping chose another.
pub(super) fn logical(root: &Path, interface: &str) -> Option<String> {
    let mut all = brought_up(root).into_iter();
    all.find_map(|(name, logical)| (name == interface).then_some(logical))
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

/// Parses an `interfaces` file into its entries, in order.
pub fn parse(text: &str) -> Vec<Entry> {
    let located = parse_located(text).into_iter();
    located.map(|located| located.entry).collect()
}

/// Parses an `interfaces` file into its entries, with the lines that they are on.
pub(super) fn parse_located(text: &str) -> Vec<Located> {
    let mut entries = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((first, line)) = lines.next() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let (mut joined, mut end) = (line.to_owned(), first + 1);
        while joined.ends_with('\\') {
            joined.pop();
            joined.push(' ');
            let Some((at, line)) = lines.next() else {
                break;
            };
            joined.push_str(line);
            end = at + 1;
        }
        entries.extend(parse_line(&joined).into_iter().map(|entry| Located {
            lines: first..end,
            entry,
        }));
    }
    entries
}

fn parse_line(line: &str) -> Vec<Entry> {
    let mut words = line.split_whitespace();
    let Some(keyword) = words.next() else {
        return Vec::new();
    };
    let owned = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect();
    match keyword {
        "iface" | "template" => {
            let rest: Vec<_> = words.collect();
            // What is inherited may come first.
            let family = rest
                .iter()
                .position(|word| matches!(*word, "inet" | "inet6"));
            let method = family.and_then(|at| rest.get(at + 1));
            let mut inherits = Vec::new();
            for (word, next) in rest.iter().zip(rest.iter().skip(1)) {
                if matches!(*word, "inherit" | "inherits") {
                    inherits.push((*next).to_owned());
                }
            }
            vec![Entry::Stanza {
                name: rest.first().copied().unwrap_or_default().to_owned(),
                family: match family.and_then(|at| rest.get(at)) {
                    Some(&"inet6") => Some(Family::V6),
                    Some(_) => Some(Family::V4),
                    None => None,
                },
                method: method.copied().unwrap_or_default().to_owned(),
                inherits,
            }]
        }
        "source" => words.map(|word| Entry::Source(word.to_owned())).collect(),
        "source-directory" | "source-dir" => words
            .map(|word| Entry::SourceDirectory(word.to_owned()))
            .collect(),
        "auto" => vec![Entry::Auto(owned(words))],
        "mapping" | "no-auto-down" | "no-scripts" | "rename" => vec![Entry::End],
        _ if keyword.starts_with("allow-") => vec![Entry::Allow(owned(words))],
        key => vec![Entry::Option {
            key: key.to_owned(),
            value: line
                .trim()
                .strip_prefix(key)
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::root;

    fn options(stanza: &Stanza) -> Vec<String> {
        let lines = stanza.options.iter();
        lines.map(|(key, value)| format!("{key} {value}")).collect()
    }

    #[test]
    fn stanzas_have_what_they_inherit() {
        let text = "
            iface base inet static
                mtu 1400
                up echo a  'b c'
            auto eth0
                mtu 1
            iface eth0 inet static inherits base
                # address 10.0.0.9/24
                address 10.0.0.7/24
                dns-nameservers 10.0.0.1 \\
                                10.0.0.2
            mapping eth1
                script x
            iface eth0 inet6 auto
            template far
                inherit eth2
                mtu 9000
            iface eth2
                inherit far
                address fd00::1/64
        ";
        let root = root(&[("etc/network/interfaces", text)]);
        let interfaces = Interfaces::read(root.path());
        let stanzas = interfaces.stanzas("eth0");
        assert_eq!(stanzas.len(), 2);
        assert_eq!(
            options(&stanzas[0]),
            [
                "mtu 1400",
                "up echo a  'b c'",
                "address 10.0.0.7/24",
                "dns-nameservers 10.0.0.1                                  10.0.0.2"
            ]
        );
        assert_eq!(stanzas[1].family, Some(Family::V6));
        assert_eq!(
            (&*stanzas[1].method, options(&stanzas[1]).len()),
            ("auto", 0)
        );
        // Those inherit from each other.
        let circle = interfaces.stanzas("eth2");
        assert_eq!(options(&circle[0]).last().unwrap(), "address fd00::1/64");
        assert!(interfaces.stanzas("eth1").is_empty());
    }

    #[test]
    fn what_is_up_is_known_of_each_program() {
        for (path, state, expected) in [
            ("run/network/ifstate", "lo=lo\neth0=lan\n", Some("lan")),
            ("run/ifstate", "lo=lo 1\neth0=eth0 2\n", Some("eth0")),
            ("run/ifstate", "eth00=eth00\neth0=\n", None),
        ] {
            let root = root(&[(path, state)]);
            assert_eq!(logical(root.path(), "eth0").as_deref(), expected, "{state}");
        }
    }

    #[test]
    fn entries_know_their_lines() {
        let located = parse_located("auto a\n\n# b\niface a inet \\\n  dhcp\n mtu 1");
        let lines: Vec<_> = located.iter().map(|one| one.lines.clone()).collect();
        assert_eq!(lines, [0..1, 3..5, 5..6]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn no_words_panic(words in prop::collection::vec(
            "iface|inet|inet6|dhcp|inherits|source|source-directory|dns-nameservers|eth0|\\\\|\n| |/|\\*", 0..30,
        )) {
            let _ = parse(&words.concat());
        }
    }
}
