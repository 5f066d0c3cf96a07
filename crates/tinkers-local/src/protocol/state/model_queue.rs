//! The queue of one model's operations. They run one at a time in the order of their `seq_id`, which starts at 1. If a number is
//! missing, later operations wait for it.
//!
//! A number is closed when no later request may use it: its operation was queued, or it was refused and a later number was accepted
//! afterwards, or the wait for it timed out. Operations that were accepted before an earlier number was refused fail when that
//! number is closed, because they were meant to run after it.

use std::collections::{BTreeMap, VecDeque};

use tinkers_core::Timestamp;

use crate::config::LocalConfig;
use crate::dialect::Order;
use crate::protocol::ids::OperationId;
use crate::read::{Digest, Refusal};

/// The queue of the operations of one model. They run one at a time, in the order of their sequence numbers.
#[derive(Debug)]
pub(crate) struct ModelQueue {
    /// The lowest sequence number that no accepted request has used and that a request can still use. Operations with higher
    /// numbers wait for it.
    next: u64,
    /// The operations that cannot run yet, because a request with a lower sequence number has not arrived.
    early: BTreeMap<u64, Queued>,
    /// The operations that can run, in the order in which they will run.
    ready: VecDeque<Queued>,
    /// The total sizes of the request bodies in bytes: of the operations in `early`, and of the operations in `ready`.
    bytes: [usize; 2],
    running: Option<OperationId>,
    seen: BTreeMap<u64, (Digest, OperationId)>,
    /// The sequence numbers, from `next` on, for which operations with higher numbers do not wait, because the request was refused
    /// or failed.
    skipped: BTreeMap<u64, Skip>,
    /// The operations that will not run because a lower sequence number was refused. `take_failed` removes and returns them.
    failed: Vec<Failed>,
    /// The missing sequence number for which the operations in `early` wait. `None` if no operation waits.
    gap: Option<Gap>,
    order: Order,
}

/// The reason why operations do not wait for a lower sequence number for which no operation is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    /// The request with the sequence number was refused, and no request with a higher number has been accepted since. A new request
    /// may still use the number.
    Refused,
    /// No request can use the sequence number any more, because its operation has failed or a request with a higher number was
    /// accepted.
    Closed,
}

/// An operation that will not run because the request with a lower sequence number was refused after the operation was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) number: u64,
    pub(crate) operation: OperationId,
    pub(crate) refused: u64,
}

/// A missing sequence number for which operations with higher numbers wait, and the time since when they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) number: u64,
    pub(crate) since: Timestamp,
}

/// The maximum number of refused sequence numbers that the queue of a model remembers. Numbers that are refused beyond this limit
/// count as missing, so later requests wait for them.
const MAX_SKIPPED: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Queued {
    operation: OperationId,
    bytes: usize,
}

/// A limit on the number and the size of the operations in a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimit {
    pub(crate) requests: usize,
    /// The maximum total size of the request bodies in bytes. An empty queue accepts one request body of any size.
    pub(crate) bytes: usize,
}

impl LocalConfig {
    /// Returns the limit on the number and the total size of the requests in the queue of each model.
    pub(crate) fn queue_limit(&self) -> QueueLimit {
        QueueLimit {
            requests: self.max_queued,
            bytes: self.max_queued_bytes,
        }
    }
}

/// The position of an operation in the queue of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Running,
    /// The operation waits until this many other operations of the model have run.
    Behind(usize),
    /// The operation waits for the request with this lower sequence number, which has not arrived.
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
    /// Creates an empty queue whose operations run in the order `order`.
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order,
            ..Self::default()
        }
    }

    /// Returns the operation of an earlier request with the same sequence number and content, if there is one. Returns `None` for
    /// the number 0, which means that a request has no sequence number.
    ///
    /// # Errors
    ///
    /// If a different request used the sequence number, or if no request can use it any more.
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
            None if self.is_closed(number) => Err(Refusal::conflict(format!(
                "seq_id {number} has passed; the next of this model is {}",
                self.next
            ))),
            None => Ok(None),
        }
    }

    /// Returns whether a request with a body of `bytes` may be queued. For the next request that can run, the operations that wait
    /// for it do not count. Otherwise, they could fill the queue and then wait forever.
    pub(crate) fn has_room(&self, number: u64, bytes: usize, limit: QueueLimit) -> bool {
        let [early, ready] = self.bytes;
        let is_next = (self.next..number).all(|before| self.skipped.contains_key(&before));
        let (waiting, held) = match number == 0 || is_next {
            true => (self.ready.len(), ready),
            false => (self.queued(), early.saturating_add(ready)),
        };
        waiting < limit.requests && (held == 0 || held.saturating_add(bytes) <= limit.bytes)
    }

    /// Queues the operation of a new request. [`ModelQueue::repeated`] must have returned `None` for the request.
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
        self.close_refused_before(number);
        self.skipped.remove(&number);
        self.bytes[0] += bytes;
        self.early.insert(number, queued);
        self.advance_next();
    }

    fn is_closed(&self, number: u64) -> bool {
        let is_closed = number < self.next || self.skipped.get(&number) == Some(&Skip::Closed);
        is_closed && self.order == Order::BySeqId
    }

    /// Records that the request with this sequence number was refused. Requests that are accepted from now on do not wait for this
    /// number.
    pub(crate) fn refuse(&mut self, number: u64) {
        let is_open = number >= self.next && !self.seen.contains_key(&number);
        if is_open && self.order == Order::BySeqId && self.skipped.len() < MAX_SKIPPED {
            self.skipped.entry(number).or_insert(Skip::Refused);
        }
    }

    /// Adds the operation of a new request that has already ended, for example failed. It does not run, but its sequence number
    /// counts as used.
    pub(crate) fn admit_ended(&mut self, number: u64, digest: Digest, operation: OperationId) {
        if number == 0 {
            return;
        }
        self.seen.insert(number, (digest, operation));
        if self.order == Order::BySeqId {
            self.close_refused_before(number);
            self.skipped.insert(number, Skip::Closed);
            self.advance_next();
        }
    }

    /// Makes refused sequence numbers below `number` unusable, since a request with the number `number` was accepted. Operations
    /// that were accepted before and wait for such a number fail.
    fn close_refused_before(&mut self, number: u64) {
        let before = self.skipped.range_mut(..number);
        let mut refused = before.filter(|(_, skip)| **skip == Skip::Refused);
        let Some((&first, skip)) = refused.next() else {
            return;
        };
        *skip = Skip::Closed;
        refused.for_each(|(_, skip)| *skip = Skip::Closed);
        // These operations were accepted before the refusals: later ones would have closed the refused numbers.
        for (number, queued) in self.early.split_off(&first) {
            self.bytes[0] -= queued.bytes;
            self.skipped.insert(number, Skip::Closed);
            self.failed.push(Failed {
                number,
                operation: queued.operation,
                refused: first,
            });
        }
    }

    /// Advances `next` over all sequence numbers that accepted requests have used or that no request can use any more. The
    /// operations that no longer wait become ready.
    fn advance_next(&mut self) {
        loop {
            if let Some(queued) = self.early.remove(&self.next) {
                self.bytes[0] -= queued.bytes;
                self.bytes[1] += queued.bytes;
                self.ready.push_back(queued);
            } else if self.skipped.get(&self.next) == Some(&Skip::Closed) {
                self.skipped.remove(&self.next);
            } else {
                return;
            }
            self.next = self.next.saturating_add(1);
        }
    }

    /// Removes and returns the operations that will not run because a lower sequence number was refused.
    pub(crate) fn take_failed(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failed)
    }

    /// Returns whether the request with this sequence number was refused, and no request with a higher number has been accepted
    /// since.
    pub(crate) fn is_refused(&self, number: u64) -> bool {
        self.skipped.get(&number) == Some(&Skip::Refused)
    }

    /// Determines for which missing sequence number operations wait now, if any. Returns the missing number before and after the
    /// update, each with the time since when operations wait for it.
    pub(crate) fn update_gap(&mut self, now: Timestamp) -> [Option<Gap>; 2] {
        let before = self.gap;
        let number = (!self.early.is_empty()).then_some(self.next);
        self.gap = number.map(|number| match before {
            Some(gap) if gap.number == number => gap,
            _ => Gap { number, since: now },
        });
        [before, self.gap]
    }

    /// Records that a client is still trying to send the request with the sequence number `number`. If operations wait for it,
    /// restarts the timeout. Returns the gap (the missing number and the start of the wait) before and after the update.
    pub(crate) fn attempted(&mut self, number: u64, now: Timestamp) -> [Option<Gap>; 2] {
        let before = self.gap;
        if let Some(gap) = self.gap.as_mut().filter(|gap| gap.number == number) {
            gap.since = now;
        }
        [before, self.gap]
    }

    /// Returns the missing sequence number for which operations wait, and since when. Returns `None` if no operation waits.
    pub(crate) fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Stops waiting for the missing sequence number, after its timeout. Removes the operations that waited for it and returns them
    /// with their numbers. No request can use these numbers or the missing one any more.
    pub(crate) fn give_up_gap(&mut self) -> Vec<(u64, OperationId)> {
        self.gap = None;
        self.bytes[0] = 0;
        let early = std::mem::take(&mut self.early);
        if let Some((last, _)) = early.last_key_value() {
            self.next = last.saturating_add(1);
            self.skipped = self.skipped.split_off(&self.next);
            self.advance_next();
        }
        let early = early.into_iter();
        early
            .map(|(number, queued)| (number, queued.operation))
            .collect()
    }

    /// Removes the next operation from the queue and marks it as running. Returns `None` if an operation is running already or none
    /// can run.
    pub(crate) fn start(&mut self) -> Option<OperationId> {
        if self.running.is_some() {
            return None;
        }
        let queued = self.ready.pop_front()?;
        self.bytes[1] -= queued.bytes;
        self.running = Some(queued.operation);
        self.running
    }

    /// Records that the running operation has ended, so that the next operation can start.
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

    /// Removes and returns all operations that have not started.
    pub(crate) fn clear(&mut self) -> Vec<OperationId> {
        self.bytes[1] = 0;
        let ready = std::mem::take(&mut self.ready).into_iter();
        let mut out: Vec<OperationId> = ready.map(|queued| queued.operation).collect();
        out.extend(self.clear_early());
        out
    }

    /// Removes and returns the operations that wait for a missing sequence number.
    pub(crate) fn clear_early(&mut self) -> Vec<OperationId> {
        self.gap = None;
        self.bytes[0] = 0;
        let early = std::mem::take(&mut self.early).into_values();
        early.map(|queued| queued.operation).collect()
    }

    /// Deletes the record of which request used the sequence number `number`.
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
    fn operations_run_one_at_a_time_in_order_of_their_seq_ids() {
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
    fn seq_id_cannot_be_used_by_two_different_requests() {
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
    fn refused_seq_id_can_be_used_until_a_higher_seq_id_is_accepted() {
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
        // The refusal of a repeated request has no effect on the accepted one.
        queue.refuse(3);
        queue.refuse(4);
        assert_eq!((queue.next, queue.skipped.len()), (4, 1));
    }

    #[test]
    fn operations_fail_if_a_lower_seq_id_is_refused_later() {
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
        // Number 5 is missing, and number 6 is refused.
        queue.ended();
        queue.refuse(6);
        admit(&mut queue, 7);
        assert!(queue.repeated(6, digest("x")).is_err());
        admit(&mut queue, 5);
        assert_eq!((queue.start(), queue.next), (Some(OperationId(5)), 8));
    }

    #[test]
    fn operation_that_fails_on_arrival_does_not_block_later_ones() {
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
    fn missing_seq_id_timeout_starts_with_the_first_waiting_operation() {
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
    fn operations_without_a_seq_id_run_on_arrival() {
        let mut queue = ModelQueue::default();
        admit(&mut queue, 2);
        queue.admit(0, digest("x"), OperationId(9));
        assert_eq!(queue.start(), Some(OperationId(9)));
        assert_eq!(queue.clear(), [OperationId(2)]);
    }

    #[test]
    fn full_model_queue_accepts_the_next_seq_id() {
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
            // Three operations are ready now, so the queue has no room for the next number either.
            assert!(!queue.has_room(4, 10, limit));
            assert!(!queue.has_room(0, 10, limit));
            assert_eq!(queue.start(), Some(OperationId(1)));
            assert!(!queue.has_room(4, 10, limit));
            queue.ended();
            assert_eq!(queue.start(), Some(OperationId(2)));
            assert!(queue.has_room(4, 10, limit));
            queue.clear();
            assert_eq!(queue.bytes, [0, 0]);
            // With a refused number before it, a number still counts as the next one.
            queue.refuse(4);
            assert!(queue.has_room(5, 10, limit));
            // An empty queue accepts one body that exceeds the limit.
            assert!(queue.has_room(4, 2000, limit));
        }
    }
}
