//! The command line: parses it and runs the command.

mod args;
mod capture;
mod check_config;
mod devices;
mod doctor;
mod generalize;
mod kvp;
mod output;
mod reload;
mod run;
mod serves;
mod status;
mod stock_daemon;
mod thaw;
mod vss;

use std::env;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use hyperv_services::sys;
use hyperv_services::vss::{guard, write_out};

use crate::stock_daemons;
use args::{ConfigFile, services_help};
use capture::Capture;
use doctor::Doctor;
use generalize::Generalize;
use kvp::Kvp;
use output::Exit;
use run::Run;
use serves::Serves;
use status::Status;
use stock_daemon::StockDaemon;
use thaw::Thaw;
use vss::Vss;

const EXAMPLES: &str = "\
Examples:
  hyperv-agent run                     serve in the foreground, log to the terminal
  hyperv-agent run --disable fcopy     serve, but accept no files from the host
  hyperv-agent status                  show the state of the running agent
  hyperv-agent devices                 show what the host offers, and which service
                                       serves it
  hyperv-agent capture FILE            record what host and guest send
  hyperv-agent doctor                  find what is wrong with this machine
  hyperv-agent kvp list                show the keys and values of host and guest
  hyperv-agent kvp ip                  show the network as the host reads and sets it
  hyperv-agent vss plan                show what a backup would freeze
  hyperv-agent vss rehearse            run the hooks, freeze and thaw, as a backup does
  hyperv-agent check-config            check the configuration file

See hyperv-agent(8) and hyperv-agent.toml(5).";

/// Hyper-V guest agent: file copy, key-value pairs and backups in one process.
#[derive(Debug, Parser)]
#[command(name = "hyperv-agent", version = env!("HYPERV_AGENT_VERSION"), after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the host's requests
    #[command(after_help = services_help())]
    Run(Run),
    /// Check the configuration file
    CheckConfig(ConfigFile),
    /// Make the running agent reload its configuration
    #[command(after_help = reload::HELP)]
    Reload(ConfigFile),
    /// List the VMBus devices that the host offers
    Devices {
        /// Show the VMBus id, the class, the path in sysfs, the NUMA node and the channels with
        /// their processors
        #[arg(short, long)]
        verbose: bool,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the state of the running agent
    Status(Status),
    /// Record what host and guest send, or show a recording
    Capture(Capture),
    /// Find what is wrong with this machine, and say what helps
    Doctor(Doctor),
    /// Read and write the key-value pools shared with the host
    Kvp(Kvp),
    /// Show what a backup would freeze, or rehearse it
    Vss(Vss),
    /// Thaw file systems that are still frozen after a backup
    Thaw(Thaw),
    /// Tell whether the agent serves a service, by the exit status
    #[command(after_help = serves::HELP)]
    Serves(Serves),
    /// Remove what a template of this machine must not have
    Generalize(Generalize),
}

/// Returns the commands and options of the program, for completions and for tests of the
/// documents.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    sys::prepare_process();
    // These are not subcommands: only the agent starts them, and they must stay small.
    let outcome = match env::args_os().nth(1) {
        Some(argument) if argument == guard::ARGUMENT => Some(guard::process::main()),
        Some(argument) if argument == write_out::ARGUMENT => Some(write_out::main()),
        _ => None,
    };
    let exit = match outcome {
        Some(outcome) => Exit::of(outcome.is_ok()),
        None => command_line().unwrap_or_else(|error| output::failed(&error)),
    };
    exit.into()
}

fn command_line() -> anyhow::Result<Exit> {
    let program = env::args_os().next().unwrap_or_default();
    let parsed = match stock_daemons::service(&program) {
        Some(service) => {
            sys::aside(StockDaemon::try_parse).map(|daemon| Command::Run(daemon.into_run(service)))
        }
        None => sys::aside(Cli::try_parse).map(|cli| cli.command),
    };
    let command = match parsed {
        Ok(command) => command,
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return Ok(Exit::Usage);
        }
        // Help, or the version.
        Err(error) => return output::written(error.print()).map(|()| Exit::Success),
    };
    match command {
        Command::Run(run) => run.run(),
        Command::CheckConfig(file) => check_config::check(&file),
        Command::Reload(file) => reload::reload(&file),
        Command::Devices { json, verbose } => devices::list(json, verbose),
        Command::Status(status) => status.run(),
        Command::Capture(capture) => capture.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Kvp(kvp) => kvp.run(),
        Command::Vss(vss) => vss.run(),
        Command::Thaw(thaw) => thaw.run(),
        Command::Serves(serves) => serves.run(),
        Command::Generalize(generalize) => generalize.run(),
    }
}
