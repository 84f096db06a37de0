//! `hyperv-sim chaos`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;
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

/// A number that the environment gives.
fn given(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text.parse()?)),
        Err(_) => Ok(None),
    }
}

/// The time makes a seed that is short enough to type.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_nanos()))
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let seconds = match arguments.seconds {
        Some(seconds) => seconds,
        None => given("SOAK_SECONDS")?.unwrap_or(SECONDS),
    };
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => given("CHAOS_SEED")?.unwrap_or_else(any_seed),
    };
    println!("chaos with seed {seed} for {seconds} s");
    let played = chaos::run(Options {
        seed,
        round: arguments.round,
        time: Duration::from_secs(seconds),
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
