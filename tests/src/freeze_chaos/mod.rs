//! Freezes under random faults: processes that are killed and stopped, a device that
//! goes, what carries a file system and stands still, thaws by hand, new requests at
//! any moment. After each round of them all is to be thawed, and nothing left.
//!
//! What is done comes from a seed; when exactly it hits whom does not.

mod actions;
mod guest;
mod rounds;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyperv_needs::random::Random;

use self::actions::draw;
use self::guest::Guest;
use self::rounds::Rounds;
use crate::port::Machine;
use crate::scenario::{Transport, VssStage};

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// From what the actions are drawn.
    pub seed: u64,
    /// The first round.
    pub first: u64,
    /// How many rounds at most.
    pub most: u64,
    /// For how long rounds are begun.
    pub time: Duration,
}

/// How many rounds of one machine are played over one transport.
const AT_ONCE: u64 = 20;

/// Plays rounds, and returns how many there were.
///
/// # Errors
///
/// If something is not as it is to be: with the round, what was done in it, and
/// the end of the program's log.
pub fn run(
    mut machine: impl FnMut() -> Result<Box<dyn Machine>>,
    options: Options,
    mut tell: impl FnMut(&str),
) -> Result<u64> {
    let began = Instant::now();
    let mut played = 0;
    while played < options.most && began.elapsed() < options.time {
        let transport = match (options.first + played) / AT_ONCE % 2 {
            0 => Transport::Uio(68 << 10),
            _ => Transport::HvUtil,
        };
        let mut machine = machine()?;
        let (mut number, directory) = (0, machine.directory().to_owned());
        let mut stage = VssStage::new(machine.as_mut(), transport, directory, &mut number);
        let guest = Guest::new(&mut stage)?;
        let mut rounds = Rounds::new(&mut stage, &guest);
        let ended = (|| {
            rounds.settle().context("at the beginning")?;
            loop {
                let round = options.first + played;
                let steps = draw(&mut Random::of_round(options.seed, round));
                let outcome = rounds.play(&steps);
                let done = rounds.done();
                outcome.with_context(|| {
                    let seed = options.seed;
                    format!("round {round} of seed {seed}, over {transport}: {done}")
                })?;
                tell(&format!("round {round} over {transport}: {done}"));
                played += 1;
                let is_over = played >= options.most || began.elapsed() >= options.time;
                if is_over || round % AT_ONCE == AT_ONCE - 1 {
                    return anyhow::Ok(());
                }
            }
        })();
        let ended = ended.and_then(|()| {
            stage.stop()?;
            stage.rescind()
        });
        if let Err(error) = ended {
            let log = stage.machine().log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines.len().saturating_sub(40);
            let last = lines.get(last..).unwrap_or_default().join("\n");
            bail!("{error:#}\nThe program's log ends so:\n{last}");
        }
    }
    Ok(played)
}
