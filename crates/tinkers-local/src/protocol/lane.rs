//! The order of one model's operations: by number from 1, a later one waits for the missing one.

use std::collections::{BTreeMap, VecDeque};

use super::OperationId;
use crate::config::LocalConfig;
use crate::dialect::Order;
use crate::read::{Digest, Refusal};

/// The operations of one model.
#[derive(Debug)]
pub(super) struct Lane {
    /// The number whose turn is next.
    next: u64,
    /// Numbered operations that came before their turn.
    early: BTreeMap<u64, Queued>,
    /// Those whose turn has come, in the order in which they run.
    ready: VecDeque<Queued>,
    /// Bytes of the bodies of `early` and of `ready`.
    bytes: [usize; 2],
    running: Option<OperationId>,
    seen: BTreeMap<u64, (Digest, OperationId)>,
    order: Order,
}

#[derive(Debug, Clone, Copy)]
struct Queued {
    operation: OperationId,
    bytes: usize,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimit {
    pub(super) requests: usize,
    /// Of their bodies; one that is longer waits alone.
    pub(super) bytes: usize,
}

impl LocalConfig {
    /// How much of one model may wait.
    pub(super) fn queue_limit(&self) -> QueueLimit {
        QueueLimit {
            requests: self.max_queued,
            bytes: self.max_queued_bytes,
        }
    }
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
            bytes: [0; 2],
            running: None,
            seen: BTreeMap::new(),
            order: Order::BySeqId,
        }
    }
}

impl Lane {
    /// An empty one.
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            ..Self::default()
        }
    }

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
            None if number < self.next && self.order == Order::BySeqId => {
                Err(Refusal::conflict(format!(
                    "seq_id {number} has passed; the next of this model is {}",
                    self.next
                )))
            }
            None => Ok(None),
        }
    }

    /// Whether a request of so many bytes may wait as well. The one whose turn is next has a limit of its own: if those
    /// that wait for it could keep it out, none of them would ever run.
    pub(super) fn has_room(&self, number: u64, bytes: usize, limit: QueueLimit) -> bool {
        let [early, ready] = self.bytes;
        let (waiting, held) = match number == 0 || number == self.next {
            true => (self.ready.len(), ready),
            false => (self.queued(), early.saturating_add(ready)),
        };
        waiting < limit.requests && (held == 0 || held.saturating_add(bytes) <= limit.bytes)
    }

    /// Takes in an operation that [`Lane::repeated`] does not know.
    pub(super) fn admit(&mut self, number: u64, digest: Digest, operation: OperationId) {
        let bytes = digest.bytes();
        let queued = Queued { operation, bytes };
        if number != 0 {
            self.seen.insert(number, (digest, operation));
        }
        if number == 0 || self.order == Order::OnArrival {
            self.bytes[1] += bytes;
            self.ready.push_back(queued);
            return;
        }
        self.bytes[0] += bytes;
        self.early.insert(number, queued);
        while let Some(turn) = self.early.remove(&self.next) {
            self.bytes[0] -= turn.bytes;
            self.bytes[1] += turn.bytes;
            self.ready.push_back(turn);
            self.next += 1;
        }
    }

    /// The operation that is to start now.
    pub(super) fn start(&mut self) -> Option<OperationId> {
        if self.running.is_some() {
            return None;
        }
        let turn = self.ready.pop_front()?;
        self.bytes[1] -= turn.bytes;
        self.running = Some(turn.operation);
        self.running
    }

    /// The running one has ended.
    pub(super) fn ended(&mut self) {
        self.running = None;
    }

    pub(super) fn running(&self) -> Option<OperationId> {
        self.running
    }

    fn queued(&self) -> usize {
        self.ready.len() + self.early.len()
    }

    pub(super) fn place(&self, operation: OperationId) -> Place {
        if self.running == Some(operation) {
            return Place::Running;
        }
        match self
            .ready
            .iter()
            .position(|other| other.operation == operation)
        {
            Some(before) => Place::Behind(before + usize::from(self.running.is_some())),
            None => Place::Missing(self.next),
        }
    }

    /// Takes out all that have not started.
    pub(super) fn clear(&mut self) -> Vec<OperationId> {
        self.bytes[1] = 0;
        let ready = std::mem::take(&mut self.ready).into_iter();
        let mut out: Vec<OperationId> = ready.map(|queued| queued.operation).collect();
        out.extend(self.clear_early());
        out
    }

    /// Takes out those that wait for a number that has not come.
    pub(super) fn clear_early(&mut self) -> Vec<OperationId> {
        self.bytes[0] = 0;
        let early = std::mem::take(&mut self.early).into_values();
        early.map(|queued| queued.operation).collect()
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

    #[test]
    fn a_full_lane_has_room_for_the_one_that_the_others_wait_for() {
        let text = |bytes: usize| Digest::of("test", &vec![b'x'; bytes]);
        for limit in [(2, 1000), (1000, 20)] {
            let limit = QueueLimit {
                requests: limit.0,
                bytes: limit.1,
            };
            let mut lane = Lane::default();
            for number in [2, 3] {
                assert!(lane.has_room(number, 10, limit));
                lane.admit(number, text(10), OperationId(number));
            }
            assert!(!lane.has_room(4, 10, limit));
            assert!(lane.has_room(1, 10, limit));
            lane.admit(1, text(10), OperationId(1));
            // Now that three are on their turn, the next one waits for room as all do.
            assert!(!lane.has_room(4, 10, limit));
            assert!(!lane.has_room(0, 10, limit));
            assert_eq!(lane.start(), Some(OperationId(1)));
            assert!(!lane.has_room(4, 10, limit));
            lane.ended();
            assert_eq!(lane.start(), Some(OperationId(2)));
            assert!(lane.has_room(4, 10, limit));
            lane.clear();
            assert_eq!(lane.bytes, [0, 0]);
            // What is longer than the limit waits alone.
            assert!(lane.has_room(4, 2000, limit));
        }
    }
}
