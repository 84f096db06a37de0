//! What is done at random in tests: from a seed, so that it can be done again.

use std::env;
use std::time::{Duration, SystemTime};

/// What the state grows by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Numbers that depend on a seed alone (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of a round, which depend on no round before it.
    #[must_use]
    pub fn of_round(seed: u64, round: u64) -> Self {
        Self(Self(seed).number() ^ round.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// One below `end`; 0 where that is 0.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or_default()
    }

    /// Whether the one of so many came.
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// Where there are none.
    #[expect(clippy::indexing_slicing)]
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}

/// The seed that the environment's `CHAOS_SEED` gives, or any: the time makes one that
/// is short enough to type. Whoever uses it prints it.
///
/// # Errors
///
/// In words, where what the environment has is no number.
pub fn seed() -> Result<u64, String> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let any = since.map_or(0, |since| u64::from(since.subsec_nanos()));
    Ok(variable("CHAOS_SEED")?.unwrap_or(any))
}

/// How long something is done at random: as long as the environment's `SOAK_SECONDS`
/// says, or for so many seconds.
///
/// # Errors
///
/// In words, where what the environment has is no number.
pub fn soak_time(seconds: u64) -> Result<Duration, String> {
    let seconds = variable("SOAK_SECONDS")?.unwrap_or(seconds);
    Ok(Duration::from_secs(seconds))
}

fn variable(name: &str) -> Result<Option<u64>, String> {
    let Some(text) = env::var_os(name) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| format!("{name} is no number: {text:?}"))
}
