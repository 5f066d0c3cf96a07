//! The order in which the text is trained on, and the fixed pieces on which held-out loss is measured.

use tinkers::prelude::Datum;

/// Batches of pieces of `tokens`, without end: each round takes every piece once, in an order of its own and cut at another
/// place. The same seed gives the same batches.
#[derive(Debug)]
pub(crate) struct Batches<'a> {
    tokens: &'a [u32],
    length: usize,
    batch: usize,
    order: Vec<usize>,
    chance: Chance,
}

impl<'a> Batches<'a> {
    /// Of `batch` pieces of `length` tokens each. `None` when the text is shorter than two pieces.
    pub(crate) fn new(tokens: &'a [u32], length: usize, batch: usize, seed: u64) -> Option<Self> {
        (tokens.len() > 2 * length).then(|| Self {
            tokens,
            length,
            batch,
            order: Vec::new(),
            chance: Chance(seed),
        })
    }

    fn piece(&mut self) -> Datum {
        if self.order.is_empty() {
            let offset = self.chance.below(self.length);
            // One token more than a piece is long, since the last is a target only.
            let last = self.tokens.len() - self.length - 1;
            self.order = (offset..=last).step_by(self.length).collect();
            self.chance.shuffle(&mut self.order);
        }
        // The text is longer than two pieces, so no round is empty.
        let start = self.order.pop().unwrap_or(0);
        datum(&self.tokens[start..=start + self.length])
    }
}

impl Iterator for Batches<'_> {
    type Item = Vec<Datum>;

    fn next(&mut self) -> Option<Vec<Datum>> {
        Some((0..self.batch).map(|_| self.piece()).collect())
    }
}

/// The pieces on which held-out loss is measured: at most `count`, spread evenly over the text. Empty when it is too short
/// for one.
pub(crate) fn spread(tokens: &[u32], length: usize, count: usize) -> Vec<Datum> {
    let pieces = tokens.len().saturating_sub(1) / length;
    let taken = count.min(pieces);
    (0..taken)
        .map(|i| {
            let start = i * pieces / taken * length;
            datum(&tokens[start..=start + length])
        })
        .collect()
}

fn datum(tokens: &[u32]) -> Datum {
    Datum::next_token(tokens, vec![1.0; tokens.len() - 1])
        .expect("a piece has two tokens or more, and a weight for each but the first")
}

/// SplitMix64: enough to shuffle, and the same everywhere.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        // The bias is below 2^-32 for any text that fits in memory here, and harmless.
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
    fn a_round_takes_every_piece_once_and_the_seed_fixes_the_order() {
        let tokens: Vec<u32> = (0..1001).collect();
        let starts = |seed| {
            let mut batches = Batches::new(&tokens, 10, 99, seed).unwrap();
            first_tokens(&batches.next().unwrap())
        };
        let once = starts(1);
        assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), 99);
        assert_eq!(once, starts(1));
        assert_ne!(once, starts(2));
        assert!(!once.is_sorted());
    }

    #[test]
    fn pieces_predict_the_token_behind_each() {
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
    fn held_out_pieces_are_spread_and_disjoint() {
        let tokens: Vec<u32> = (0..1001).collect();
        let pieces = spread(&tokens, 10, 8);
        assert_eq!(
            first_tokens(&pieces),
            [0, 120, 250, 370, 500, 620, 750, 870]
        );
        assert_eq!(spread(&tokens, 10, 1000).len(), 100);
        assert!(spread(&tokens[..10], 10, 8).is_empty());
    }

    #[test]
    fn a_text_that_is_too_short_gives_no_batches() {
        let tokens = [0; 20];
        assert!(Batches::new(&tokens, 10, 1, 0).is_none());
        assert!(Batches::new(&tokens, 9, 1, 0).is_some());
    }
}
