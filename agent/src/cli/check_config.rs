//! `hyperv-agent check-config`: what is wrong with the configuration.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use hyperv_services::registry::SERVICES;

use super::args::ConfigFile;
use super::output::usage_error;
use super::run::switched_on;
use crate::config;

pub(super) fn check(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    match config::load(file.path.as_deref()) {
        Ok(config) => {
            let path = file.path.as_deref();
            let path = path.unwrap_or(Path::new(config::DEFAULT_PATH));
            if path.exists() {
                writeln!(io::stdout(), "{} is valid", path.display())?;
            } else {
                writeln!(
                    io::stdout(),
                    "{} does not exist: the defaults apply",
                    path.display()
                )?;
            }
            for entry in SERVICES {
                let state = if switched_on(entry, &config, &[], &[]) {
                    "on"
                } else {
                    "off"
                };
                writeln!(io::stdout(), "  {:8} {state}", entry.name)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(usage_error(&error)),
    }
}
