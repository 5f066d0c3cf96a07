//! The sizes of the stored results, and the order in which results are dropped when they exceed the memory limit.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::ids::OperationId;

/// The estimated memory in bytes that an operation needs in addition to its result.
const OVERHEAD: usize = 512;

/// The stored results in the order in which they are deleted when they exceed the memory limit: first the results that clients have
/// fetched, then all others. Within both groups, the oldest result comes first.
#[derive(Debug, Default)]
pub(crate) struct RetainedResults {
    bytes: usize,
    order: BTreeSet<(Stage, OperationId)>,
    entries: BTreeMap<OperationId, (Stage, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Fetched,
    Waiting,
}

impl RetainedResults {
    /// Adds a result that was stored just now, with a size of `bytes`. No client has fetched it yet.
    pub(crate) fn add(&mut self, id: OperationId, bytes: usize) {
        self.remove(id);
        let bytes = bytes.saturating_add(OVERHEAD);
        self.bytes = self.bytes.saturating_add(bytes);
        self.order.insert((Stage::Waiting, id));
        self.entries.insert(id, (Stage::Waiting, bytes));
    }

    /// Records that a result was sent to a client. When space is needed, it is deleted before all results that
    /// have not been sent.
    pub(crate) fn fetched(&mut self, id: OperationId) {
        if let Some((stage, _)) = self.entries.get_mut(&id) {
            self.order.remove(&(*stage, id));
            *stage = Stage::Fetched;
            self.order.insert((Stage::Fetched, id));
        }
    }

    pub(crate) fn remove(&mut self, id: OperationId) {
        if let Some((stage, bytes)) = self.entries.remove(&id) {
            self.order.remove(&(stage, id));
            self.bytes -= bytes;
        }
    }

    /// Returns the result to delete next because the stored results exceed `budget` bytes. Returns `None` if they do not, or if
    /// only one result is left, which is always kept.
    pub(crate) fn excess(&self, budget: usize) -> Option<OperationId> {
        let (_, first) = self.order.first()?;
        (self.bytes > budget && self.entries.len() > 1).then_some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(retained: &mut RetainedResults, budget: usize) -> Vec<u64> {
        let mut gone = Vec::new();
        while let Some(id) = retained.excess(budget) {
            retained.remove(id);
            gone.push(id.0);
        }
        gone
    }

    #[test]
    fn excess_results_are_dropped_fetched_first_and_the_last_is_kept() {
        let mut retained = RetainedResults::default();
        for id in 1..=5 {
            retained.add(OperationId(id), 1000);
        }
        retained.fetched(OperationId(4));
        retained.fetched(OperationId(2));
        retained.fetched(OperationId(99));
        assert_eq!(drained(&mut retained, 5 * (1000 + OVERHEAD)), [0; 0]);
        assert_eq!(drained(&mut retained, 2 * (1000 + OVERHEAD)), [2, 4, 1]);
        assert_eq!(drained(&mut retained, 0), [3]);
        retained.remove(OperationId(5));
        assert_eq!((retained.bytes, retained.order.len()), (0, 0));
    }
}
