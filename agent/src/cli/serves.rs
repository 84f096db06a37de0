//! `hyperv-agent serves`: whether a service is the agent's, or a stock daemon's.

use clap::Args;
use hyperv_services::registry::by_name;

use super::args::{ConfigFile, service_names};
use super::output::Exit;
use super::run::switched_on;
use crate::control_socket;
use crate::status::Document;
use crate::status::client::fetch;

pub(super) const HELP: &str = "\
For service managers, which start a stock daemon only for a service that is switched off.
The running agent says so; where none runs, the configuration does.

Exit status: 0 the service is the agent's, 1 it is switched off.";

#[derive(Debug, Args)]
pub(super) struct Serves {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = service_names())]
    service: String,

    #[command(flatten)]
    config: ConfigFile,
}

impl Serves {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let keys = ["runtime-directory", "services"];
        let config = self.config.load_with_defaults(&keys)?;
        let socket = config.environment.runtime_dir.join(control_socket::NAME);
        let name = &self.service;
        let serves = match fetch(&socket) {
            // One of another version may have another document. It is asked in vain then, and
            // the service counts as served.
            Ok(answer) => serde_json::from_str(&answer).map_or(true, |document: Document| {
                let mut services = document.services.iter();
                services.any(|service| service.name == *name && service.on)
            }),
            Err(_) => by_name(name).is_none_or(|entry| switched_on(entry, &config, &[], &[])),
        };
        Ok(Exit::of(serves))
    }
}
