//! A seeded random number generator with independent streams.

use std::time::Duration;

use tinkers_core::{Jitter, SplitMix};

/// A seeded random number generator.
#[derive(Debug)]
pub struct Rng {
    numbers: SplitMix,
    seed: u64,
}

impl Rng {
    /// Creates a generator from a seed.
    pub const fn new(seed: u64) -> Self {
        Self {
            numbers: SplitMix::new(seed),
            seed,
        }
    }

    /// Returns a generator with an independent stream of random numbers. The stream depends only on
    /// the seed and on `label`, and not on the numbers that were drawn before.
    pub fn fork(&self, label: u64) -> Self {
        let mixed = SplitMix::new(self.seed ^ label.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self::new(mixed.bits())
    }

    /// Draws 64 random bits.
    pub fn bits(&self) -> u64 {
        self.numbers.bits()
    }

    /// Draws a number in `0.0..1.0`.
    pub fn unit(&self) -> f64 {
        self.numbers.unit()
    }

    /// Draws a number below `n`. Returns 0 if `n` is zero.
    pub fn below(&self, n: u64) -> u64 {
        self.bits() % n.max(1)
    }

    /// Draws a number from `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Draws `true` with the given probability.
    pub fn gen_bool(&self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Draws an element of a slice, which must not be empty.
    pub fn choose<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// Draws a duration between `shortest` and `longest`. Short durations are more likely.
    pub fn duration(&self, shortest: Duration, longest: Duration) -> Duration {
        let unit = self.unit();
        shortest + longest.saturating_sub(shortest).mul_f64(unit * unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forked_generator_depends_only_on_seed_and_label() {
        let rng = Rng::new(7);
        let before = rng.fork(3).bits();
        rng.bits();
        assert_eq!(rng.fork(3).bits(), before);
        assert_ne!(rng.fork(4).bits(), before);
        assert_ne!(Rng::new(8).fork(3).bits(), before);
    }
}
