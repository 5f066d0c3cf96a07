//! Chance from a seed, in streams that do not disturb each other.

use std::time::Duration;

use tinkers_core::{Jitter, SplitMix};

/// A stream of random choices.
#[derive(Debug)]
pub struct Chance {
    numbers: SplitMix,
    seed: u64,
}

impl Chance {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self {
            numbers: SplitMix::new(seed),
            seed,
        }
    }

    /// Another stream, which depends on the seed and on `label` alone, and not on what was drawn so far.
    pub fn stream(&self, label: u64) -> Self {
        let mixed = SplitMix::new(self.seed ^ label.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self::new(mixed.bits())
    }

    /// 64 bits.
    pub fn bits(&self) -> u64 {
        self.numbers.bits()
    }

    /// A number below `n`, which is not zero.
    pub fn below(&self, n: u64) -> u64 {
        self.bits() % n.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Whether something of this probability happens.
    pub fn happens(&self, probability: f64) -> bool {
        self.numbers.unit() < probability
    }

    /// One of several.
    pub fn pick<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// A time between two, most often nearer to the shorter one.
    pub fn time(&self, shortest: Duration, longest: Duration) -> Duration {
        let unit = self.numbers.unit();
        shortest + longest.saturating_sub(shortest).mul_f64(unit * unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_label_alone() {
        let one = Chance::new(7);
        let before = one.stream(3).bits();
        one.bits();
        assert_eq!(one.stream(3).bits(), before);
        assert_ne!(one.stream(4).bits(), before);
        assert_ne!(Chance::new(8).stream(3).bits(), before);
    }
}
