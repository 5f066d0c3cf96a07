//! A random number generator whose sequence for a seed is the same on every machine and in every release.

/// A SplitMix64 generator. Its 64 bits of state suffice for weight initialisation and for sampling.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    /// Creates a generator from `seed`.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Creates the generator of the stream number `stream` of a seed. Streams with different numbers are statistically independent.
    #[must_use]
    pub(crate) fn stream(seed: u64, stream: u64) -> Self {
        Self::new(mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// Returns the next 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Returns a uniform number in `[0, 1)` with 24 random bits. An `f32` holds such a number exactly.
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32 exactly")]
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Returns a uniform number in `[0, 1)` with 53 random bits. An `f64` holds such a number exactly.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    pub(crate) fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a uniform integer in `0..bound`; `bound` must not be zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next_u64()) * bound as u128;
        usize::try_from(wide >> 64).expect("the product's upper half is below the bound")
    }

    /// Returns `len` uniform numbers in `[-limit, limit)`.
    pub(crate) fn uniform(&mut self, len: usize, limit: f32) -> Vec<f32> {
        (0..len)
            .map(|_| (self.unit() * 2.0 - 1.0) * limit)
            .collect()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_output_matches_published_splitmix64_values() {
        // The published first outputs of SplitMix64 for seed 1234567.
        let mut rng = Rng::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn random_streams_of_one_seed_differ_and_stay_in_range() {
        let mut a = Rng::stream(7, 0);
        let mut b = Rng::stream(7, 1);
        let left: Vec<f32> = (0..64).map(|_| a.unit()).collect();
        let right: Vec<f32> = (0..64).map(|_| b.unit()).collect();
        assert_ne!(left, right);
        assert!(left.iter().chain(&right).all(|x| (0.0..1.0).contains(x)));
    }

    #[test]
    fn random_integers_take_every_value_below_the_bound() {
        let mut rng = Rng::new(3);
        let mut seen = [0usize; 5];
        for _ in 0..1000 {
            seen[rng.below(5)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
    }
}
