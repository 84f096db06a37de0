//! Chaos over the whole agent, in process: the host, a local user and whoever
//! starts, stops and configures it do what they like, and after each round all must
//! be as it should.
//!
//! A round is a list of actions (`action`), made from the seed and the round's number
//! alone by the `rng`; `messages` has the messages among them. `device` plays what
//! happens at one device, `guest` the rest, and `oracle` says what must be so.

mod action;
mod guest;
mod host_device;
mod messages;
mod oracle;
mod rng;

use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use crate::port::Machine as _;
use guest::Guest;
use oracle::ProcessResources;
use rng::Rng;

/// The number of rounds after which the machine is made again.
const ROUNDS: u64 = 64;

/// The number of actions that a failure prints, up to the one that failed.
const LAST_ACTIONS: usize = 25;

/// The number of lines of the agent's log that a failure prints.
const LOG_LINES: usize = 25;

/// What is played.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Determines the actions.
    pub seed: u64,
    /// The first round, to come back to one that failed.
    pub round: u64,
    /// How long to play; the last round is completed.
    pub time: Duration,
}

/// What was played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Played {
    /// Rounds.
    pub rounds: u64,
    /// Actions in them.
    pub actions: u64,
    /// Replies that were checked.
    pub replies: u64,
}

/// Where something was not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("in round {round}, {place}: {error:#}")]
pub struct Failure {
    /// The round.
    pub round: u64,
    /// The action's number, or what came after all of them.
    pub place: String,
    /// What was wrong.
    pub error: Error,
    /// The last actions.
    pub actions: Vec<String>,
    /// What the agent logged last.
    pub log: Vec<String>,
}

/// Plays rounds until the time is over.
///
/// # Errors
///
/// A [`Failure`], or that a machine cannot be made.
pub fn run(options: Options) -> Result<Played> {
    oracle::note_panics();
    let begun = Instant::now();
    let mut played = Played::default();
    let mut held = None;
    while begun.elapsed() < options.time || played.rounds == 0 {
        let mut guest = Guest::new()?;
        for _ in 0..ROUNDS {
            let round = options.round + played.rounds;
            held = play(&mut guest, options.seed, round, played.rounds, held)?;
            played.rounds += 1;
            played.actions += action::ACTIONS as u64;
            if begun.elapsed() >= options.time {
                break;
            }
        }
        played.replies += guest
            .devices
            .iter()
            .map(host_device::HostDevice::replies)
            .sum::<u64>();
        guest.stop()?;
    }
    Ok(played)
}

fn play(
    guest: &mut Guest,
    seed: u64,
    round: u64,
    done: u64,
    held: Option<ProcessResources>,
) -> Result<Option<ProcessResources>> {
    let actions = action::round(&mut Rng::new(seed, round), &guest.places());
    let fail = |guest: &Guest, place: String, upto: usize, error: Error| {
        let from = upto.saturating_sub(LAST_ACTIONS);
        let numbered = actions.iter().enumerate().take(upto).skip(from);
        let log = guest.machine.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        Failure {
            round,
            place,
            error,
            actions: numbered.map(|it| format!("{} {:?}", it.0, it.1)).collect(),
            log: lines.iter().skip(from).map(|it| (*it).to_owned()).collect(),
        }
    };
    if let Err(error) = guest.settle() {
        return Err(fail(guest, "before it".to_owned(), 0, error).into());
    }
    for (number, action) in actions.iter().enumerate() {
        let played = guest
            .play(action)
            .and_then(|()| oracle::expect_running(guest));
        if let Err(error) = played {
            return Err(fail(guest, format!("action {number}"), number + 1, error).into());
        }
    }
    oracle::expect_order(guest, done, held)
        .map_err(|error| fail(guest, "after all actions".to_owned(), actions.len(), error).into())
}
