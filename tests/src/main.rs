//! The command line of the simulated host.

mod command;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use hyperv_sim::inprocess;

/// A simulated Hyper-V host that drives guest agents through their devices.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  hyperv-sim copy README.md /tmp
  hyperv-sim run
  hyperv-sim run --agent 'target/release/hyperv-agent run --log stderr' device-gone
  hyperv-sim bench fcopy --peer '/usr/sbin/hv_fcopy_uio_daemon -n'
  hyperv-sim bench kvp --peer '/usr/sbin/hv_kvp_daemon -n'
  hyperv-sim bench vss --peer '/usr/sbin/hv_vss_daemon -n'";

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies a file through the agent, which runs in this process, and compares.
    Copy(command::copy::Arguments),
    /// Lists the scenarios.
    Scenarios,
    /// Plays scenarios with the agent in this process, or with any program.
    Run(command::run::Arguments),
    /// Does to the agent in this process what a host, a local user and an
    /// administrator can, at random, and looks whether all is well.
    Chaos(command::chaos::Arguments),
    /// Lets devices come and go, makes backups and asks for keys, again and again, and
    /// looks whether a program holds more than before.
    Soak(command::soak::Arguments),
    /// Freezes file systems of a guest while its processes are killed and stopped, its
    /// device goes and its disk hangs, as a seed has it.
    FreezeChaos(command::freeze_chaos::Arguments),
    /// Compares programs: time, system calls, signals, memory, wake-ups.
    #[command(subcommand)]
    Bench(command::bench::Bench),
    /// Writes to file systems in a guest that is measured.
    #[command(hide = true)]
    Applications(command::bench::vss::applications::Arguments),
}

fn main() -> ExitCode {
    if let Some(ended) = inprocess::guard() {
        return ended;
    }
    run().unwrap_or_else(|error| {
        eprintln!("hyperv-sim: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Copy(arguments) => command::copy::run(&arguments),
        Command::Scenarios => {
            command::run::list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(arguments) => command::run::run(&arguments),
        Command::Chaos(arguments) => command::chaos::run(&arguments),
        Command::Soak(arguments) => command::soak::run(&arguments),
        Command::FreezeChaos(arguments) => command::freeze_chaos::run(&arguments),
        Command::Bench(bench) => command::bench::run(&bench),
        Command::Applications(arguments) => {
            command::bench::vss::applications::run(&arguments)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
