//! NetworkManager: the profile in force with the host's configuration in it. Its UUID stays where
//! that is possible: other profiles name it as their parent.

use std::path::{Path, PathBuf};

use super::key_file::KeyFile;
use super::profiles::{self, File, Profile};
use super::{keep, nmcli};
use crate::kvp::network::error::InjectError;
use crate::kvp::network::ifcfg::write as ifcfg;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan};
use crate::kvp::network::settings::Settings;
use crate::kvp::network::target::Target;

/// Where an administrator's key files are.
const DIRECTORY: &str = "etc/NetworkManager/system-connections";

/// Where an operating system's key files are: one of an administrator with the same UUID counts
/// before them.
const SYSTEM_DIRECTORY: &str = "usr/lib/NetworkManager/system-connections";

const MANAGER: &str = "NetworkManager";

/// Renders a profile of the agent's own.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings) -> String {
    let (file, _) = own(target, settings, KeyFile::parse(""));
    file.to_string()
}

/// Makes a profile of the agent's own from the one in force. Returns what cannot stay, too.
fn own(target: &Target, settings: &Settings, mut file: KeyFile) -> (KeyFile, Vec<String>) {
    let is_new = !file.has("connection");
    // NetworkManager's notes on a profile that it made.
    file.retain_sections(|name| !name.starts_with('.'));
    file.set("connection", "id", target.stem());
    file.set("connection", "uuid", target.uuid());
    file.set("connection", "type", "ethernet");
    file.set("connection", "interface-name", &target.name);
    if let Some(mac) = target.permanent_mac() {
        file.set(profiles::ethernet(&file), "mac-address", mac);
    }
    let lost = keep::replace(&mut file, settings);
    // Nothing was in force of a family that the host does not configure.
    for (section, method) in [("ipv4", "disabled"), ("ipv6", "auto")] {
        if is_new && !file.has(section) {
            file.add(section, "method", method);
        }
    }
    file.comment(HEADER.trim_end());
    (file, lost)
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let in_force = profiles::in_force(context.root, context.interface);
    let changed = match in_force {
        Some(Profile {
            file: File::Ifcfg(file),
            uuid,
        }) => return ifcfg::plan_red_hat(context, Some(file), Some(uuid)),
        Some(Profile {
            file: File::Key(path, file),
            uuid,
        }) => change(context, path, file, uuid)?,
        Some(Profile {
            file: File::None, ..
        })
        | None => copy(context, KeyFile::parse("")),
    };
    let Changed {
        path,
        file,
        uuid,
        lost,
    } = changed;
    let apply = nmcli::apply(context, &path, &uuid)?;
    let revert = nmcli::revert(context)?;
    let own = own_path(context);
    let mut files = Vec::new();
    // A profile of the agent's own from before would be of the same priority.
    if path != own && own.exists() {
        files.push(NewFile::removed(own));
    }
    files.push(NewFile::new(path, file.to_string(), 0o600));
    Ok(Plan {
        lost,
        ..Plan::new(MANAGER, files, apply, revert)
    })
}

/// A profile with the host's configuration in it.
struct Changed {
    path: PathBuf,
    file: KeyFile,
    uuid: String,
    lost: Vec<String>,
}

/// Changes the profile in force, or copies it where that is not possible.
fn change(
    context: &Context<'_>,
    path: PathBuf,
    mut file: KeyFile,
    uuid: String,
) -> Result<Changed, InjectError> {
    if file.to_string().contains(char::REPLACEMENT_CHARACTER) {
        return Err(InjectError::Unsupported {
            manager: MANAGER,
            why: format!("{} is not UTF-8", path.display()),
        });
    }
    let (root, interface) = (context.root, context.interface);
    let place = |directory| path.starts_with(root.join(directory));
    let is_bound = profiles::is_bound(&file, interface);
    let is_file = place(DIRECTORY) || place(SYSTEM_DIRECTORY);
    if uuid == context.target.uuid().to_string() {
        return Ok(copy(context, file));
    }
    if !is_file || !is_bound && has_other_adapters(context) {
        let mut copy = copy(context, file);
        let children = profiles::children(root, &uuid).into_iter();
        copy.lost
            .extend(children.map(|child| profiles::orphan(&child, &uuid)));
        return Ok(copy);
    }
    let is_unknown = uuid.is_empty();
    if !is_bound {
        file.set("connection", "interface-name", &context.target.name);
    }
    let lost = keep::replace(&mut file, context.settings);
    file.comment(HEADER.trim_end());
    let (path, is_moved) = match place(DIRECTORY) {
        true => (path, false),
        false => (own_path(context), true),
    };
    // NetworkManager makes a UUID from the path where the file has none.
    let uuid = match is_unknown {
        true => context.target.uuid().to_string(),
        false => uuid,
    };
    if is_moved || is_unknown {
        file.set("connection", "uuid", &uuid);
    }
    Ok(Changed {
        lost: named(&path, lost),
        path,
        file,
        uuid,
    })
}

/// Makes a profile of the agent's own from the one in force.
fn copy(context: &Context<'_>, file: KeyFile) -> Changed {
    let (file, lost) = own(context.target, context.settings, file);
    let path = own_path(context);
    Changed {
        lost: named(&path, lost),
        path,
        file,
        uuid: context.target.uuid().to_string(),
    }
}

fn own_path(context: &Context<'_>) -> PathBuf {
    let name = format!("{}.nmconnection", context.target.stem());
    context.path(DIRECTORY).join(name)
}

/// Puts the name of the file in front of what cannot stay.
fn named(path: &Path, lost: Vec<String>) -> Vec<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    lost.iter().map(|lost| format!("{name}: {lost}")).collect()
}

/// Returns whether the machine has another network adapter, for which a profile without a name
/// and an address is, too.
fn has_other_adapters(context: &Context<'_>) -> bool {
    let directory = context.path("sys/class/net");
    let names = crate::kvp::files::in_directory(&directory).into_iter();
    let mut others = names.filter(|path| !path.ends_with(&context.target.name));
    others.any(|path| path.join("device").exists())
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
