//! `hyperv-sim chaos`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Error, Result};
use clap::Args;
use hyperv_needs::random;
use hyperv_sim::chaos::{self, Failure, Options};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// For how long; otherwise the environment's SOAK_SECONDS, or a minute.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Play what was played with this seed; otherwise with the environment's
    /// CHAOS_SEED, or any.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Begin with this round.
    #[arg(long, value_name = "N", default_value_t = 0)]
    round: u64,
}

/// Seconds, where nobody says for how long.
const SECONDS: u64 = 60;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let time = match arguments.seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => random::soak_time(SECONDS).map_err(Error::msg)?,
    };
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => random::seed().map_err(Error::msg)?,
    };
    println!("chaos with seed {seed} for {} s", time.as_secs());
    let played = chaos::run(Options {
        seed,
        round: arguments.round,
        time,
    });
    match played {
        Ok(played) => {
            println!(
                "{} rounds, {} actions, {} replies checked: all is well",
                played.rounds, played.actions, played.replies
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let Some(failure) = error.downcast_ref::<Failure>() else {
                return Err(error);
            };
            println!("FAILED {failure}");
            for action in &failure.actions {
                println!("    action {action}");
            }
            for line in &failure.log {
                println!("    | {line}");
            }
            println!(
                "again: hyperv-sim chaos --seed {seed} --round {}",
                failure.round
            );
            Ok(ExitCode::FAILURE)
        }
    }
}
