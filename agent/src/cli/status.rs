//! `hyperv-agent status`: what the running agent does.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;

use super::args::ConfigFile;
use super::output::{EXIT_NOT_RUNNING, usage_error};
use crate::config;
use crate::control_socket;
use crate::status::client::{StatusError, fetch};
use crate::status::{self, text};

pub(super) fn show(json: bool, file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = match config::load(file.path.as_deref()) {
        Ok(config) => config,
        Err(error) => return Ok(usage_error(&error)),
    };
    let answer = match fetch(&config.runtime_directory.join(control_socket::NAME)) {
        Ok(answer) => answer,
        Err(error @ StatusError::NotRunning(_)) => {
            let _ = writeln!(io::stderr(), "hyperv-agent: {error}");
            return Ok(ExitCode::from(EXIT_NOT_RUNNING));
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout();
    if json {
        writeln!(out, "{answer}")?;
    } else {
        let document: status::Document = serde_json::from_str(&answer).context(
            "the running agent is of another version, whose status this one cannot read: restart \
             it, or use --json",
        )?;
        write!(out, "{}", text::render(&document, SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}
