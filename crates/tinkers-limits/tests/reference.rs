//! Property tests that compare each primitive with a sequential reference model.
#![cfg(not(tinkers_loom))]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tinkers_limits::{
    BackoffGate, ConcurrencyWindow, FirstRequest, GatePass, Gcra, Rate, RateRefusal, RetryBudget,
    RetryDraw, RetryReason, SlotRequest,
};

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

#[derive(Debug, Clone)]
enum GateOperation {
    Wait(u64),
    Enter,
    /// The server refuses an admitted request. Contains a number that selects the request, and the server's retry delay in microseconds.
    Refuse(usize, u64),
    /// The server accepts a request that was admitted as the first one after a rate-limit pause. Contains a number that selects one of
    /// several such requests in flight.
    Reopen(usize),
    Defer(usize, u64),
    HandOver(usize),
}

fn gate_operation() -> impl Strategy<Value = GateOperation> {
    let any = any::<usize>;
    prop_oneof![
        4 => (0_u64..60).prop_map(GateOperation::Wait),
        5 => Just(GateOperation::Enter),
        3 => (any(), 0_u64..100).prop_map(|(of, hint)| GateOperation::Refuse(of, hint)),
        1 => any().prop_map(GateOperation::Reopen),
        1 => (any(), 0_u64..100).prop_map(|(of, hint)| GateOperation::Defer(of, hint)),
        1 => any().prop_map(GateOperation::HandOver),
    ]
}

const PATIENCE: u64 = 40;

/// A simple model of the gate, with which the real gate is compared. They share no code.
#[derive(Default)]
struct GateModel {
    now: u64,
    /// The latest time, in microseconds, until which any refusal so far closed the gate.
    until: u64,
    /// The gate epochs that have ended because a request that was admitted in them was refused.
    ended: BTreeSet<usize>,
    /// The admitted requests, each with its gate epoch. Epochs are counted from 0.
    passes: Vec<(GatePass, usize)>,
    /// The requests in flight that were admitted as the first one after a rate-limit pause, each with its gate epoch and its index among
    /// all such requests.
    first_requests: Vec<(FirstRequest, usize, u64)>,
    /// The number of requests that were admitted as the first one after a rate-limit pause, so far.
    first_request_count: u64,
    /// While the gate waits for the response to the first request after a rate-limit pause: the index of this request among all such
    /// requests, and its admission time in microseconds.
    pending: Option<(u64, u64)>,
    is_open: bool,
}

fn pick<T: Copy>(from: &[T], number: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[number % from.len()])
}

impl GateModel {
    /// Ends one of the requests in flight that were admitted as the first one after a rate-limit pause; `number` selects it. Returns this
    /// request, and whether the gate was waiting for its response, and not for that of a later one.
    fn end_first_request(&mut self, number: usize) -> Option<(FirstRequest, bool)> {
        let at = number.checked_rem(self.first_requests.len())?;
        let (first_request, _, number) = self.first_requests.swap_remove(at);
        let is_last = self.pending.is_some_and(|(last, _)| last == number);
        Some((first_request, is_last))
    }

    fn operation(
        &mut self,
        gate: &BackoffGate,
        operation: &GateOperation,
    ) -> Result<(), TestCaseError> {
        match *operation {
            GateOperation::Wait(time) => self.now += time,
            GateOperation::Enter => self.enter(gate)?,
            GateOperation::Refuse(number, hint) => {
                let Some((pass, epoch)) = pick(&self.passes, number) else {
                    return Ok(());
                };
                let until = self.now + hint;
                let closed = gate.close(us(until), pass.epoch());
                prop_assert_eq!(closed.is_new_event, self.ended.insert(epoch));
                prop_assert!(closed.until >= us(until));
                self.until = self.until.max(until);
                self.is_open = false;
                self.pending = None;
            }
            GateOperation::Reopen(number) => {
                let Some(at) = number.checked_rem(self.first_requests.len()) else {
                    return Ok(());
                };
                // A response to any first request of the current epoch opens the gate.
                let (first_request, epoch, _) = self.first_requests.swap_remove(at);
                let opens = self.pending.is_some() && epoch == self.ended.len();
                prop_assert_eq!(gate.reopen(GatePass::First(first_request).epoch()), opens);
                if opens {
                    self.pending = None;
                    self.is_open = true;
                }
            }
            GateOperation::Defer(number, hint) => {
                if let Some((first_request, is_last)) = self.end_first_request(number) {
                    prop_assert_eq!(
                        gate.defer_first_request(us(self.now + hint), first_request),
                        is_last
                    );
                    self.pending = self.pending.filter(|_| !is_last);
                }
            }
            GateOperation::HandOver(number) => {
                if let Some((first_request, is_last)) = self.end_first_request(number) {
                    prop_assert_eq!(
                        gate.hand_over_first_request(us(self.now), first_request),
                        is_last
                    );
                    self.pending = self.pending.filter(|_| !is_last);
                }
            }
        }
        prop_assert_eq!(gate.open().is_some(), self.is_open);
        Ok(())
    }

    fn enter(&mut self, gate: &BackoffGate) -> Result<(), TestCaseError> {
        let before = self.pending;
        let pass = match gate.enter(us(self.now), us(PATIENCE)) {
            Ok(pass) => pass,
            Err(at) => {
                prop_assert!(at > us(self.now), "the retry time has already passed");
                return Ok(());
            }
        };
        prop_assert!(
            self.now >= self.until,
            "admitted before the latest deadline"
        );
        prop_assert_eq!(pass.is_first_request(), !self.is_open);
        if let Some(first_request) = pass.first_request() {
            let is_due = before.is_none_or(|(_, at)| self.now >= at + PATIENCE);
            prop_assert!(
                is_due,
                "a second first request within the timeout of the first"
            );
            let is_duplicate = self
                .first_requests
                .iter()
                .any(|(other, ..)| *other == first_request);
            prop_assert!(!is_duplicate, "two first requests in flight are equal");
            self.first_request_count += 1;
            self.first_requests
                .push((first_request, self.ended.len(), self.first_request_count));
            self.pending = Some((self.first_request_count, self.now));
        }
        self.passes.push((pass, self.ended.len()));
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum WindowOperation {
    Take(SlotRequest, u32),
    TakeQueued(SlotRequest, u32),
    /// Ends the submission of an attempt and releases its slot. Contains a number that selects one of the attempts without a response.
    ReleaseSlot(usize),
    Undo(usize),
    Release,
    Limit(u32),
    Waiters(bool),
}

fn take() -> impl Strategy<Value = SlotRequest> {
    prop_oneof![Just(SlotRequest::SlotAndInFlight), Just(SlotRequest::Slot)]
}

fn window_operation() -> impl Strategy<Value = WindowOperation> {
    prop_oneof![
        4 => (take(), 0_u32..8).prop_map(|(take, slots)| WindowOperation::Take(take, slots)),
        2 => (take(), 0_u32..8).prop_map(|(take, slots)| WindowOperation::TakeQueued(take, slots)),
        2 => any::<usize>().prop_map(WindowOperation::ReleaseSlot),
        1 => any::<usize>().prop_map(WindowOperation::Undo),
        2 => Just(WindowOperation::Release),
        1 => (0_u32..10).prop_map(WindowOperation::Limit),
        1 => any::<bool>().prop_map(WindowOperation::Waiters),
    ]
}

struct WindowModel {
    attempts: Vec<SlotRequest>,
    in_flight: usize,
    limit: usize,
    has_waiters: bool,
}

impl WindowModel {
    fn take(&mut self, take: SlotRequest, slots: u32) -> bool {
        let has_room = take == SlotRequest::Slot || self.in_flight < self.limit;
        let is_admitted = has_room && self.attempts.len() < slots as usize;
        if is_admitted {
            self.attempts.push(take);
            self.in_flight += usize::from(take == SlotRequest::SlotAndInFlight);
        }
        is_admitted
    }

    fn end(&mut self, number: usize) -> Option<SlotRequest> {
        let at = number.checked_rem(self.attempts.len())?;
        Some(self.attempts.swap_remove(at))
    }

    /// Returns the number of requests in flight whose submission already has a response, so that their in-flight unit may be released.
    fn releasable(&self) -> usize {
        let submitted = self.attempts.iter();
        self.in_flight
            - submitted
                .filter(|take| **take == SlotRequest::SlotAndInFlight)
                .count()
    }

    fn operation(
        &mut self,
        window: &ConcurrencyWindow,
        operation: &WindowOperation,
    ) -> Result<(), TestCaseError> {
        match *operation {
            WindowOperation::Take(take, slots) => {
                let expected = !self.has_waiters && self.take(take, slots);
                prop_assert_eq!(window.take(take, slots).is_ok(), expected);
            }
            WindowOperation::TakeQueued(take, slots) => {
                let expected = self.take(take, slots);
                prop_assert_eq!(window.take_queued(take, slots).is_ok(), expected);
            }
            WindowOperation::ReleaseSlot(number) => {
                if self.end(number).is_some() {
                    window.release_slot();
                }
            }
            WindowOperation::Undo(number) => {
                if let Some(take) = self.end(number) {
                    self.in_flight -= usize::from(take == SlotRequest::SlotAndInFlight);
                    window.undo(take);
                }
            }
            WindowOperation::Release => {
                if self.releasable() > 0 {
                    self.in_flight -= 1;
                    window.release();
                }
            }
            WindowOperation::Limit(limit) => {
                self.limit = limit.max(1) as usize;
                window.set_limit(limit);
            }
            WindowOperation::Waiters(waiting) => {
                self.has_waiters = waiting;
                window.set_waiters(waiting);
            }
        }
        let view = window.view();
        prop_assert_eq!(view.in_flight as usize, self.in_flight);
        prop_assert_eq!(view.unanswered as usize, self.attempts.len());
        prop_assert_eq!(view.limit as usize, self.limit);
        prop_assert_eq!(view.has_waiters, self.has_waiters);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn closed_gate_admits_one_request_at_a_time_after_its_deadline(
        operations in prop::collection::vec(gate_operation(), 1..120),
    ) {
        let gate = BackoffGate::new();
        let mut model = GateModel { is_open: true, ..GateModel::default() };
        for operation in &operations {
            model.operation(&gate, operation)?;
        }
    }

    #[test]
    fn in_flight_window_matches_the_reference_model(
        limit in 1_u32..8,
        operations in prop::collection::vec(window_operation(), 1..150),
    ) {
        let window = ConcurrencyWindow::new(limit);
        let mut model = WindowModel {
            attempts: Vec::new(),
            in_flight: 0,
            limit: limit as usize,
            has_waiters: false,
        };
        for operation in &operations {
            model.operation(&window, operation)?;
        }
    }

    #[test]
    fn retry_budget_matches_a_bounded_counter(
        capacity in 0_u64..60,
        operations in prop::collection::vec(0_u8..6, 1..150),
    ) {
        let budget = RetryBudget::new(capacity);
        let mut tokens = capacity;
        for operation in operations {
            let failure = match operation {
                0 => RetryReason::Refused,
                1 => RetryReason::Fault,
                2 => RetryReason::Timeout,
                _ => {
                    budget.credit();
                    tokens = capacity.min(tokens + 1);
                    continue;
                }
            };
            let cost = match failure {
                RetryReason::Refused => 0,
                RetryReason::Fault => 5,
                RetryReason::Timeout => 10,
            };
            let expected = if cost <= tokens { RetryDraw::Granted } else { RetryDraw::Empty };
            prop_assert_eq!(budget.draw(failure), expected);
            if expected == RetryDraw::Granted {
                tokens -= cost;
            }
            prop_assert_eq!(budget.tokens(), tokens);
        }
    }

    /// Compares the rate limit with a token bucket in nanoseconds. The bucket starts full and fills by one per nanosecond.
    #[test]
    fn rate_limit_matches_a_token_bucket(
        interval in 1_u64..50,
        burst in 1_u32..6,
        operations in prop::collection::vec((0_u64..80, 0_u32..8, any::<bool>()), 1..150),
    ) {
        let limit = Gcra::new(Rate { interval: Duration::from_nanos(interval), burst });
        let size = interval * u64::from(burst);
        let (mut now, mut bucket) = (0_u64, size);
        for (wait, units, is_undone) in operations {
            now += wait;
            bucket = size.min(bucket + wait);
            let cost = interval * u64::from(units);
            let expected = if units > burst {
                Err(RateRefusal::Never)
            } else if cost > bucket {
                Err(RateRefusal::NotUntil(Duration::from_nanos(now + cost - bucket)))
            } else {
                Ok(())
            };
            prop_assert_eq!(limit.take(units, Duration::from_nanos(now)), expected);
            if expected.is_ok() {
                if is_undone {
                    limit.undo(units);
                } else {
                    bucket -= cost;
                }
            }
        }
    }
}
