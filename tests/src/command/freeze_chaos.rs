//! `hyperv-sim freeze-chaos`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
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
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = arguments
        .seed
        .map_or_else(|| variable("CHAOS_SEED"), |seed| Ok(Some(seed)))?;
    let seed = seed.unwrap_or(u64::from(clock.subsec_nanos()));
    let time = arguments
        .time
        .map_or_else(|| variable("SOAK_SECONDS"), |time| Ok(Some(time)))?;
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
        time: Duration::from_secs(time.unwrap_or(60)),
    };
    let played = play(machine, options, |round| {
        if arguments.verbose {
            println!("{round}");
        }
    })?;
    println!("{played} rounds; all was thawed after each");
    Ok(ExitCode::SUCCESS)
}

/// A number in the environment, if it is there.
fn variable(name: &str) -> Result<Option<u64>> {
    let Some(text) = std::env::var_os(name) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number
        .map(Some)
        .with_context(|| format!("{name} is no number: {text:?}"))
}
