//! `hyperv-agent check-config`: whether the configuration is valid.

use std::path::Path;

use hyperv_services::registry::SERVICES;

use super::args::ConfigFile;
use super::output::{self, Exit};
use super::run::switched_on;
use crate::config;

pub(super) fn check(file: &ConfigFile) -> anyhow::Result<Exit> {
    let config = config::load(file.path.as_deref())?;
    let path = file.path.as_deref();
    let path = path.unwrap_or(Path::new(config::DEFAULT_PATH));
    let mut text = if path.exists() {
        format!("{} is valid\n", path.display())
    } else {
        format!("{} does not exist: the defaults apply\n", path.display())
    };
    for entry in SERVICES {
        let on = switched_on(entry, &config, &[], &[]);
        let state = if on { "on" } else { "off" };
        text += &format!("  {:8} {state}\n", entry.name);
    }
    output::print(&text)?;
    Ok(Exit::Success)
}
