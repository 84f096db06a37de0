//! `hyperv-sim soak`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hyperv_sim::soak::{self, Lap, Options};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The program and its arguments, quoted as for a shell; otherwise the
    /// hyperv-agent beside this program.
    #[arg(long, value_name = "COMMAND")]
    agent: Option<String>,
    /// Devices that go and come back.
    #[arg(long, value_name = "N", default_value_t = 300)]
    toggles: u64,
    /// Backups.
    #[arg(long, value_name = "N", default_value_t = 30)]
    freezes: u64,
    /// Requests for keys and values.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    requests: u64,
    /// Changes of the configuration, and steps of the wall clock.
    #[arg(long, value_name = "N", default_value_t = 30)]
    reloads: u64,
    /// Parts that all of it is done in, and measured after.
    #[arg(long, value_name = "N", default_value_t = 5)]
    laps: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(reason) = soak::unavailable() {
        println!("skipped: {reason}");
        return Ok(match std::env::var_os("CI") {
            Some(_) => ExitCode::FAILURE,
            None => ExitCode::SUCCESS,
        });
    }
    let command = match &arguments.agent {
        Some(command) => command.clone(),
        None => {
            let simulator = std::env::current_exe()?;
            let agent = simulator.with_file_name("hyperv-agent");
            let agent = agent.to_str().context("its path is not UTF-8")?;
            format!("{} run", shell_words::quote(agent))
        }
    };
    let options = Options {
        toggles: arguments.toggles,
        freezes: arguments.freezes,
        requests: arguments.requests,
        reloads: arguments.reloads,
        laps: arguments.laps,
    };
    println!("lap  seconds  descriptors  threads  processes  KiB in use  bytes of log");
    let not_reclaimed = soak::run(&command, options, &mut |lap: &Lap| {
        let totals = lap.totals;
        println!(
            "{:3}  {:7.1}  {:11}  {:7}  {:9}  {:10}  {:12}",
            lap.number,
            lap.seconds,
            totals.descriptors,
            totals.threads,
            totals.processes,
            totals.memory,
            totals.log
        );
    })?;
    if let Some(reason) = not_reclaimed {
        println!("no memory was reclaimed: {reason}");
    }
    println!(
        "{} toggles, {} freezes, {} requests, {} reloads: nothing grew",
        options.toggles, options.freezes, options.requests, options.reloads
    );
    Ok(ExitCode::SUCCESS)
}
