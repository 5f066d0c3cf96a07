//! Chance as a parameter: one small seeded generator, and fixed values for tests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A source of numbers that spread retries.
pub trait Jitter: Send + Sync + fmt::Debug + 'static {
    /// The next 64 bits. For keys that must differ, not for secrets.
    fn bits(&self) -> u64;

    /// A number in `0.0..1.0`.
    fn unit(&self) -> f64 {
        // 53 bits fill the mantissa exactly.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl dyn Jitter {
    /// `base` plus up to `fraction` of itself. Jitter is only ever added, so that no hint is undercut.
    pub fn stretch(&self, base: Duration, fraction: f64) -> Duration {
        base.saturating_add(base.mul_f64(self.unit() * fraction.clamp(0.0, 1.0)))
    }
}

/// SplitMix64: one atomic word, the same sequence for the same seed.
#[derive(Debug)]
pub struct SplitMix(AtomicU64);

impl SplitMix {
    /// A generator that starts from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn step(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        // Each caller adds the constant once, so each gets a state of its own without a loop.
        let mut z = self
            .0
            .fetch_add(GOLDEN, Ordering::Relaxed)
            .wrapping_add(GOLDEN);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Jitter for SplitMix {
    fn bits(&self) -> u64 {
        self.step()
    }
}

/// Always the same number, clamped into `0.0..1.0`.
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
    fn a_seed_gives_the_same_sequence_within_the_unit_interval() {
        let (a, b) = (SplitMix::new(7), SplitMix::new(7));
        for _ in 0..1000 {
            let x = a.unit();
            assert_eq!(x, b.unit());
            assert!((0.0..1.0).contains(&x));
        }
        assert_ne!(SplitMix::new(8).bits(), SplitMix::new(7).bits());
    }

    #[test]
    fn jitter_is_added_and_never_subtracted() {
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
