//! Randomness as a parameter: a seeded generator, and fixed values for tests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A source of random numbers, with which retries are spread over time.
pub trait Jitter: Send + Sync + fmt::Debug + 'static {
    /// Returns the next 64 random bits. Suitable for unique keys, but not for secrets.
    fn bits(&self) -> u64;

    /// Returns a random number in `0.0..1.0`.
    fn unit(&self) -> f64 {
        // An `f64` holds 53 bits exactly.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl dyn Jitter {
    /// Returns `base` plus a random part of at most `fraction` times `base`. Jitter is only added, so a pause is never shorter than the
    /// server's retry delay.
    pub fn stretch(&self, base: Duration, fraction: f64) -> Duration {
        base.saturating_add(base.mul_f64(self.unit() * fraction.clamp(0.0, 1.0)))
    }
}

/// The SplitMix64 random number generator, with its state in an atomic word. Its sequence depends only on the seed.
#[derive(Debug)]
pub struct SplitMix(AtomicU64);

impl SplitMix {
    /// Creates a generator from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The constant that SplitMix64 adds to its state before each number.
    pub const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Returns the random number for a state. The function is a bijection that spreads each bit of the state over all bits of the
    /// number.
    pub const fn mix(state: u64) -> u64 {
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn step(&self) -> u64 {
        // Each caller adds the constant once, so concurrent callers get different states without a loop.
        let before = self.0.fetch_add(Self::GAMMA, Ordering::Relaxed);
        Self::mix(before.wrapping_add(Self::GAMMA))
    }
}

impl Jitter for SplitMix {
    fn bits(&self) -> u64 {
        self.step()
    }
}

/// A jitter source for tests. It always returns the same number, clamped to `0.0..1.0`.
#[derive(Debug, Clone, Copy)]
pub struct FixedJitter(pub f64);

impl Jitter for FixedJitter {
    fn bits(&self) -> u64 {
        self.0.to_bits()
    }

    fn unit(&self) -> f64 {
        self.0.clamp(0.0, 1.0 - f64::EPSILON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_random_sequence() {
        let (a, b) = (SplitMix::new(7), SplitMix::new(7));
        for _ in 0..1000 {
            let x = a.unit();
            assert_eq!(x, b.unit());
            assert!((0.0..1.0).contains(&x));
        }
        assert_ne!(SplitMix::new(8).bits(), SplitMix::new(7).bits());
    }

    #[test]
    fn jitter_never_shortens_a_pause() {
        for unit in [0.0, 0.5, 1.0] {
            let jitter: &dyn Jitter = &FixedJitter(unit);
            let d = jitter.stretch(Duration::from_secs(2), 0.25);
            assert!(
                d >= Duration::from_secs(2) && d <= Duration::from_millis(2500),
                "{d:?}"
            );
        }
    }
}
