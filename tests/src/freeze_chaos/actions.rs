//! What is done in a round, drawn from a seed.

use std::fmt;
use std::time::Duration;

use hyperv_needs::random::Random;

use crate::vss::Operation;

/// One of these, each as often as its number says.
fn weighted<T: Copy>(random: &mut Random, all: &[(u64, T)]) -> Option<T> {
    let mut left = random.below(all.iter().map(|(weight, _)| weight).sum());
    all.iter().find_map(|(weight, one)| {
        let found = left < *weight;
        left = left.saturating_sub(*weight);
        found.then_some(*one)
    })
}

/// A process of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Agent,
    Guard,
    /// A hook that was started with `freeze`.
    Hook,
    WriteOut,
    /// Whoever thaws or rehearses by hand.
    Client,
}

/// One thing that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The host asks.
    Ask(Operation),
    /// The host looks for replies for as long.
    Look(Duration),
    Signal(Who, &'static str),
    /// The agent is killed, and its end waited for.
    Kill,
    /// So is the agent, after its guard, without having seen that.
    KillBoth,
    /// The agent is ended in an orderly way, and that waited for.
    Stop,
    Start,
    Rescind,
    Offer,
    /// What carries another file system stands still, as a disk that hangs.
    Hang,
    /// The file system below continues.
    GoOn,
    ThawByHand,
    ThawAllByHand,
    Rehearse,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(who, signal) => write!(f, "SIG{signal} to the {who:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// An action, and how long after the one before it.
pub(super) type Step = (Duration, Action);

/// How long after another action one may come, in microseconds: what is interesting
/// is over soon.
const PAUSES: [(u64, u64); 4] = [(3, 1), (3, 20_000), (3, 200_000), (1, 1_500_000)];

/// What is done in a round.
pub(super) fn draw(random: &mut Random) -> Vec<Step> {
    let actions = [
        (20, Action::Ask(Operation::Freeze)),
        (12, Action::Ask(Operation::Thaw)),
        (3, Action::Ask(Operation::HotBackup)),
        (12, Action::Look(Duration::from_millis(200))),
        (12, Action::Look(Duration::from_secs(2))),
        (5, Action::Kill),
        (5, Action::KillBoth),
        (3, Action::Stop),
        (20, Action::Start),
        (4, Action::Rescind),
        (12, Action::Offer),
        (5, Action::Hang),
        (5, Action::GoOn),
        (4, Action::ThawByHand),
        (2, Action::ThawAllByHand),
        (4, Action::Rehearse),
        (30, Action::Signal(Who::Guard, "")),
    ];
    let count = 4 + random.below(12);
    let drawn = (0..count).map(|_| {
        let pause = weighted(random, &PAUSES).map_or(0, |most| random.below(most));
        let action = weighted(random, &actions).unwrap_or(Action::Start);
        let action = match action {
            Action::Signal(..) => signal(random),
            other => other,
        };
        (Duration::from_micros(pause), action)
    });
    // Without a FREEZE little can happen.
    let first = (Duration::ZERO, Action::Ask(Operation::Freeze));
    [first].into_iter().chain(drawn).collect()
}

fn signal(random: &mut Random) -> Action {
    let who = weighted(
        random,
        &[
            (2, Who::Agent),
            (4, Who::Guard),
            (3, Who::Hook),
            (2, Who::WriteOut),
            (1, Who::Client),
        ],
    );
    let signals = [(4, "KILL"), (3, "STOP"), (3, "CONT"), (1, "TERM")];
    let signal = weighted(random, &signals);
    Action::Signal(who.unwrap_or(Who::Guard), signal.unwrap_or("KILL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_actions_each_time_and_another_gives_others() {
        let of = |seed, round| draw(&mut Random::of_round(seed, round));
        assert_eq!(of(7, 3), of(7, 3));
        assert_ne!(of(7, 3), of(7, 4));
        assert_ne!(of(7, 3), of(8, 3));
    }

    #[test]
    fn every_kind_of_action_is_drawn() {
        let mut all = std::collections::HashSet::new();
        for round in 0..200 {
            let drawn = draw(&mut Random::of_round(1, round));
            assert!((5..=16).contains(&drawn.len()));
            all.extend(drawn.iter().map(|(_, action)| action.to_string()));
        }
        // The 16 above, and four signals to each of five.
        assert_eq!(all.len(), 16 + 20, "{all:?}");
    }
}
