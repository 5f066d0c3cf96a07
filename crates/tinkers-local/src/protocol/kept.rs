//! Which results are kept, and which goes first when they are too many.

use std::collections::{BTreeMap, BTreeSet};

use super::OperationId;

/// What an operation takes up beside its result.
const OVERHEAD: usize = 512;

/// Results by the order in which they would go: those that were fetched, then the others, the oldest of each first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: usize,
    order: BTreeSet<(Stage, OperationId)>,
    entries: BTreeMap<OperationId, (Stage, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Fetched,
    Waiting,
}

impl Kept {
    /// A result of `bytes` is there.
    pub(super) fn add(&mut self, id: OperationId, bytes: usize) {
        self.remove(id);
        let bytes = bytes.saturating_add(OVERHEAD);
        self.bytes = self.bytes.saturating_add(bytes);
        self.order.insert((Stage::Waiting, id));
        self.entries.insert(id, (Stage::Waiting, bytes));
    }

    /// It was sent to somebody.
    pub(super) fn fetched(&mut self, id: OperationId) {
        if let Some((stage, _)) = self.entries.get_mut(&id) {
            self.order.remove(&(*stage, id));
            *stage = Stage::Fetched;
            self.order.insert((Stage::Fetched, id));
        }
    }

    pub(super) fn remove(&mut self, id: OperationId) {
        if let Some((stage, bytes)) = self.entries.remove(&id) {
            self.order.remove(&(stage, id));
            self.bytes -= bytes;
        }
    }

    /// The one that has to go for the rest to fit `budget`. One result is kept whatever its size.
    pub(super) fn excess(&self, budget: usize) -> Option<OperationId> {
        let (_, first) = self.order.first()?;
        (self.bytes > budget && self.entries.len() > 1).then_some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(kept: &mut Kept, budget: usize) -> Vec<u64> {
        let mut gone = Vec::new();
        while let Some(id) = kept.excess(budget) {
            kept.remove(id);
            gone.push(id.0);
        }
        gone
    }

    #[test]
    fn what_was_fetched_goes_first_then_the_oldest_and_the_last_one_stays() {
        let mut kept = Kept::default();
        for id in 1..=5 {
            kept.add(OperationId(id), 1000);
        }
        kept.fetched(OperationId(4));
        kept.fetched(OperationId(2));
        kept.fetched(OperationId(99));
        assert_eq!(drained(&mut kept, 5 * (1000 + OVERHEAD)), [0; 0]);
        assert_eq!(drained(&mut kept, 2 * (1000 + OVERHEAD)), [2, 4, 1]);
        assert_eq!(drained(&mut kept, 0), [3]);
        kept.remove(OperationId(5));
        assert_eq!((kept.bytes, kept.order.len()), (0, 0));
    }
}
