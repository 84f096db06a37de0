//! `hyperv-agent thaw`: the way out by hand.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use hyperv_services::vss::{marker, recover};

use crate::cli::{ConfigFile, usage_error};
use crate::config;

const HELP: &str = "\
Thaws what the agent has noted as frozen, whether it still runs or not. There is
seldom a need: the agent thaws when it ends, by itself after its time limit, and
what a killed agent has left behind when it is started again. A backup that is
under way becomes inconsistent, and the host is told so.

Exit status: 0 nothing is frozen any more, 1 something could not be thawed, 2 wrong
usage.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Thaw {
    /// Thaw every file system, whoever has frozen it
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    config: ConfigFile,
}

impl Thaw {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = match config::load(self.config.path.as_deref()) {
            Ok(config) => config.service.vss,
            Err(error) => return Ok(usage_error(&error)),
        };
        let mut out = io::stdout();
        let tried = if self.all {
            recover::thaw_all(&config)?
        } else {
            let directory = &config.runtime_directory;
            let note = marker::read(directory).with_context(|| {
                format!("cannot read in {} what is frozen", directory.display())
            })?;
            let frozen = note.unwrap_or_default().frozen;
            if frozen.is_empty() {
                writeln!(
                    out,
                    "the agent has nothing frozen (--all thaws what others have frozen)"
                )?;
            }
            recover::thaw_noted(&config, &frozen)?
        };
        let mut status = ExitCode::SUCCESS;
        for tried in tried {
            let path = tried.mount_point.display();
            match tried.outcome {
                Ok(true) => writeln!(out, "{path}: thawed")?,
                Ok(false) => writeln!(out, "{path}: was not frozen")?,
                Err(error) => {
                    writeln!(io::stderr(), "hyperv-agent: cannot thaw {path}: {error}")?;
                    status = ExitCode::FAILURE;
                }
            }
        }
        Ok(status)
    }
}
