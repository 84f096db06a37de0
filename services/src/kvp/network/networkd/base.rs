//! The `.network` file that is in force for an interface, with its drop-ins.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::directories::{drop_ins, is_network_file};
use super::matching;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::ini::{Document, Syntax};
use crate::kvp::network::target::Target;
use crate::kvp::{assignments, files};

/// What configures an interface.
#[derive(Debug)]
pub(super) struct Base {
    /// The file's name, without its directory.
    pub(super) name: String,
    /// The file and its drop-ins, in the order in which systemd-networkd reads them.
    pub(super) document: Document,
    /// The permission bits.
    pub(super) mode: u32,
    /// The group.
    pub(super) group: u32,
}

impl Base {
    /// Reads a file and its drop-ins. Those of the agent's own file stay in force beside it.
    fn read(root: &Path, path: &Path, own: &str) -> Option<Self> {
        let name = path.file_name()?;
        let mut document = Document::parse(&files::text(path)?, Syntax::Unit);
        if name != own {
            let texts = drop_ins(root, name);
            let texts = texts.iter().filter_map(|path| files::text(path));
            texts.for_each(|text| document.append(Document::parse(&text, Syntax::Unit)));
        }
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            name: name.to_string_lossy().into_owned(),
            document,
            mode: metadata.mode() & 0o7777,
            group: metadata.gid(),
        })
    }
}

/// Returns the name of the agent's file.
pub(super) fn file_name(target: &Target) -> String {
    format!("05-{}.network", target.stem())
}

/// What systemd-networkd publishes about an interface.
pub(super) struct LinkState(String);

impl LinkState {
    /// Reads the state; `None` if systemd-networkd has not published any.
    pub(super) fn read(root: &Path, interface: &Interface) -> Option<Self> {
        let path = root.join(format!("run/systemd/netif/links/{}", interface.index));
        files::text(&path).map(Self)
    }

    /// Returns the path of the file that configures the interface.
    pub(super) fn file(&self) -> Option<String> {
        assignments::last(&self.0, "NETWORK_FILE").filter(|file| !file.is_empty())
    }

    /// Returns whether systemd-networkd manages the interface.
    pub(super) fn is_managed(&self) -> bool {
        match self.admin_state().as_deref() {
            None | Some("unmanaged") => false,
            // It has not decided yet, or configures the interface anew.
            Some("pending" | "initialized") => self.file().is_some(),
            Some(_) => true,
        }
    }

    /// Returns whether the configuration failed.
    pub(super) fn failed(&self) -> bool {
        self.admin_state().is_some_and(|state| state == "failed")
    }

    fn admin_state(&self) -> Option<String> {
        assignments::last(&self.0, "ADMIN_STATE")
    }
}

/// Returns the file in force, or, where systemd-networkd has not published it, the one that will
/// be. Files whose names `passes_over` returns `true` for do not count. `own` is the name of the
/// agent's file.
pub(super) fn base(
    root: &Path,
    interface: &Interface,
    own: &str,
    passes_over: &dyn Fn(&str) -> bool,
) -> Option<Base> {
    let counts = |path: &Path| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| !passes_over(name))
    };
    let published = LinkState::read(root, interface).and_then(|state| {
        let file = files::under(root, &state.file()?);
        // Not any path: another user than root writes the state.
        (is_network_file(root, &file) && counts(&file)).then_some(file)
    });
    published
        .and_then(|file| Base::read(root, &file, own))
        .or_else(|| Base::read(root, &matching::file(root, interface, &counts)?, own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::*;

    const OWN: &str = "05-hyperv-agent-eth0.network";

    fn found(files: &[(&str, &str)]) -> Option<(String, String)> {
        let root = root(files);
        let base = base(root.path(), &eth0(&[]), OWN, &|name| {
            name.starts_with("06-")
        });
        base.map(|base| (base.name, base.document.render()))
    }

    fn name(files: &[(&str, &str)]) -> Option<String> {
        found(files).map(|(name, _)| name)
    }

    const MATCHING: &str = "[Match]\nName=eth0\n";

    #[test]
    fn the_state_names_the_file_in_force() {
        let state = |path: &str| format!("ADMIN_STATE=configured\nNETWORK_FILE={path}\n");
        let link = "run/systemd/netif/links/2";
        let other = ("etc/systemd/network/10-first.network", MATCHING);
        let named = |path: &str, files: &[(&str, &str)]| {
            name(&[&[(link, state(path).as_str()), other], files].concat())
        };
        let path = "run/systemd/network/20-x.network";
        let in_force = named(&format!("/{path}"), &[(path, "[Match]\nName=nothing\n")]);
        assert_eq!(in_force.as_deref(), Some("20-x.network"));
        // Not any file: another user than root writes the state.
        for path in [
            "etc/shadow.network",
            "etc/systemd/network/../a.network",
            "etc/systemd/network/a.netdev",
        ] {
            let in_force = named(&format!("/{path}"), &[(path, MATCHING)]);
            assert_eq!(in_force.as_deref(), Some("10-first.network"), "{path}");
        }
        let path = "etc/systemd/network/06-own.network";
        let passed_over = named(&format!("/{path}"), &[(path, MATCHING)]);
        assert_eq!(passed_over.as_deref(), Some("10-first.network"));
    }

    #[test]
    fn an_interface_is_managed_once_it_has_a_file() {
        let file = "NETWORK_FILE=/etc/systemd/network/1.network\n";
        for (state, file, expected) in [
            ("configured", file, true),
            ("failed", "", true),
            ("unmanaged", "", false),
            ("pending", "", false),
            ("initialized", "", false),
            ("initialized", file, true),
        ] {
            let state = LinkState(format!("ADMIN_STATE={state}\n{file}"));
            assert_eq!(state.is_managed(), expected, "{}", state.0);
        }
        assert!(!LinkState("OPER_STATE=routable\n".to_owned()).is_managed());
    }

    #[test]
    fn drop_ins_are_part_of_the_file() {
        let files = |name: &'static str| {
            let conf = format!("etc/systemd/network/{name}.d/a.conf");
            let path = format!("etc/systemd/network/{name}");
            found(&[(&path, MATCHING), (&conf, "[Link]\nMTUBytes=1400\n")])
        };
        let (_, text) = files("10-x.network").unwrap();
        assert_eq!(text, "[Match]\nName=eth0\n\n[Link]\nMTUBytes=1400\n");
        // They stay in force beside the agent's own file.
        let (_, text) = files(OWN).unwrap();
        assert_eq!(text, MATCHING);
    }
}
