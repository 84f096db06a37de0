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
  hyperv-sim replay tests/captures/*.pcapng
  hyperv-sim bench fcopy --peer '/usr/sbin/hv_fcopy_uio_daemon -n'
  hyperv-sim bench kvp --peer '/usr/sbin/hv_kvp_daemon -n'
  hyperv-sim bench vss --peer '/usr/sbin/hv_vss_daemon -n'
  hyperv-sim bench start --kvp '/usr/sbin/hv_kvp_daemon -n'";

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies a file through the agent in this process, and compares the copy.
    Copy(command::copy::Arguments),
    /// Lists the scenarios.
    Scenarios,
    /// Runs scenarios against the agent in this process, or against any program.
    Run(command::run::Arguments),
    /// Plays the host's side of captures, and compares the replies with those of the
    /// captures.
    Replay(command::replay::Arguments),
    /// Runs random actions of a host, a local user and an administrator against the agent
    /// in this process, and checks invariants.
    Chaos(command::chaos::Arguments),
    /// Removes and offers devices, makes backups and reads keys repeatedly, and checks that
    /// a program does not leak.
    Soak(command::soak::Arguments),
    /// Freezes file systems of a guest under random faults: killed processes, removed
    /// devices, hanging disks.
    FreezeChaos(command::freeze_chaos::Arguments),
    /// Compares programs: time, system calls, signals, memory, wake-ups.
    #[command(subcommand)]
    Bench(command::bench::Bench),
    /// Makes the tables and pictures of the README from the results in `docs/figures`.
    Figures(command::figures::Arguments),
    /// Copies messages and writes their data, for `bench fcopy`.
    #[command(hide = true)]
    CopyAndPwrite(command::bench::fcopy::least::Arguments),
    /// Writes to file systems in a guest, for `bench vss`.
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
        Command::Replay(arguments) => command::replay::run(&arguments),
        Command::Chaos(arguments) => command::chaos::run(&arguments),
        Command::Soak(arguments) => command::soak::run(&arguments),
        Command::FreezeChaos(arguments) => command::freeze_chaos::run(&arguments),
        Command::Bench(bench) => command::bench::run(&bench),
        Command::Figures(arguments) => {
            command::figures::run(&arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::CopyAndPwrite(arguments) => {
            command::bench::fcopy::least::run(&arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Applications(arguments) => {
            command::bench::vss::applications::run(&arguments)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
