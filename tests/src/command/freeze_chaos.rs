//! `hyperv-sim freeze-chaos`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Error, Result, bail};
use clap::Args;
use hyperv_needs::random;
use hyperv_sim::blackbox::{self, BlackBox};
use hyperv_sim::freeze_chaos::{Options, run as play};
use hyperv_sim::port::Machine;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The agent and its arguments, quoted as for a shell.
    #[arg(long, value_name = "COMMAND")]
    agent: String,
    /// What the actions are drawn from, instead of CHAOS_SEED; the same draws the same
    /// again.
    #[arg(long)]
    seed: Option<u64>,
    /// The first round to play.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    round: u64,
    /// How many rounds to play at most.
    #[arg(long, value_name = "NUMBER", default_value_t = u64::MAX)]
    rounds: u64,
    /// For how long rounds are begun, in seconds, instead of SOAK_SECONDS or 60.
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Say what is done in each round.
    #[arg(long)]
    verbose: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => random::seed().map_err(Error::msg)?,
    };
    let time = match arguments.time {
        Some(seconds) => Duration::from_secs(seconds),
        None => random::soak_time(60).map_err(Error::msg)?,
    };
    println!("seed {seed}; CHAOS_SEED={seed} plays the same again");
    if let Some(reason) = blackbox::root_unavailable() {
        if std::env::var_os("CI").is_some() {
            bail!("CI is set, and it cannot be played: {reason}");
        }
        println!("skipped: {reason}");
        return Ok(ExitCode::SUCCESS);
    }
    let machine =
        || -> Result<Box<dyn Machine>> { Ok(Box::new(BlackBox::with_root(&arguments.agent)?)) };
    let options = Options {
        seed,
        first: arguments.round,
        most: arguments.rounds,
        time,
    };
    let played = play(machine, options, |round| {
        if arguments.verbose {
            println!("{round}");
        }
    })?;
    println!("{played} rounds; all was thawed after each");
    Ok(ExitCode::SUCCESS)
}
