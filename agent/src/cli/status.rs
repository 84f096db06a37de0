//! `hyperv-agent status`: the state of the running agent.

use std::time::SystemTime;

use anyhow::Context;
use hyperv_services::kvp::network::record;
use serde_json::{Map, Value};

use super::args::ConfigFile;
use super::output::{self, Exit};
use crate::control_socket;
use crate::status::client::fetch;
use crate::status::ip_configuration::IpConfiguration;
use crate::status::{self, text};

pub(super) fn show(json: bool, file: &ConfigFile) -> anyhow::Result<Exit> {
    let config = file.load_with_defaults(&["runtime-directory"])?;
    let directory = &config.environment.runtime_dir;
    let answer = fetch(&directory.join(control_socket::NAME))?;
    // The agent's loop reads no files, and these outlive the agent.
    let configured = record::records(directory);
    let configured: Vec<_> = configured.iter().map(IpConfiguration::from).collect();
    if json {
        let mut document: Map<String, Value> = serde_json::from_str(&answer)?;
        document.insert(
            "ip_configurations".to_owned(),
            serde_json::to_value(configured)?,
        );
        output::print_json(&document)?;
    } else {
        let document: status::Document = serde_json::from_str(&answer).context(
            "the running agent is of another version, whose status this one cannot read: restart \
             it, or use --json",
        )?;
        output::print(&text::render(&document, &configured, SystemTime::now()))?;
    }
    Ok(Exit::Success)
}
