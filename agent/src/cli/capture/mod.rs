//! `hyperv-agent capture`: records what host and guest say to each other, and shows it.

mod file;
mod progress;
mod record;
mod show;
mod source;

use clap::{Args, Subcommand};

use self::record::Record;
use self::show::Show;
use super::output::Exit;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = record::HELP
)]
pub(crate) struct Capture {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    record: Record,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a capture as text, one line a message
    Show(Show),
}

impl Capture {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Some(Command::Show(show)) => show.run(),
            None => self.record.run(),
        }
    }
}
