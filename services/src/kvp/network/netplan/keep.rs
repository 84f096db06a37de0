//! What the agent's definition keeps of the profile that NetworkManager has in force.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::kvp::files;
use crate::kvp::network::networkmanager::keep;
use crate::kvp::network::networkmanager::key_file::KeyFile;
use crate::kvp::network::networkmanager::profiles::{self, File, Profile};
use crate::kvp::network::plan::Context;

/// Where netplan has its files. Of all of them, the last by name counts.
const DIRECTORIES: [&str; 3] = ["etc/netplan", "run/netplan", "usr/lib/netplan"];

/// What is kept.
#[derive(Default)]
pub(in crate::kvp::network) struct Kept {
    /// Lines for `passthrough:`, which override what netplan generates.
    pub(super) passthrough: Vec<String>,
    /// Definitions of the devices on top of the interface, with a new `link:`, by their kind.
    pub(super) children: BTreeMap<&'static str, String>,
    pub(super) lost: Vec<String>,
}

/// Returns what to keep of the profile in force. The new definition is the one of this name, in
/// the file `path`.
pub(super) fn kept(context: &Context<'_>, definition: &str, path: &Path) -> Kept {
    let Some(Profile {
        uuid,
        file: File::Key(base, mut file),
    }) = profiles::in_force(context.root, context.interface)
    else {
        return Kept::default();
    };
    let base = base.file_name().unwrap_or_default().to_string_lossy();
    let lost = keep::replace(&mut file, context.settings).into_iter();
    let mut kept = Kept {
        lost: lost.map(|lost| format!("{base}: {lost}")).collect(),
        ..Kept::default()
    };
    for (section, key, value) in file.assignments() {
        let is_own =
            section == "connection" && matches!(key, "id" | "uuid" | "type" | "interface-name");
        if section.is_empty() || section.starts_with('.') || is_own {
            continue;
        }
        match quoted(&format!("{section}.{key}")).zip(quoted(value)) {
            Some((key, value)) => kept.passthrough.push(format!("{key}: {value}")),
            None => kept.lost.push(format!("{base}: {section}.{key}")),
        }
    }
    for child in profiles::children(context.root, &uuid) {
        let linked = linked(&child, definition);
        match linked.filter(|linked| !is_later(context, linked.name, path)) {
            Some(linked) => *kept.children.entry(linked.kind).or_default() += &linked.text,
            None => kept.lost.push(profiles::orphan(&child, &uuid)),
        }
    }
    kept
}

/// A definition of netplan that links a device to another definition.
struct Linked<'a> {
    kind: &'static str,
    name: &'a str,
    text: String,
}

/// Links the definition that a profile was generated from to another: netplan merges what several
/// files say. It needs the mode and the number of a tunnel again.
fn linked<'a>(child: &'a KeyFile, definition: &str) -> Option<Linked<'a>> {
    let name = child.last("connection", "id")?.strip_prefix("netplan-")?;
    let mut text = format!("    {}:\n", quoted(name)?);
    let kind = match child.last("connection", "type")? {
        "vlan" => "vlans",
        "vxlan" => {
            let id: u32 = child.last("vxlan", "id")?.parse().ok()?;
            let _ = writeln!(text, "      mode: vxlan\n      id: {id}");
            "tunnels"
        }
        _ => return None,
    };
    let _ = writeln!(text, "      link: {}", quoted(definition)?);
    Some(Linked { kind, name, text })
}

/// Returns whether a file that counts after the agent's seems to define the device.
fn is_later(context: &Context<'_>, name: &str, path: &Path) -> bool {
    let paths = DIRECTORIES
        .iter()
        .flat_map(|directory| files::in_directory(&context.path(directory)));
    let mut later = paths.filter(|other| other.file_name() > path.file_name());
    later.any(|other| files::text(&other).is_some_and(|text| text.contains(name)))
}

/// Returns a text in double quotes; `None` if it has a character that YAML does not take.
fn quoted(text: &str) -> Option<String> {
    let is_plain = |letter: char| {
        // The byte order mark, line ends and characters that are none.
        let others = ['\u{feff}', '\u{2028}', '\u{2029}', '\u{fffe}', '\u{ffff}'];
        let is_other = letter == char::REPLACEMENT_CHARACTER || others.contains(&letter);
        !letter.is_control() && !is_other
    };
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.chars().all(is_plain).then(|| format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted() {
        for (text, expected) in [
            ("plain", Some(r#""plain""#)),
            (r#"a "b" \c # d: e"#, Some(r#""a \"b\" \\c # d: e""#)),
            ("a\tb", None),
            ("a\u{fffd}", None),
            ("a\u{2028}b", None),
        ] {
            assert_eq!(quoted(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn devices_of_netplan_are_linked_to_another_definition() {
        let linked = |text: &str| {
            let child = KeyFile::parse(text);
            linked(&child, "0-x").map(|linked| (linked.kind, linked.text))
        };
        let child = |kind: &str| format!("[connection]\nid=netplan-a b\ntype={kind}\n");
        assert_eq!(
            linked(&child("vlan")),
            Some(("vlans", "    \"a b\":\n      link: \"0-x\"\n".to_owned()))
        );
        let vxlan = "    \"a b\":\n      mode: vxlan\n      id: 20\n      link: \"0-x\"\n";
        assert_eq!(
            linked(&(child("vxlan") + "[vxlan]\nid=20\n")),
            Some(("tunnels", vxlan.to_owned()))
        );
        // Not netplan's, and of a kind that netplan does not have.
        assert_eq!(linked("[connection]\nid=vlan5\ntype=vlan\n"), None);
        assert_eq!(linked(&child("macvlan")), None);
        assert_eq!(linked(&child("vxlan")), None);
    }
}
