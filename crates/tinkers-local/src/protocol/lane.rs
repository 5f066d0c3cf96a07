//! The order of one model's operations: by number from 1, a later one waits for the missing one.
//!
//! A number has passed when its operation was queued, when it was refused and a later one has been accepted since, or when it
//! was waited for in vain. Operations that were accepted behind a number before that was refused fail when it passes: they
//! were meant to run after it.

use std::collections::{BTreeMap, VecDeque};

use tinkers_core::Moment;

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
    /// Numbers from `next` on that no operation is queued for.
    skipped: BTreeMap<u64, Skip>,
    /// Operations that will not run, with the refused number before them, until they are taken.
    failed: Vec<Failed>,
    /// The missing number that `early` waits for, and since when.
    gap: Option<Gap>,
    order: Order,
}

/// Why a number has no operation in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    /// Its request was refused, and nothing later was accepted since: it may be used again.
    Refused,
    /// It is not waited for.
    Passed,
}

/// An operation that will not run, since a number before it was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) number: u64,
    pub(super) operation: OperationId,
    pub(super) refused: u64,
}

/// A number that later requests wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) number: u64,
    pub(super) since: Moment,
}

/// More refused numbers than this are not remembered; later requests then wait for those as for any that has not come.
const MAX_SKIPPED: usize = 4096;

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
            skipped: BTreeMap::new(),
            failed: Vec::new(),
            gap: None,
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
            None if self.has_passed(number) => Err(Refusal::conflict(format!(
                "seq_id {number} has passed; the next of this model is {}",
                self.next
            ))),
            None => Ok(None),
        }
    }

    /// Whether a request of so many bytes may wait as well. The one whose turn is next has a limit of its own: if those
    /// that wait for it could keep it out, none of them would ever run.
    pub(super) fn has_room(&self, number: u64, bytes: usize, limit: QueueLimit) -> bool {
        let [early, ready] = self.bytes;
        let is_next = (self.next..number).all(|before| self.skipped.contains_key(&before));
        let (waiting, held) = match number == 0 || is_next {
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

    /// The request under `number` was refused: nothing that is accepted from now on waits for it.
    pub(super) fn refuse(&mut self, number: u64) {
        let is_open = number >= self.next && !self.seen.contains_key(&number);
        if is_open && self.order == Order::BySeqId && self.skipped.len() < MAX_SKIPPED {
            self.skipped.entry(number).or_insert(Skip::Refused);
        }
    }

    /// Takes in an operation that [`Lane::repeated`] does not know and that has ended already.
    pub(super) fn admit_ended(&mut self, number: u64, digest: Digest, operation: OperationId) {
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

    /// `number` was accepted, so the refused ones before it have passed.
    fn pass_refused_before(&mut self, number: u64) {
        let before = self.skipped.range_mut(..number);
        let mut refused = before.filter(|(_, skip)| **skip == Skip::Refused);
        let Some((&first, skip)) = refused.next() else {
            return;
        };
        *skip = Skip::Passed;
        refused.for_each(|(_, skip)| *skip = Skip::Passed);
        // What waits behind them was accepted before they were refused, or they would have passed with it.
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

    /// Moves `next` on as far as nothing is missing.
    fn pass(&mut self) {
        loop {
            if let Some(turn) = self.early.remove(&self.next) {
                self.bytes[0] -= turn.bytes;
                self.bytes[1] += turn.bytes;
                self.ready.push_back(turn);
            } else if self.skipped.get(&self.next) == Some(&Skip::Passed) {
                self.skipped.remove(&self.next);
            } else {
                return;
            }
            self.next = self.next.saturating_add(1);
        }
    }

    /// Takes the operations that will not run.
    pub(super) fn take_failed(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failed)
    }

    /// Whether the request under `number` was refused and nothing later was accepted since.
    pub(super) fn is_refused(&self, number: u64) -> bool {
        self.skipped.get(&number) == Some(&Skip::Refused)
    }

    /// Looks at what is missing now. Gives the gap before and after.
    pub(super) fn look_for_gap(&mut self, now: Moment) -> [Option<Gap>; 2] {
        let before = self.gap;
        let number = (!self.early.is_empty()).then_some(self.next);
        self.gap = number.map(|number| match before {
            Some(gap) if gap.number == number => gap,
            _ => Gap { number, since: now },
        });
        [before, self.gap]
    }

    /// `number` is still being sent: the wait for it begins anew. Gives the gap before and after.
    pub(super) fn attempted(&mut self, number: u64, now: Moment) -> [Option<Gap>; 2] {
        let before = self.gap;
        if let Some(gap) = self.gap.as_mut().filter(|gap| gap.number == number) {
            gap.since = now;
        }
        [before, self.gap]
    }

    /// The missing number that is waited for.
    pub(super) fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Gives up waiting: takes out all that wait, with their numbers, which have passed then.
    pub(super) fn give_up_gap(&mut self) -> Vec<(u64, OperationId)> {
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
        self.gap = None;
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
    fn a_refused_number_is_free_until_a_later_one_is_accepted() {
        let mut lane = Lane::default();
        lane.refuse(1);
        lane.refuse(2);
        assert_eq!(lane.repeated(2, digest("x")).unwrap(), None);
        admit(&mut lane, 1);
        assert_eq!(lane.start(), Some(OperationId(1)));
        lane.ended();
        assert_eq!(lane.start(), None);
        admit(&mut lane, 3);
        assert!(lane.repeated(2, digest("x")).is_err());
        assert_eq!(lane.start(), Some(OperationId(3)));
        lane.ended();
        // A refused repeat of an accepted one changes nothing.
        lane.refuse(3);
        lane.refuse(4);
        assert_eq!((lane.next, lane.skipped.len()), (4, 1));
    }

    #[test]
    fn what_was_accepted_before_a_refusal_fails_when_it_passes() {
        let mut lane = Lane::default();
        for number in [2, 3] {
            admit(&mut lane, number);
        }
        lane.refuse(1);
        assert_eq!((lane.start(), lane.take_failed()), (None, vec![]));
        admit(&mut lane, 4);
        let failed = |number| Failed {
            number,
            operation: OperationId(number),
            refused: 1,
        };
        assert_eq!(lane.take_failed(), [failed(2), failed(3)]);
        assert_eq!(lane.start(), Some(OperationId(4)));
        assert_eq!((lane.next, lane.skipped.len(), lane.bytes), (5, 0, [0, 0]));
        // A refused number in front of which another one is missing.
        lane.ended();
        lane.refuse(6);
        admit(&mut lane, 7);
        assert!(lane.repeated(6, digest("x")).is_err());
        admit(&mut lane, 5);
        assert_eq!((lane.start(), lane.next), (Some(OperationId(5)), 8));
    }

    #[test]
    fn an_operation_that_ended_at_once_is_not_waited_for() {
        let mut lane = Lane::default();
        lane.admit_ended(2, digest("x"), OperationId(2));
        assert_eq!(lane.repeated(2, digest("x")).unwrap(), Some(OperationId(2)));
        admit(&mut lane, 3);
        admit(&mut lane, 1);
        assert_eq!(lane.start(), Some(OperationId(1)));
        lane.ended();
        assert_eq!(lane.start(), Some(OperationId(3)));
        assert_eq!((lane.next, lane.skipped.len()), (4, 0));
    }

    #[test]
    fn a_gap_is_timed_from_its_own_beginning() {
        let at = |seconds| Moment::ORIGIN.after(std::time::Duration::from_secs(seconds));
        let gap = |number, seconds| {
            let since = at(seconds);
            Some(Gap { number, since })
        };
        let mut lane = Lane::default();
        assert_eq!(lane.look_for_gap(at(0)), [None, None]);
        admit(&mut lane, 3);
        assert_eq!(lane.look_for_gap(at(1)), [None, gap(1, 1)]);
        admit(&mut lane, 4);
        assert_eq!(lane.look_for_gap(at(2)), [gap(1, 1), gap(1, 1)]);
        assert_eq!(lane.attempted(2, at(3)), [gap(1, 1), gap(1, 1)]);
        assert_eq!(lane.attempted(1, at(3)), [gap(1, 1), gap(1, 3)]);
        admit(&mut lane, 1);
        assert_eq!(lane.look_for_gap(at(4)), [gap(1, 3), gap(2, 4)]);
        lane.refuse(6);
        let given_up = lane.give_up_gap();
        assert_eq!(given_up, [(3, OperationId(3)), (4, OperationId(4))]);
        assert_eq!((lane.gap(), lane.next, lane.bytes[0]), (None, 5, 0));
        assert!(lane.repeated(2, digest("x")).is_err());
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
            // A number behind a refused one is next, too.
            lane.refuse(4);
            assert!(lane.has_room(5, 10, limit));
            // What is longer than the limit waits alone.
            assert!(lane.has_room(4, 2000, limit));
        }
    }
}
