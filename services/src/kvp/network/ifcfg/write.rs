//! `ifcfg` files: `/etc/sysconfig/network-scripts` of Red Hat, for NetworkManager where it runs or
//! else the network scripts, and `/etc/sysconfig/network` of SUSE, for wicked.
//!
//! The file in force is written again with the host's configuration in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::read::{self, IfcfgFile, is_suse};
use super::variables::Variables;
use super::{red_hat, red_hat_routes, suse};
use crate::kvp::network::error::InjectError;
use crate::kvp::network::networkmanager::nmcli;
use crate::kvp::network::plan::{Context, NewFile, Plan};
use crate::kvp::network::settings::Settings;

const MANAGER: &str = "ifcfg";

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    let in_force = read::in_force(context.root, context.interface);
    match is_suse(context.root) {
        true => plan_suse(context),
        false => plan_red_hat(context, in_force, None),
    }
}

/// Plans how to change the file in force. Where the file has no UUID, NetworkManager may have made
/// one.
pub(in crate::kvp::network) fn plan_red_hat(
    context: &Context<'_>,
    in_force: Option<IfcfgFile>,
    uuid: Option<String>,
) -> Result<Plan, InjectError> {
    let (target, settings) = (context.target, context.settings);
    if settings.gateways4.len() > 1 || settings.gateways6.len() > 1 {
        return Err(InjectError::Unsupported {
            manager: MANAGER,
            why: "its files hold one gateway of each family".to_owned(),
        });
    }
    let own_uuid = target.uuid().to_string();
    let mut files = Vec::new();
    let (file, uuid, lost) = match in_force {
        Some(IfcfgFile { path, name, text }) => {
            check(&path, &text)?;
            let mut file = Variables::parse(&text);
            let bound = ["DEVICE", "HWADDR"];
            if bound.iter().all(|key| file.last(key).is_none()) {
                file.set("DEVICE", &target.name);
            }
            let uuid = file.last("UUID").or(uuid).unwrap_or_else(|| {
                file.set("UUID", &own_uuid);
                own_uuid.clone()
            });
            if let Some(mac) = target.permanent_mac().filter(|_| uuid == own_uuid) {
                file.set("HWADDR", mac.to_ascii_uppercase());
            }
            let lost = red_hat::replace(&mut file, settings).into_iter();
            let mut lost: Vec<String> = lost.map(|lost| format!("ifcfg-{name}: {lost}")).collect();
            for kind in ["route", "route6"] {
                let path = path.with_file_name(format!("{kind}-{name}"));
                files.extend(routes(path, settings, &mut lost)?);
            }
            (NewFile::changed(path, file.to_string()), uuid, lost)
        }
        None => {
            let name = format!("ifcfg-{}", target.name);
            let path = context.path("etc/sysconfig/network-scripts").join(name);
            let text = red_hat::render(target, settings);
            (NewFile::new(path, text, 0o644), own_uuid, Vec::new())
        }
    };
    let (stop, apply, revert) = if context.path("run/NetworkManager").exists() {
        (
            Vec::new(),
            nmcli::apply(context, &file.path, &uuid)?,
            nmcli::revert(context)?,
        )
    } else {
        let ifup = vec![context.step("ifup", &[&target.name])?];
        let ifdown = context.step("ifdown", &[&target.name])?.may_fail();
        (vec![ifdown], ifup.clone(), ifup)
    };
    files.push(file);
    Ok(Plan {
        stop,
        lost,
        ..Plan::new(MANAGER, files, apply, revert)
    })
}

/// Returns a file of routes, if it has to change.
fn routes(
    path: PathBuf,
    settings: &Settings,
    lost: &mut Vec<String>,
) -> Result<Option<NewFile>, InjectError> {
    let before = previous(&path)?;
    let mut of_routes = Vec::new();
    let text = red_hat_routes::replace(&before, settings, &mut of_routes);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    lost.extend(of_routes.iter().map(|lost| format!("{name}: {lost}")));
    Ok((text.trim_end() != before.trim_end()).then(|| NewFile::changed(path, text)))
}

fn check(path: &Path, text: &str) -> Result<(), InjectError> {
    match text.contains(char::REPLACEMENT_CHARACTER) {
        true => Err(InjectError::Unsupported {
            manager: MANAGER,
            why: format!("{} is not UTF-8", path.display()),
        }),
        false => Ok(()),
    }
}

fn plan_suse(context: &Context<'_>) -> Result<Plan, InjectError> {
    let (target, settings) = (context.target, context.settings);
    let directory = context.path("etc/sysconfig/network");
    let path = directory.join(format!("ifcfg-{}", target.name));
    let routes_path = directory.join(format!("ifroute-{}", target.name));
    let (ifcfg, routes) = (previous(&path)?, previous(&routes_path)?);
    let (text, lost) = suse::render(&ifcfg, settings);
    let lost = lost.into_iter();
    let lost = lost.map(|lost| format!("ifcfg-{}: {lost}", target.name));
    let mut files = vec![
        NewFile::changed(path, text),
        NewFile::changed(routes_path, suse::render_routes(target, settings, &routes)),
    ];
    let mut steps = Vec::new();
    // DNS servers belong to the machine, not to an interface.
    if !settings.dns.is_empty() {
        let path = directory.join("config");
        let config = fs::read_to_string(&path).map_err(InjectError::file("read", &path))?;
        let has_others =
            read::all(context.root).any(|file| file.name != "lo" && file.name != target.name);
        let text = suse::render_dns(settings, &config, &ifcfg, has_others);
        files.push(NewFile::changed(path, text));
        steps.push(context.step("netconfig", &["update", "-f"])?);
    }
    steps.push(context.step("wicked", &["ifreload", &target.name])?);
    Ok(Plan {
        lost: lost.collect(),
        ..Plan::new(MANAGER, files, steps.clone(), steps)
    })
}

/// Returns the text of a file; none if it does not exist.
fn previous(path: &Path) -> Result<String, InjectError> {
    match fs::read_to_string(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result.map_err(InjectError::file("read", path)),
    }
}
