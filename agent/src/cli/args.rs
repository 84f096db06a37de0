//! Arguments that several commands take.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use hyperv_services::registry::SERVICES;

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]
    #[arg(long = "config", value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
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
