//! Random choices of a round of chaos, determined by a seed.

use hyperv_needs::random::Random;

/// Draws what is random.
#[derive(Debug, Clone)]
pub(super) struct Rng(Random);

impl Rng {
    /// What is drawn in a round, which depends on no round before it.
    pub(super) fn new(seed: u64, round: u64) -> Self {
        Self(Random::of_round(seed, round))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.number()
    }

    /// A number of 32 bits.
    pub(super) fn word(&mut self) -> u32 {
        let [low, high] = [self.byte(), self.byte()].map(u32::from);
        let [third, fourth] = [self.byte(), self.byte()].map(u32::from);
        low | high << 8 | third << 16 | fourth << 24
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.index(end)
    }

    /// Whether the one of so many came.
    pub(super) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    /// One of these, which are not none.
    pub(super) fn pick<T: Copy>(&mut self, first: T, others: &[T]) -> T {
        match self.below(others.len() + 1) {
            0 => first,
            place => others.get(place - 1).copied().unwrap_or(first),
        }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}
