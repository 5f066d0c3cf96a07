//! Training batches in random order, and the fixed sequences for held-out loss.

use tinkers::prelude::Datum;

/// An endless iterator of training batches. Each training epoch divides the text into sequences that start at a new random offset,
/// and visits each of them once in random order. The same seed gives the same batches.
#[derive(Debug)]
pub(crate) struct Batches<'a> {
    tokens: &'a [u32],
    length: usize,
    batch: usize,
    order: Vec<usize>,
    rng: SplitMix64,
}

impl<'a> Batches<'a> {
    /// Creates batches of `batch` sequences of `length` tokens. Returns `None` if the text is shorter than two sequences.
    pub(crate) fn new(tokens: &'a [u32], length: usize, batch: usize, seed: u64) -> Option<Self> {
        (tokens.len() > 2 * length).then(|| Self {
            tokens,
            length,
            batch,
            order: Vec::new(),
            rng: SplitMix64(seed),
        })
    }

    fn next_datum(&mut self) -> Datum {
        if self.order.is_empty() {
            let offset = self.rng.below(self.length);
            // A datum needs one more token than its length, since the last token is only a target.
            let last = self.tokens.len() - self.length - 1;
            self.order = (offset..=last).step_by(self.length).collect();
            self.rng.shuffle(&mut self.order);
        }
        // The order is never empty: the text is longer than two sequences, so each epoch has at least one.
        let start = self.order.pop().unwrap_or(0);
        datum(&self.tokens[start..=start + self.length])
    }
}

impl Iterator for Batches<'_> {
    type Item = Vec<Datum>;

    fn next(&mut self) -> Option<Vec<Datum>> {
        Some((0..self.batch).map(|_| self.next_datum()).collect())
    }
}

/// Returns at most `count` sequences, evenly spaced over the text. Returns no sequence if the text is too short for one.
pub(crate) fn evenly_spaced(tokens: &[u32], length: usize, count: usize) -> Vec<Datum> {
    let available = tokens.len().saturating_sub(1) / length;
    let count = count.min(available);
    (0..count)
        .map(|i| {
            let start = i * available / count * length;
            datum(&tokens[start..=start + length])
        })
        .collect()
}

fn datum(tokens: &[u32]) -> Datum {
    Datum::next_token(tokens, vec![1.0; tokens.len() - 1])
        .expect("a sequence has at least two tokens, and one weight per target")
}

/// The SplitMix64 pseudo-random generator.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, which must not be 0.
    fn below(&mut self, end: usize) -> usize {
        // The modulo bias is below 2^-32 for texts of less than 2^32 tokens.
        (self.next() % end as u64) as usize
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn first_tokens(batch: &[Datum]) -> Vec<u32> {
        let first = |datum: &Datum| datum.model_input.tokens().unwrap()[0];
        batch.iter().map(first).collect()
    }

    #[test]
    fn training_epoch_visits_each_sequence_once_in_seeded_order() {
        let tokens: Vec<u32> = (0..1001).collect();
        let starts = |seed| {
            let mut batches = Batches::new(&tokens, 10, 99, seed).unwrap();
            first_tokens(&batches.next().unwrap())
        };
        let first = starts(1);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 99);
        assert_eq!(first, starts(1));
        assert_ne!(first, starts(2));
        assert!(!first.is_sorted());
    }

    #[test]
    fn training_targets_are_the_inputs_shifted_by_one() {
        let tokens: Vec<u32> = (0..30).collect();
        let batch = Batches::new(&tokens, 10, 1, 3).unwrap().next().unwrap();
        let input = batch[0].model_input.tokens().unwrap();
        let targets = batch[0].loss_fn_inputs["target_tokens"].as_i64().unwrap();
        assert_eq!(input.len(), 10);
        assert!(
            input
                .iter()
                .zip(targets)
                .all(|(a, b)| i64::from(*a) + 1 == *b)
        );
    }

    #[test]
    fn held_out_sequences_are_evenly_spaced_and_disjoint() {
        let tokens: Vec<u32> = (0..1001).collect();
        let sequences = evenly_spaced(&tokens, 10, 8);
        assert_eq!(
            first_tokens(&sequences),
            [0, 120, 250, 370, 500, 620, 750, 870]
        );
        assert_eq!(evenly_spaced(&tokens, 10, 1000).len(), 100);
        assert!(evenly_spaced(&tokens[..10], 10, 8).is_empty());
    }

    #[test]
    fn text_shorter_than_two_sequences_gives_no_batches() {
        let tokens = [0; 20];
        assert!(Batches::new(&tokens, 10, 1, 0).is_none());
        assert!(Batches::new(&tokens, 9, 1, 0).is_some());
    }
}
