//! The queue of one model's operations: they run by `seq_id` from 1 and one at a time, and later ones wait for a missing number.
//!
//! A number has passed if its operation was queued, if it was refused and a later one was accepted after that, or if the wait for it
//! timed out. Operations that were accepted before an earlier number was refused fail when that number passes: they were meant to
//! run after it.

use std::collections::{BTreeMap, VecDeque};

use tinkers_core::Timestamp;

use crate::config::LocalConfig;
use crate::dialect::Order;
use crate::protocol::ids::OperationId;
use crate::read::{Digest, Refusal};

/// A queue of the operations of one model.
#[derive(Debug)]
pub(crate) struct ModelQueue {
    /// The next number to be queued.
    next: u64,
    /// Operations that wait for a lower number.
    early: BTreeMap<u64, Queued>,
    /// Operations that wait for no number, in the order in which they run.
    ready: VecDeque<Queued>,
    /// Bytes of the bodies of `early` and of `ready`.
    bytes: [usize; 2],
    running: Option<OperationId>,
    seen: BTreeMap<u64, (Digest, OperationId)>,
    /// Numbers from `next` on that have no operation.
    skipped: BTreeMap<u64, Skip>,
    /// Operations that will not run and have not been reported by `take_failed`.
    failed: Vec<Failed>,
    /// The missing number that `early` waits for.
    gap: Option<Gap>,
    order: Order,
}

/// Why a number has no operation in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    /// Its request was refused, and no later one was accepted after that: it may be used again.
    Refused,
    /// Later operations do not wait for it.
    Passed,
}

/// An operation that will not run because a lower number was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) number: u64,
    pub(crate) operation: OperationId,
    pub(crate) refused: u64,
}

/// A missing number that later operations wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) number: u64,
    pub(crate) since: Timestamp,
}

/// The most refused numbers that are remembered. Later requests wait for others as for numbers that have not arrived.
const MAX_SKIPPED: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Queued {
    operation: OperationId,
    bytes: usize,
}

/// A limit of what waits in a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimit {
    pub(crate) requests: usize,
    /// Bytes of their bodies; a longer body is admitted to an empty queue.
    pub(crate) bytes: usize,
}

impl LocalConfig {
    /// Returns the limit of one model's queue.
    pub(crate) fn queue_limit(&self) -> QueueLimit {
        QueueLimit {
            requests: self.max_queued,
            bytes: self.max_queued_bytes,
        }
    }
}

/// The position of an operation in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Running,
    /// This many operations run before it.
    Behind(usize),
    /// The operation waits for the request with this sequence number, which has not arrived.
    Missing(u64),
}

impl Default for ModelQueue {
    fn default() -> Self {
        Self {
            next: 1,
            early: BTreeMap::new(),
            ready: VecDeque::new(),
            bytes: [0; 2],
            running: None,
            seen: BTreeMap::new(),
            skipped: BTreeMap::new(),
            failed: Vec::new(),
            gap: None,
            order: Order::BySeqId,
        }
    }
}

impl ModelQueue {
    /// Creates an empty queue.
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order,
            ..Self::default()
        }
    }

    /// Returns the operation that the same request under `number` already has. Number 0 stands for none.
    ///
    /// # Errors
    /// If another request used the number, or if it has passed.
    pub(crate) fn repeated(
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
            None if self.has_passed(number) => Err(Refusal::conflict(format!(
                "seq_id {number} has passed; the next of this model is {}",
                self.next
            ))),
            None => Ok(None),
        }
    }

    /// Returns whether a request of `bytes` may be queued. Requests that wait for the next number do not count against it: otherwise they
    /// could block it and never run.
    pub(crate) fn has_room(&self, number: u64, bytes: usize, limit: QueueLimit) -> bool {
        let [early, ready] = self.bytes;
        let is_next = (self.next..number).all(|before| self.skipped.contains_key(&before));
        let (waiting, held) = match number == 0 || is_next {
            true => (self.ready.len(), ready),
            false => (self.queued(), early.saturating_add(ready)),
        };
        waiting < limit.requests && (held == 0 || held.saturating_add(bytes) <= limit.bytes)
    }

    /// Queues an operation that [`ModelQueue::repeated`] does not know.
    pub(crate) fn admit(&mut self, number: u64, digest: Digest, operation: OperationId) {
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
        self.pass_refused_before(number);
        self.skipped.remove(&number);
        self.bytes[0] += bytes;
        self.early.insert(number, queued);
        self.pass();
    }

    fn has_passed(&self, number: u64) -> bool {
        let is_passed = number < self.next || self.skipped.get(&number) == Some(&Skip::Passed);
        is_passed && self.order == Order::BySeqId
    }

    /// Records that the request under `number` was refused: requests accepted from now on do not wait for it.
    pub(crate) fn refuse(&mut self, number: u64) {
        let is_open = number >= self.next && !self.seen.contains_key(&number);
        if is_open && self.order == Order::BySeqId && self.skipped.len() < MAX_SKIPPED {
            self.skipped.entry(number).or_insert(Skip::Refused);
        }
    }

    /// Adds an operation that [`ModelQueue::repeated`] does not know and that has ended already.
    pub(crate) fn admit_ended(&mut self, number: u64, digest: Digest, operation: OperationId) {
        if number == 0 {
            return;
        }
        self.seen.insert(number, (digest, operation));
        if self.order == Order::BySeqId {
            self.pass_refused_before(number);
            self.skipped.insert(number, Skip::Passed);
            self.pass();
        }
    }

    /// Passes the refused numbers before `number`, which was accepted.
    fn pass_refused_before(&mut self, number: u64) {
        let before = self.skipped.range_mut(..number);
        let mut refused = before.filter(|(_, skip)| **skip == Skip::Refused);
        let Some((&first, skip)) = refused.next() else {
            return;
        };
        *skip = Skip::Passed;
        refused.for_each(|(_, skip)| *skip = Skip::Passed);
        // What waits behind them was accepted before the refusals: otherwise they would have passed with it.
        for (number, queued) in self.early.split_off(&first) {
            self.bytes[0] -= queued.bytes;
            self.skipped.insert(number, Skip::Passed);
            self.failed.push(Failed {
                number,
                operation: queued.operation,
                refused: first,
            });
        }
    }

    /// Advances `next` to the first missing number.
    fn pass(&mut self) {
        loop {
            if let Some(queued) = self.early.remove(&self.next) {
                self.bytes[0] -= queued.bytes;
                self.bytes[1] += queued.bytes;
                self.ready.push_back(queued);
            } else if self.skipped.get(&self.next) == Some(&Skip::Passed) {
                self.skipped.remove(&self.next);
            } else {
                return;
            }
            self.next = self.next.saturating_add(1);
        }
    }

    /// Takes the operations that will not run.
    pub(crate) fn take_failed(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failed)
    }

    /// Returns whether the request under `number` was refused and no later one was accepted after that.
    pub(crate) fn is_refused(&self, number: u64) -> bool {
        self.skipped.get(&number) == Some(&Skip::Refused)
    }

    /// Determines the missing number. Returns the gap before and after.
    pub(crate) fn update_gap(&mut self, now: Timestamp) -> [Option<Gap>; 2] {
        let before = self.gap;
        let number = (!self.early.is_empty()).then_some(self.next);
        self.gap = number.map(|number| match before {
            Some(gap) if gap.number == number => gap,
            _ => Gap { number, since: now },
        });
        [before, self.gap]
    }

    /// Records that `number` is still being sent, so that the wait for it starts again. Returns the gap before and after.
    pub(crate) fn attempted(&mut self, number: u64, now: Timestamp) -> [Option<Gap>; 2] {
        let before = self.gap;
        if let Some(gap) = self.gap.as_mut().filter(|gap| gap.number == number) {
            gap.since = now;
        }
        [before, self.gap]
    }

    /// The missing number that operations wait for.
    pub(crate) fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Ends the wait for the missing number. Removes the waiting operations and returns them with their numbers, which have then passed.
    pub(crate) fn give_up_gap(&mut self) -> Vec<(u64, OperationId)> {
        self.gap = None;
        self.bytes[0] = 0;
        let early = std::mem::take(&mut self.early);
        if let Some((last, _)) = early.last_key_value() {
            self.next = last.saturating_add(1);
            self.skipped = self.skipped.split_off(&self.next);
            self.pass();
        }
        let early = early.into_iter();
        early
            .map(|(number, queued)| (number, queued.operation))
            .collect()
    }

    /// Returns the operation to be started now, which counts as running from then on.
    pub(crate) fn start(&mut self) -> Option<OperationId> {
        if self.running.is_some() {
            return None;
        }
        let queued = self.ready.pop_front()?;
        self.bytes[1] -= queued.bytes;
        self.running = Some(queued.operation);
        self.running
    }

    /// Records the end of the running operation.
    pub(crate) fn ended(&mut self) {
        self.running = None;
    }

    pub(crate) fn running(&self) -> Option<OperationId> {
        self.running
    }

    fn queued(&self) -> usize {
        self.ready.len() + self.early.len()
    }

    pub(crate) fn position(&self, operation: OperationId) -> Position {
        if self.running == Some(operation) {
            return Position::Running;
        }
        match self
            .ready
            .iter()
            .position(|other| other.operation == operation)
        {
            Some(before) => Position::Behind(before + usize::from(self.running.is_some())),
            None => Position::Missing(self.next),
        }
    }

    /// Removes the operations that have not started.
    pub(crate) fn clear(&mut self) -> Vec<OperationId> {
        self.bytes[1] = 0;
        let ready = std::mem::take(&mut self.ready).into_iter();
        let mut out: Vec<OperationId> = ready.map(|queued| queued.operation).collect();
        out.extend(self.clear_early());
        out
    }

    /// Removes the operations that wait for a missing number.
    pub(crate) fn clear_early(&mut self) -> Vec<OperationId> {
        self.gap = None;
        self.bytes[0] = 0;
        let early = std::mem::take(&mut self.early).into_values();
        early.map(|queued| queued.operation).collect()
    }

    /// Deletes which request used `number`.
    pub(crate) fn forget(&mut self, number: u64) {
        self.seen.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of("test", text.as_bytes())
    }

    fn admit(queue: &mut ModelQueue, number: u64) {
        queue.admit(number, digest("x"), OperationId(number));
    }

    #[test]
    fn operations_run_one_at_a_time_in_order_of_their_numbers() {
        let mut queue = ModelQueue::default();
        admit(&mut queue, 3);
        admit(&mut queue, 2);
        assert_eq!(queue.start(), None);
        assert_eq!(queue.position(OperationId(3)), Position::Missing(1));
        admit(&mut queue, 1);
        assert_eq!(queue.start(), Some(OperationId(1)));
        assert_eq!(queue.start(), None);
        assert_eq!(queue.position(OperationId(3)), Position::Behind(2));
        queue.ended();
        assert_eq!(queue.start(), Some(OperationId(2)));
        queue.ended();
        assert_eq!(queue.start(), Some(OperationId(3)));
    }

    #[test]
    fn seq_id_is_bound_to_one_request() {
        let mut queue = ModelQueue::default();
        admit(&mut queue, 1);
        assert_eq!(
            queue.repeated(1, digest("x")).unwrap(),
            Some(OperationId(1))
        );
        assert!(queue.repeated(1, digest("y")).is_err());
        assert_eq!(queue.repeated(2, digest("y")).unwrap(), None);
        queue.forget(1);
        assert!(queue.repeated(1, digest("x")).is_err());
        assert_eq!(queue.repeated(0, digest("x")).unwrap(), None);
    }

    #[test]
    fn refused_seq_id_is_free_until_a_later_one_is_accepted() {
        let mut queue = ModelQueue::default();
        queue.refuse(1);
        queue.refuse(2);
        assert_eq!(queue.repeated(2, digest("x")).unwrap(), None);
        admit(&mut queue, 1);
        assert_eq!(queue.start(), Some(OperationId(1)));
        queue.ended();
        assert_eq!(queue.start(), None);
        admit(&mut queue, 3);
        assert!(queue.repeated(2, digest("x")).is_err());
        assert_eq!(queue.start(), Some(OperationId(3)));
        queue.ended();
        // The refusal of a repeated request that was accepted has no effect.
        queue.refuse(3);
        queue.refuse(4);
        assert_eq!((queue.next, queue.skipped.len()), (4, 1));
    }

    #[test]
    fn operations_accepted_before_a_refusal_fail_when_it_passes() {
        let mut queue = ModelQueue::default();
        for number in [2, 3] {
            admit(&mut queue, number);
        }
        queue.refuse(1);
        assert_eq!((queue.start(), queue.take_failed()), (None, vec![]));
        admit(&mut queue, 4);
        let failed = |number| Failed {
            number,
            operation: OperationId(number),
            refused: 1,
        };
        assert_eq!(queue.take_failed(), [failed(2), failed(3)]);
        assert_eq!(queue.start(), Some(OperationId(4)));
        assert_eq!(
            (queue.next, queue.skipped.len(), queue.bytes),
            (5, 0, [0, 0])
        );
        // A refused number after a missing one.
        queue.ended();
        queue.refuse(6);
        admit(&mut queue, 7);
        assert!(queue.repeated(6, digest("x")).is_err());
        admit(&mut queue, 5);
        assert_eq!((queue.start(), queue.next), (Some(OperationId(5)), 8));
    }

    #[test]
    fn operation_that_ended_at_once_is_not_waited_for() {
        let mut queue = ModelQueue::default();
        queue.admit_ended(2, digest("x"), OperationId(2));
        assert_eq!(
            queue.repeated(2, digest("x")).unwrap(),
            Some(OperationId(2))
        );
        admit(&mut queue, 3);
        admit(&mut queue, 1);
        assert_eq!(queue.start(), Some(OperationId(1)));
        queue.ended();
        assert_eq!(queue.start(), Some(OperationId(3)));
        assert_eq!((queue.next, queue.skipped.len()), (4, 0));
    }

    #[test]
    fn gap_timeout_starts_with_the_gap() {
        let at = |seconds| Timestamp::ORIGIN.after(std::time::Duration::from_secs(seconds));
        let gap = |number, seconds| {
            let since = at(seconds);
            Some(Gap { number, since })
        };
        let mut queue = ModelQueue::default();
        assert_eq!(queue.update_gap(at(0)), [None, None]);
        admit(&mut queue, 3);
        assert_eq!(queue.update_gap(at(1)), [None, gap(1, 1)]);
        admit(&mut queue, 4);
        assert_eq!(queue.update_gap(at(2)), [gap(1, 1), gap(1, 1)]);
        assert_eq!(queue.attempted(2, at(3)), [gap(1, 1), gap(1, 1)]);
        assert_eq!(queue.attempted(1, at(3)), [gap(1, 1), gap(1, 3)]);
        admit(&mut queue, 1);
        assert_eq!(queue.update_gap(at(4)), [gap(1, 3), gap(2, 4)]);
        queue.refuse(6);
        let given_up = queue.give_up_gap();
        assert_eq!(given_up, [(3, OperationId(3)), (4, OperationId(4))]);
        assert_eq!((queue.gap(), queue.next, queue.bytes[0]), (None, 5, 0));
        assert!(queue.repeated(2, digest("x")).is_err());
    }

    #[test]
    fn operations_without_a_number_run_on_arrival() {
        let mut queue = ModelQueue::default();
        admit(&mut queue, 2);
        queue.admit(0, digest("x"), OperationId(9));
        assert_eq!(queue.start(), Some(OperationId(9)));
        assert_eq!(queue.clear(), [OperationId(2)]);
    }

    #[test]
    fn full_queue_has_room_for_the_next_number() {
        let text = |bytes: usize| Digest::of("test", &vec![b'x'; bytes]);
        for limit in [(2, 1000), (1000, 20)] {
            let limit = QueueLimit {
                requests: limit.0,
                bytes: limit.1,
            };
            let mut queue = ModelQueue::default();
            for number in [2, 3] {
                assert!(queue.has_room(number, 10, limit));
                queue.admit(number, text(10), OperationId(number));
            }
            assert!(!queue.has_room(4, 10, limit));
            assert!(queue.has_room(1, 10, limit));
            queue.admit(1, text(10), OperationId(1));
            // Three are ready now, so the next number is refused as any other.
            assert!(!queue.has_room(4, 10, limit));
            assert!(!queue.has_room(0, 10, limit));
            assert_eq!(queue.start(), Some(OperationId(1)));
            assert!(!queue.has_room(4, 10, limit));
            queue.ended();
            assert_eq!(queue.start(), Some(OperationId(2)));
            assert!(queue.has_room(4, 10, limit));
            queue.clear();
            assert_eq!(queue.bytes, [0, 0]);
            // A number behind a refused one is the next, too.
            queue.refuse(4);
            assert!(queue.has_room(5, 10, limit));
            // A body that exceeds the limit is admitted alone.
            assert!(queue.has_room(4, 2000, limit));
        }
    }
}
