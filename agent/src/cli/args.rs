//! Arguments that several commands take.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap::builder::PossibleValuesParser;
use hyperv_services::registry::SERVICES;

use super::output::complain;
use crate::config::Config;
use crate::salvage;

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]
    #[arg(long = "config", value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
}

impl ConfigFile {
    /// Loads the configuration for a command that also works while a part of it is wrong:
    /// warns, and uses the defaults for these keys if they cannot be read.
    pub(super) fn load_with_defaults(&self, keys: &[&str]) -> anyhow::Result<Config> {
        let salvaged = salvage::load(self.path.as_deref())?;
        if let Some(problem) = &salvaged.problem {
            let unknown = keys.iter().filter(|key| !problem.knows(key));
            let unknown: Vec<_> = unknown.copied().collect();
            let used = match unknown[..] {
                [] => "the command continues with the valid part of it".to_owned(),
                _ => format!(
                    "the command continues with the default of {}",
                    unknown.join(" and ")
                ),
            };
            complain(&format!("{}\n{used}", problem.error.to_string().trim_end()));
        }
        Ok(salvaged.config)
    }

    /// Loads the configuration for a command that would do harm with wrong values of these
    /// keys. Errors in others are a warning.
    pub(super) fn load_with(&self, keys: &[&str]) -> anyhow::Result<Config> {
        let salvaged = salvage::load(self.path.as_deref())?;
        let Some(problem) = salvaged.problem else {
            return Ok(salvaged.config);
        };
        if let Some(key) = keys.iter().find(|key| !problem.knows(key)) {
            return Err(problem.error).with_context(|| {
                format!("{key} cannot be read, and its default may be wrong: correct the file")
            });
        }
        let error = problem.error.to_string();
        let error = error.trim_end();
        complain(&format!(
            "{error}\nthe command continues with the valid part of it"
        ));
        Ok(salvaged.config)
    }
}

pub(super) fn service_names() -> PossibleValuesParser {
    PossibleValuesParser::new(SERVICES.iter().map(|entry| entry.name))
}

pub(super) fn services_help() -> String {
    let mut help = "Services:\n".to_owned();
    for entry in SERVICES {
        let state = if entry.default { "on" } else { "off" };
        help += &format!("  {:8} {} [default: {state}]\n", entry.name, entry.summary);
    }
    help + "\nSIGHUP reloads the configuration and looks for devices; SIGTERM ends the agent."
}
