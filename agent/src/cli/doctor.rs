//! `hyperv-agent doctor`: what is wrong with this machine, and what helps.

use std::path::Path;

use clap::Args;
use hyperv_services::registry::SERVICES;

use super::args::ConfigFile;
use super::output::{self, Exit};
use super::run::switched_on;
use crate::config;
use crate::doctor;
use crate::doctor::machine::Machine;
use crate::salvage::{self, Salvaged};

const HELP: &str = "\
Nothing is changed, and no agent has to run. As another user than root, it checks what
that user can see, and says what it could not check. CHECKS in hyperv-agent(8)
describes the checks.

Exit status: 0 nothing is wrong (there may be notes), 1 there are errors or warnings,
2 invalid usage, 77 this machine is not a Hyper-V guest.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Doctor {
    /// Print a line for each check, too
    #[arg(short, long)]
    verbose: bool,

    /// Print JSON
    #[arg(long, conflicts_with = "verbose")]
    json: bool,

    #[command(flatten)]
    config: ConfigFile,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let path = self.config.path.as_deref();
        let (config, error) = match salvage::load(path) {
            Ok(Salvaged { config, problem }) => (config, problem.map(|it| it.error)),
            Err(error) => (config::defaults()?, Some(error)),
        };
        let path = path.unwrap_or(Path::new(config::DEFAULT_PATH));
        let mut services = SERVICES.to_vec();
        services.retain(|entry| switched_on(entry, &config, &[], &[]));
        let machine = Machine::this(path.to_owned(), config, error, services);
        let is_guest = machine.is_hyperv_guest();
        let report = doctor::examine(machine);
        if self.json {
            output::print_json(&report)?;
        } else {
            output::print(&report.text(self.verbose))?;
        }
        Ok(if is_guest {
            Exit::of(!report.is_bad())
        } else {
            Exit::NotHyperv
        })
    }
}
