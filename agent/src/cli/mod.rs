//! The command line.

mod args;
mod check_config;
mod devices;
mod kvp;
mod layers;
mod output;
mod rehearse;
mod run;
mod status;
mod thaw;
mod vss;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hyperv_services::sys;
use hyperv_services::vss::{guard, write_out};

use args::{ConfigFile, services_help};
use kvp::Kvp;
use run::Run;
use thaw::Thaw;
use vss::Vss;

const EXAMPLES: &str = "\
Examples:
  hyperv-agent run                     serve in the foreground, log to the terminal
  hyperv-agent run --disable fcopy     take no files from the host
  hyperv-agent status                  what the running agent does
  hyperv-agent devices                 what the host offers, and who serves it
  hyperv-agent kvp list                what host and guest tell each other
  hyperv-agent vss plan                what a backup would freeze, and what not
  hyperv-agent vss rehearse            freeze and thaw as for a backup, now
  hyperv-agent check-config            read the configuration, say what is wrong";

/// Hyper-V guest agent: file copy from the host, key-value pairs and backups,
/// in one process.
#[derive(Debug, Parser)]
#[command(name = "hyperv-agent", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the host's requests
    #[command(after_help = services_help())]
    Run(Run),
    /// Read the configuration, and say what is wrong with it
    CheckConfig(ConfigFile),
    /// Read and write the key-value pools that are shared with the host
    Kvp(Kvp),
    /// List the VMBus devices that the host offers
    Devices {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a backup would do to the file systems, or try it
    Vss(Vss),
    /// Thaw file systems that are still frozen for a backup
    Thaw(Thaw),
    /// Show what the running agent does
    Status {
        /// Print the status as JSON
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        config: ConfigFile,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    sys::prepare_process();
    // No subcommands: nobody but the agent starts these, and they are to stay small.
    let outcome = match env::args_os().nth(1) {
        Some(argument) if argument == guard::ARGUMENT => Some(guard::process::main()),
        Some(argument) if argument == write_out::ARGUMENT => Some(write_out::main()),
        _ => None,
    };
    if let Some(outcome) = outcome {
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let outcome = match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::CheckConfig(file) => check_config::check(&file),
        Command::Kvp(kvp) => Ok(kvp.run()),
        Command::Vss(vss) => vss.run(),
        Command::Thaw(thaw) => thaw.run(),
        Command::Devices { json } => devices::list(json),
        Command::Status { json, config } => status::show(json, &config),
    };
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "hyperv-agent: {error:#}");
        ExitCode::FAILURE
    })
}
