//! `hyperv-agent vss`: what a backup would do to the file systems.

mod document;
mod hooks;
mod layers;
mod plan;
mod rehearse;

use clap::{Args, Subcommand};

use self::plan::ShowPlan;
use self::rehearse::Rehearse;
use super::output::Exit;

#[derive(Debug, Args)]
pub(crate) struct Vss {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the hooks that a backup would run, and the file systems that it would freeze
    Plan(ShowPlan),
    /// Run the hooks, freeze and thaw as for a backup
    Rehearse(Rehearse),
}

impl Vss {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Plan(plan) => plan.run(),
            Command::Rehearse(rehearse) => rehearse.run(),
        }
    }
}
