//! The order of one model's operations: by number from 1, a later one waits for the missing one.

use std::collections::{BTreeMap, VecDeque};

use super::OperationId;
use crate::read::{Digest, Refusal};

/// The operations of one model.
#[derive(Debug)]
pub(super) struct Lane {
    /// The number whose turn is next.
    next: u64,
    /// Numbered operations that came before their turn.
    early: BTreeMap<u64, OperationId>,
    /// Those whose turn has come, in the order in which they run.
    ready: VecDeque<OperationId>,
    running: Option<OperationId>,
    seen: BTreeMap<u64, (Digest, OperationId)>,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Running,
    /// So many run before it.
    Behind(usize),
    /// It waits for this number, which has not come.
    Missing(u64),
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            next: 1,
            early: BTreeMap::new(),
            ready: VecDeque::new(),
            running: None,
            seen: BTreeMap::new(),
        }
    }
}

impl Lane {
    /// The operation that `number` already stands for, if it is the same. Number 0 stands for none.
    pub(super) fn repeated(
        &self,
        number: u64,
        digest: Digest,
    ) -> Result<Option<OperationId>, Refusal> {
        match self.seen.get(&number) {
            _ if number == 0 => Ok(None),
            Some((same, operation)) if *same == digest => Ok(Some(*operation)),
            Some(_) => Err(Refusal::conflict(format!(
                "seq_id {number} was used by another request of this model"
            ))),
            None if number < self.next => Err(Refusal::conflict(format!(
                "seq_id {number} has passed; the next of this model is {}",
                self.next
            ))),
            None => Ok(None),
        }
    }

    /// Takes in an operation that [`Lane::repeated`] does not know.
    pub(super) fn admit(&mut self, number: u64, digest: Digest, operation: OperationId) {
        if number == 0 {
            self.ready.push_back(operation);
            return;
        }
        self.seen.insert(number, (digest, operation));
        self.early.insert(number, operation);
        while let Some(turn) = self.early.remove(&self.next) {
            self.ready.push_back(turn);
            self.next += 1;
        }
    }

    /// The operation that is to start now.
    pub(super) fn start(&mut self) -> Option<OperationId> {
        if self.running.is_some() {
            return None;
        }
        self.running = self.ready.pop_front();
        self.running
    }

    /// The running one has ended.
    pub(super) fn ended(&mut self) {
        self.running = None;
    }

    pub(super) fn running(&self) -> Option<OperationId> {
        self.running
    }

    /// How many wait.
    pub(super) fn queued(&self) -> usize {
        self.ready.len() + self.early.len()
    }

    pub(super) fn place(&self, operation: OperationId) -> Place {
        if self.running == Some(operation) {
            return Place::Running;
        }
        match self.ready.iter().position(|other| *other == operation) {
            Some(before) => Place::Behind(before + usize::from(self.running.is_some())),
            None => Place::Missing(self.next),
        }
    }

    /// Takes out all that have not started.
    pub(super) fn clear(&mut self) -> Vec<OperationId> {
        let early = std::mem::take(&mut self.early).into_values();
        self.ready.drain(..).chain(early).collect()
    }

    /// Takes out those that wait for a number that has not come.
    pub(super) fn clear_early(&mut self) -> Vec<OperationId> {
        std::mem::take(&mut self.early).into_values().collect()
    }

    /// The operation behind `number` is no longer known.
    pub(super) fn forget(&mut self, number: u64) {
        self.seen.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of("test", text.as_bytes())
    }

    fn admit(lane: &mut Lane, number: u64) {
        lane.admit(number, digest("x"), OperationId(number));
    }

    #[test]
    fn numbers_run_in_order_from_one_and_one_at_a_time() {
        let mut lane = Lane::default();
        admit(&mut lane, 3);
        admit(&mut lane, 2);
        assert_eq!(lane.start(), None);
        assert_eq!(lane.place(OperationId(3)), Place::Missing(1));
        admit(&mut lane, 1);
        assert_eq!(lane.start(), Some(OperationId(1)));
        assert_eq!(lane.start(), None);
        assert_eq!(lane.place(OperationId(3)), Place::Behind(2));
        lane.ended();
        assert_eq!(lane.start(), Some(OperationId(2)));
        lane.ended();
        assert_eq!(lane.start(), Some(OperationId(3)));
    }

    #[test]
    fn a_number_stands_for_one_request() {
        let mut lane = Lane::default();
        admit(&mut lane, 1);
        assert_eq!(lane.repeated(1, digest("x")).unwrap(), Some(OperationId(1)));
        assert!(lane.repeated(1, digest("y")).is_err());
        assert_eq!(lane.repeated(2, digest("y")).unwrap(), None);
        lane.forget(1);
        assert!(lane.repeated(1, digest("x")).is_err());
        assert_eq!(lane.repeated(0, digest("x")).unwrap(), None);
    }

    #[test]
    fn what_has_no_number_runs_on_arrival() {
        let mut lane = Lane::default();
        admit(&mut lane, 2);
        lane.admit(0, digest("x"), OperationId(9));
        assert_eq!(lane.start(), Some(OperationId(9)));
        assert_eq!(lane.clear(), [OperationId(2)]);
    }
}
