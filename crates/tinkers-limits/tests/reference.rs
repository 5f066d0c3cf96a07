//! Each primitive against a plain model of it: any sequence of calls gives the same answers.
#![cfg(not(tinkers_loom))]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tinkers_limits::{
    BackoffGate, ConcurrencyWindow, Drawn, Entry, Failure, Gcra, Probe, Rate, Refusal, RetryBudget,
    Take,
};

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

// The gate.

#[derive(Debug, Clone)]
enum GateStep {
    Wait(u64),
    Enter,
    /// A request, by its number, is refused with a hint of so many microseconds.
    Refuse(usize, u64),
    /// The end of a probe, by its number among those under way.
    Reopen(usize),
    Defer(usize, u64),
    PassOn(usize),
}

fn gate_step() -> impl Strategy<Value = GateStep> {
    let any = any::<usize>;
    prop_oneof![
        4 => (0_u64..60).prop_map(GateStep::Wait),
        5 => Just(GateStep::Enter),
        3 => (any(), 0_u64..100).prop_map(|(of, hint)| GateStep::Refuse(of, hint)),
        1 => any().prop_map(GateStep::Reopen),
        1 => (any(), 0_u64..100).prop_map(|(of, hint)| GateStep::Defer(of, hint)),
        1 => any().prop_map(GateStep::PassOn),
    ]
}

const PATIENCE: u64 = 40;

/// What may be said of a gate without knowing how it is built.
#[derive(Default)]
struct GateModel {
    now: u64,
    /// The largest deadline that any refusal named.
    until: u64,
    /// Epochs that a refusal has ended.
    ended: BTreeSet<usize>,
    /// The epoch of each request, counted from 0.
    entries: Vec<(Entry, usize)>,
    /// Probes under way, with the epoch and the number of each.
    probes: Vec<(Probe, usize, u64)>,
    /// Numbers of probes so far.
    probed: u64,
    /// The last probe, while the gate waits for its end: its number and when it went.
    probing: Option<(u64, u64)>,
    is_open: bool,
}

fn pick<T: Copy>(from: &[T], number: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[number % from.len()])
}

impl GateModel {
    /// One of the probes under way ends, and whether it is the one that the gate waits for.
    fn end_probe(&mut self, number: usize) -> Option<(Probe, bool)> {
        let at = number.checked_rem(self.probes.len())?;
        let (probe, _, number) = self.probes.swap_remove(at);
        let is_last = self.probing.is_some_and(|(last, _)| last == number);
        Some((probe, is_last))
    }

    fn step(&mut self, gate: &BackoffGate, step: &GateStep) -> Result<(), TestCaseError> {
        match *step {
            GateStep::Wait(time) => self.now += time,
            GateStep::Enter => self.enter(gate)?,
            GateStep::Refuse(number, hint) => {
                let Some((entry, epoch)) = pick(&self.entries, number) else {
                    return Ok(());
                };
                let until = self.now + hint;
                let closed = gate.close(us(until), entry.epoch());
                prop_assert_eq!(closed.first_of_its_event, self.ended.insert(epoch));
                prop_assert!(closed.until >= us(until));
                self.until = self.until.max(until);
                self.is_open = false;
                self.probing = None;
            }
            GateStep::Reopen(number) => {
                let Some(at) = number.checked_rem(self.probes.len()) else {
                    return Ok(());
                };
                // Any probe of this epoch will do.
                let (probe, epoch, _) = self.probes.swap_remove(at);
                let opens = self.probing.is_some() && epoch == self.ended.len();
                prop_assert_eq!(gate.reopen(Entry::Probe(probe).epoch()), opens);
                if opens {
                    self.probing = None;
                    self.is_open = true;
                }
            }
            GateStep::Defer(number, hint) => {
                if let Some((probe, is_last)) = self.end_probe(number) {
                    prop_assert_eq!(gate.defer(us(self.now + hint), probe), is_last);
                    self.probing = self.probing.filter(|_| !is_last);
                }
            }
            GateStep::PassOn(number) => {
                if let Some((probe, is_last)) = self.end_probe(number) {
                    prop_assert_eq!(gate.pass_on(us(self.now), probe), is_last);
                    self.probing = self.probing.filter(|_| !is_last);
                }
            }
        }
        prop_assert_eq!(gate.open().is_some(), self.is_open);
        Ok(())
    }

    fn enter(&mut self, gate: &BackoffGate) -> Result<(), TestCaseError> {
        let before = self.probing;
        let entry = match gate.enter(us(self.now), us(PATIENCE)) {
            Ok(entry) => entry,
            Err(at) => {
                prop_assert!(at > us(self.now), "told to come back at once");
                return Ok(());
            }
        };
        prop_assert!(self.now >= self.until, "before the largest deadline");
        prop_assert_eq!(entry.is_probe(), !self.is_open);
        if let Some(probe) = entry.probe() {
            let is_due = before.is_none_or(|(_, at)| self.now >= at + PATIENCE);
            prop_assert!(is_due, "two probes within the patience of one");
            let same = self.probes.iter().any(|(other, ..)| *other == probe);
            prop_assert!(!same, "two probes under way are the same");
            self.probed += 1;
            self.probes.push((probe, self.ended.len(), self.probed));
            self.probing = Some((self.probed, self.now));
        }
        self.entries.push((entry, self.ended.len()));
        Ok(())
    }
}

// The window.

#[derive(Debug, Clone)]
enum WindowStep {
    Take(Take, u32),
    TakeTurn(Take, u32),
    /// The end of a submission, by its number among those under way.
    EndAttempt(usize),
    Undo(usize),
    Land,
    Limit(u32),
    Waiters(bool),
}

fn take() -> impl Strategy<Value = Take> {
    prop_oneof![Just(Take::SlotAndFlight), Just(Take::Slot)]
}

fn window_step() -> impl Strategy<Value = WindowStep> {
    prop_oneof![
        4 => (take(), 0_u32..8).prop_map(|(take, slots)| WindowStep::Take(take, slots)),
        2 => (take(), 0_u32..8).prop_map(|(take, slots)| WindowStep::TakeTurn(take, slots)),
        2 => any::<usize>().prop_map(WindowStep::EndAttempt),
        1 => any::<usize>().prop_map(WindowStep::Undo),
        2 => Just(WindowStep::Land),
        1 => (0_u32..10).prop_map(WindowStep::Limit),
        1 => any::<bool>().prop_map(WindowStep::Waiters),
    ]
}

struct WindowModel {
    attempts: Vec<Take>,
    flights: usize,
    limit: usize,
    has_waiters: bool,
}

impl WindowModel {
    fn take(&mut self, take: Take, slots: u32) -> bool {
        let has_room = take == Take::Slot || self.flights < self.limit;
        let goes = has_room && self.attempts.len() < slots as usize;
        if goes {
            self.attempts.push(take);
            self.flights += usize::from(take == Take::SlotAndFlight);
        }
        goes
    }

    fn end(&mut self, number: usize) -> Option<Take> {
        let at = number.checked_rem(self.attempts.len())?;
        Some(self.attempts.swap_remove(at))
    }

    /// Flights that are not being submitted.
    fn landable(&self) -> usize {
        let submitted = self.attempts.iter();
        self.flights
            - submitted
                .filter(|take| **take == Take::SlotAndFlight)
                .count()
    }

    fn step(&mut self, window: &ConcurrencyWindow, step: &WindowStep) -> Result<(), TestCaseError> {
        match *step {
            WindowStep::Take(take, slots) => {
                let expected = !self.has_waiters && self.take(take, slots);
                prop_assert_eq!(window.take(take, slots).is_ok(), expected);
            }
            WindowStep::TakeTurn(take, slots) => {
                let expected = self.take(take, slots);
                prop_assert_eq!(window.take_turn(take, slots).is_ok(), expected);
            }
            WindowStep::EndAttempt(number) => {
                if self.end(number).is_some() {
                    window.end_attempt();
                }
            }
            WindowStep::Undo(number) => {
                if let Some(take) = self.end(number) {
                    self.flights -= usize::from(take == Take::SlotAndFlight);
                    window.undo(take);
                }
            }
            WindowStep::Land => {
                if self.landable() > 0 {
                    self.flights -= 1;
                    window.land();
                }
            }
            WindowStep::Limit(limit) => {
                self.limit = limit.max(1) as usize;
                window.set_limit(limit);
            }
            WindowStep::Waiters(waiting) => {
                self.has_waiters = waiting;
                window.set_waiters(waiting);
            }
        }
        let view = window.view();
        prop_assert_eq!(view.in_flight as usize, self.flights);
        prop_assert_eq!(view.unanswered as usize, self.attempts.len());
        prop_assert_eq!(view.limit as usize, self.limit);
        prop_assert_eq!(view.has_waiters, self.has_waiters);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_entry_is_before_the_largest_deadline_and_probes_go_one_by_one(
        steps in prop::collection::vec(gate_step(), 1..120),
    ) {
        let gate = BackoffGate::new();
        let mut model = GateModel { is_open: true, ..GateModel::default() };
        for step in &steps {
            model.step(&gate, step)?;
        }
    }

    #[test]
    fn the_window_keeps_count_of_all_that_is_under_way(
        limit in 1_u32..8,
        steps in prop::collection::vec(window_step(), 1..150),
    ) {
        let window = ConcurrencyWindow::new(limit);
        let mut model = WindowModel {
            attempts: Vec::new(),
            flights: 0,
            limit: limit as usize,
            has_waiters: false,
        };
        for step in &steps {
            model.step(&window, step)?;
        }
    }

    #[test]
    fn the_retry_budget_is_a_number_between_zero_and_its_capacity(
        capacity in 0_u64..60,
        steps in prop::collection::vec(0_u8..6, 1..150),
    ) {
        let budget = RetryBudget::new(capacity);
        let mut tokens = capacity;
        for step in steps {
            let failure = match step {
                0 => Failure::Refused,
                1 => Failure::Fault,
                2 => Failure::Timeout,
                _ => {
                    budget.credit();
                    tokens = capacity.min(tokens + 1);
                    continue;
                }
            };
            let cost = match failure {
                Failure::Refused => 0,
                Failure::Fault => 5,
                Failure::Timeout => 10,
            };
            let expected = if cost <= tokens { Drawn::Granted } else { Drawn::Empty };
            prop_assert_eq!(budget.draw(failure), expected);
            if expected == Drawn::Granted {
                tokens -= cost;
            }
            prop_assert_eq!(budget.tokens(), tokens);
        }
    }

    /// A bucket of tokens, counted in nanoseconds: it is full at the start and fills by one in each.
    #[test]
    fn the_rate_is_that_of_a_bucket_of_tokens(
        interval in 1_u64..50,
        burst in 1_u32..6,
        steps in prop::collection::vec((0_u64..80, 0_u32..8, any::<bool>()), 1..150),
    ) {
        let limit = Gcra::new(Rate { interval: Duration::from_nanos(interval), burst });
        let size = interval * u64::from(burst);
        let (mut now, mut bucket) = (0_u64, size);
        for (wait, units, is_taken_back) in steps {
            now += wait;
            bucket = size.min(bucket + wait);
            let cost = interval * u64::from(units);
            let expected = if units > burst {
                Err(Refusal::Never)
            } else if cost > bucket {
                Err(Refusal::NotUntil(Duration::from_nanos(now + cost - bucket)))
            } else {
                Ok(())
            };
            prop_assert_eq!(limit.take(units, Duration::from_nanos(now)), expected);
            if expected.is_ok() {
                if is_taken_back {
                    limit.undo(units);
                } else {
                    bucket -= cost;
                }
            }
        }
    }
}
