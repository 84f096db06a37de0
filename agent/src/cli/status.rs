//! `hyperv-agent status`: the state of the running agent.

use std::time::SystemTime;

use anyhow::Context;

use super::args::ConfigFile;
use super::output::{self, Exit};
use crate::config;
use crate::control_socket;
use crate::status::client::fetch;
use crate::status::{self, text};

pub(super) fn show(json: bool, file: &ConfigFile) -> anyhow::Result<Exit> {
    let config = config::load(file.path.as_deref())?;
    let answer = fetch(&config.environment.runtime_dir.join(control_socket::NAME))?;
    if json {
        output::print_verbatim(&(answer + "\n"))?;
    } else {
        let document: status::Document = serde_json::from_str(&answer).context(
            "the running agent is of another version, whose status this one cannot read: restart \
             it, or use --json",
        )?;
        output::print(&text::render(&document, SystemTime::now()))?;
    }
    Ok(Exit::Success)
}
