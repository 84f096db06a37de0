//! Which profile of NetworkManager configures an interface.

use std::path::{Path, PathBuf};

use super::key_file::KeyFile;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::ifcfg::read::{self as ifcfg, IfcfgFile};
use crate::kvp::network::{ini, mac};
use crate::kvp::{assignments, files};

/// Directories of the key files. Of several with the same UUID, the one in the first directory
/// counts.
pub(super) const DIRECTORIES: [&str; 3] = [
    "run/NetworkManager/system-connections",
    "etc/NetworkManager/system-connections",
    "usr/lib/NetworkManager/system-connections",
];

/// A profile that configures an interface.
pub(in crate::kvp::network) struct Profile {
    /// Its UUID; empty if the file has none and NetworkManager, which makes one from the path of
    /// the file, does not tell it.
    pub(in crate::kvp::network) uuid: String,
    pub(in crate::kvp::network) file: File,
}

/// The file of a profile.
pub(in crate::kvp::network) enum File {
    Key(PathBuf, KeyFile),
    Ifcfg(IfcfgFile),
    /// It cannot be found.
    None,
}

/// Returns the text of the state file of the interface.
pub(super) fn state(root: &Path, interface: &Interface) -> Option<String> {
    files::text(&root.join(format!("run/NetworkManager/devices/{}", interface.index)))
}

/// Returns the profile in force, or, where none is active (yet), the one that NetworkManager would
/// activate.
pub(in crate::kvp::network) fn in_force(root: &Path, interface: &Interface) -> Option<Profile> {
    let state = state(root, interface);
    // While NetworkManager waits for a lease, the state file has no UUID.
    let uuid = state
        .as_deref()
        .and_then(|state| ini::last(state, "device", "connection-uuid"));
    match uuid {
        Some(uuid) => Some(Profile {
            uuid: uuid.to_owned(),
            file: find(root, interface, uuid),
        }),
        None => next(root, interface),
    }
}

/// Returns the key files. Of several with the same UUID, only the one that counts.
fn key_files(root: &Path) -> Vec<(PathBuf, KeyFile)> {
    let mut found: Vec<(PathBuf, KeyFile)> = Vec::new();
    let paths = DIRECTORIES
        .iter()
        .flat_map(|directory| files::in_directory(&root.join(directory)));
    for path in paths.filter(|path| !is_ignored(path)) {
        let Some(text) = files::text(&path) else {
            continue;
        };
        let file = KeyFile::parse(&text);
        let uuid = file.last("connection", "uuid");
        let is_shadowed = |(_, other): &(_, KeyFile)| other.last("connection", "uuid") == uuid;
        if uuid.is_none() || !found.iter().any(is_shadowed) {
            found.push((path, file));
        }
    }
    found
}

/// Returns whether NetworkManager passes over a file of that name: a hidden one, such as one that
/// is being written, and the backup of an editor.
fn is_ignored(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~")
}

fn find(root: &Path, interface: &Interface, uuid: &str) -> File {
    let (named, unnamed): (Vec<_>, Vec<_>) = key_files(root)
        .into_iter()
        .partition(|(_, file)| file.last("connection", "uuid").is_some());
    let mut named = named.into_iter();
    let found = named.find(|(_, file)| file.last("connection", "uuid") == Some(uuid));
    if let Some((path, file)) = found {
        return File::Key(path, file);
    }
    let found = ifcfg::all(root)
        .find(|file| assignments::last(&file.text, "UUID").as_deref() == Some(uuid));
    if let Some(file) = found {
        return File::Ifcfg(file);
    }
    match best(root, interface, unnamed) {
        Some((path, file)) => File::Key(path, file),
        None => File::None,
    }
}

/// Returns the profile that NetworkManager would activate for the interface.
fn next(root: &Path, interface: &Interface) -> Option<Profile> {
    let Some((path, file)) = best(root, interface, key_files(root)) else {
        let file = ifcfg::in_force(root, interface)?;
        return Some(Profile {
            uuid: assignments::last(&file.text, "UUID").unwrap_or_default(),
            file: File::Ifcfg(file),
        });
    };
    Some(Profile {
        uuid: file
            .last("connection", "uuid")
            .unwrap_or_default()
            .to_owned(),
        file: File::Key(path, file),
    })
}

/// Returns the first that NetworkManager would activate for the interface: of those that fit, the
/// one of the highest priority, and of these, the one that was active last.
fn best(
    root: &Path,
    interface: &Interface,
    files: Vec<(PathBuf, KeyFile)>,
) -> Option<(PathBuf, KeyFile)> {
    let used = files::text(&root.join("var/lib/NetworkManager/timestamps")).unwrap_or_default();
    let rank = |file: &KeyFile| {
        let priority = file.last("connection", "autoconnect-priority");
        let priority: i32 = priority.and_then(|text| text.parse().ok()).unwrap_or(0);
        let uuid = file.last("connection", "uuid").unwrap_or_default();
        let used = ini::last(&used, "timestamps", uuid);
        let used: u64 = used.and_then(|text| text.parse().ok()).unwrap_or(0);
        (priority, used)
    };
    let fitting = files.into_iter().filter(|(_, file)| fits(file, interface));
    fitting.max_by_key(|(_, file)| rank(file))
}

/// Returns whether NetworkManager would activate the profile for the interface by itself.
fn fits(file: &KeyFile, interface: &Interface) -> bool {
    let connection = |key| file.last("connection", key);
    let ethernet = |key| of_ethernet(file, key);
    let is_ethernet = matches!(
        connection("type"),
        None | Some("ethernet" | "802-3-ethernet")
    );
    let is_port = connection("master").or(connection("controller")).is_some();
    is_ethernet
        && !is_port
        && connection("autoconnect") != Some("false")
        && connection("interface-name").is_none_or(|name| name == interface.name)
        && ethernet("mac-address").is_none_or(|text| is_mac(text, interface))
        && !file.has("match")
}

/// Returns whether the profile is for this interface only, by its name or its address.
pub(super) fn is_bound(file: &KeyFile, interface: &Interface) -> bool {
    let name = file.last("connection", "interface-name");
    let address = of_ethernet(file, "mac-address");
    name == Some(&interface.name) || address.is_some_and(|text| is_mac(text, interface))
}

fn is_mac(text: &str, interface: &Interface) -> bool {
    mac::parse(text).is_some_and(|mac| interface.mac == Some(mac))
}

/// Returns the last assignment to a key of the section for Ethernet.
fn of_ethernet<'a>(file: &'a KeyFile, key: &str) -> Option<&'a str> {
    file.last(ethernet(file), key)
}

/// Returns the name of the section for Ethernet, which has two.
pub(super) fn ethernet(file: &KeyFile) -> &'static str {
    match file.has("802-3-ethernet") {
        true => "802-3-ethernet",
        false => "ethernet",
    }
}

/// Returns the profiles whose parent is the profile with this UUID.
pub(in crate::kvp::network) fn children(root: &Path, uuid: &str) -> Vec<KeyFile> {
    let is_child = |file: &KeyFile| {
        let mut assignments = file.assignments();
        !uuid.is_empty() && assignments.any(|(_, key, value)| key == "parent" && value == uuid)
    };
    let files = key_files(root).into_iter().map(|(_, file)| file);
    files.filter(is_child).collect()
}

/// Returns what does not stay of a profile whose parent is replaced by one of another UUID.
pub(in crate::kvp::network) fn orphan(child: &KeyFile, uuid: &str) -> String {
    let name = child.last("connection", "interface-name");
    let name = name.or(child.last("connection", "id"));
    format!("{}: parent={uuid}", name.unwrap_or_default())
}
