//! Each primitive against a plain model of it: any sequence of calls gives the same answers.
#![cfg(not(tinkers_loom))]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tinkers_limits::{
    BackoffGate, Blocked, Bounds, ConcurrencyWindow, Constraints, Demand, Drawn, Ending, Entry,
    Epoch, Failure, Gcra, Rate, Refusal, RetryBudget, Take, Ticket,
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
    /// The end of a probe, by its number among all that went.
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
    probed_at: Option<u64>,
    is_open: bool,
}

fn pick<T: Copy>(from: &[T], number: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[number % from.len()])
}

impl GateModel {
    fn probe(&self, number: usize) -> Option<Epoch> {
        let probes = self.entries.iter().filter(|(entry, _)| entry.is_probe());
        let probes: Vec<Epoch> = probes.map(|(entry, _)| entry.epoch()).collect();
        pick(&probes, number)
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
                self.probed_at = None;
            }
            GateStep::Reopen(number) => {
                if let Some(epoch) = self.probe(number)
                    && gate.reopen(epoch)
                {
                    prop_assert!(self.probed_at.take().is_some(), "without a probe");
                    self.is_open = true;
                }
            }
            GateStep::Defer(number, hint) => {
                if let Some(epoch) = self.probe(number)
                    && gate.defer(us(self.now + hint), epoch)
                {
                    prop_assert!(self.probed_at.take().is_some(), "without a probe");
                }
            }
            GateStep::PassOn(number) => {
                if let Some(epoch) = self.probe(number)
                    && gate.pass_on(us(self.now), epoch)
                {
                    prop_assert!(self.probed_at.take().is_some(), "without a probe");
                }
            }
        }
        prop_assert_eq!(gate.open().is_some(), self.is_open);
        Ok(())
    }

    fn enter(&mut self, gate: &BackoffGate) -> Result<(), TestCaseError> {
        let before = self.probed_at;
        let entry = match gate.enter(us(self.now), us(PATIENCE)) {
            Ok(entry) => entry,
            Err(at) => {
                prop_assert!(at > us(self.now), "told to come back at once");
                return Ok(());
            }
        };
        prop_assert!(self.now >= self.until, "before the largest deadline");
        prop_assert_eq!(entry.is_probe(), !self.is_open);
        if entry.is_probe() {
            let is_due = before.is_none_or(|at| self.now >= at + PATIENCE);
            prop_assert!(is_due, "two probes within the patience of one");
            self.probed_at = Some(self.now);
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

// The constraints together.

#[derive(Debug, Clone)]
enum LimitStep {
    Wait(u64),
    Take(Take, u64),
    TakeTurn(Take, u64),
    Settle(usize, Ended),
    Undo(usize),
    Land,
    Resize(u32, u64),
    Limit(u32),
}

#[derive(Debug, Clone, Copy)]
enum Ended {
    Accepted,
    Refused(u64),
    Answered,
    Unanswered(u64),
    Dropped,
}

fn limit_step() -> impl Strategy<Value = LimitStep> {
    let ended = prop_oneof![
        4 => Just(Ended::Accepted),
        1 => (0_u64..100).prop_map(Ended::Refused),
        1 => Just(Ended::Answered),
        1 => (0_u64..100).prop_map(Ended::Unanswered),
        1 => Just(Ended::Dropped),
    ];
    prop_oneof![
        2 => (0_u64..60).prop_map(LimitStep::Wait),
        4 => (take(), 0_u64..80).prop_map(|(take, bytes)| LimitStep::Take(take, bytes)),
        4 => (take(), 0_u64..80).prop_map(|(take, bytes)| LimitStep::TakeTurn(take, bytes)),
        4 => (any::<usize>(), ended).prop_map(|(of, ended)| LimitStep::Settle(of, ended)),
        1 => any::<usize>().prop_map(LimitStep::Undo),
        2 => Just(LimitStep::Land),
        1 => (0_u32..6, 0_u64..200).prop_map(|(slots, bytes)| LimitStep::Resize(slots, bytes)),
        1 => (0_u32..8).prop_map(LimitStep::Limit),
    ]
}

fn is_flight(ticket: &Ticket) -> bool {
    ticket.demand().take == Take::SlotAndFlight
}

struct Holder {
    constraints: Constraints,
    tickets: Vec<Ticket>,
    flights: u32,
    now: u64,
}

impl Holder {
    fn step(&mut self, step: &LimitStep) {
        match *step {
            LimitStep::Wait(time) => self.now += time,
            LimitStep::Take(take, bytes) => {
                let now = us(self.now);
                let taken = self.constraints.take(Demand { take, bytes }, || now);
                self.keep(taken);
            }
            LimitStep::TakeTurn(take, bytes) => {
                let demand = Demand { take, bytes };
                let taken = self
                    .constraints
                    .take_turn(demand, us(self.now), us(PATIENCE));
                self.keep(taken);
            }
            LimitStep::Settle(number, ended) => self.settle(number, ended),
            LimitStep::Undo(number) => {
                if let Some(at) = number.checked_rem(self.tickets.len()) {
                    let ticket = self.tickets.swap_remove(at);
                    self.constraints.undo(ticket, us(self.now));
                }
            }
            LimitStep::Land => self.land(),
            LimitStep::Resize(slots, bytes) => self.constraints.resize(Bounds {
                slots,
                bytes,
                ..BOUNDS
            }),
            LimitStep::Limit(limit) => {
                self.constraints.window().set_limit(limit);
            }
        }
    }

    fn keep(&mut self, taken: Result<Ticket, Blocked>) {
        self.tickets.extend(taken);
    }

    fn settle(&mut self, number: usize, ended: Ended) {
        let Some(at) = number.checked_rem(self.tickets.len()) else {
            return;
        };
        let ticket = self.tickets.swap_remove(at);
        let ending = match ended {
            Ended::Accepted => Ending::Accepted,
            Ended::Refused(hint) => Ending::Refused {
                until: us(self.now + hint),
            },
            Ended::Answered => Ending::Answered,
            Ended::Unanswered(pause) => Ending::Unanswered {
                until: us(self.now + pause),
            },
            Ended::Dropped => Ending::Dropped,
        };
        self.constraints.settle(ticket, ending, us(self.now), || 10);
        self.flights += u32::from(is_flight(&ticket));
    }

    fn land(&mut self) {
        if self.flights > 0 {
            self.flights -= 1;
            self.constraints.land();
        }
    }

    /// In flight, unanswered, bytes: what is held, as far as its holder knows.
    fn held(&self) -> (u32, u32, u64) {
        let submitted = self.tickets.iter().filter(|ticket| is_flight(ticket));
        (
            submitted.count() as u32 + self.flights,
            self.tickets.len() as u32,
            self.tickets
                .iter()
                .map(|ticket| ticket.demand().bytes)
                .sum(),
        )
    }

    fn taken(&self) -> (u32, u32, u64) {
        let view = self.constraints.window().view();
        (
            view.in_flight,
            view.unanswered,
            self.constraints.bytes().taken(),
        )
    }
}

const BOUNDS: Bounds = Bounds {
    slots: 4,
    bytes: 100,
    flights: 6,
    rate: Some(Rate {
        interval: Duration::from_micros(20),
        burst: 3,
    }),
};

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

    #[test]
    fn what_was_taken_comes_back_whatever_became_of_it(
        steps in prop::collection::vec(limit_step(), 1..150),
    ) {
        let mut holder = Holder {
            constraints: Constraints::new(BOUNDS),
            tickets: Vec::new(),
            flights: 0,
            now: 0,
        };
        for step in &steps {
            holder.step(step);
            prop_assert_eq!(holder.taken(), holder.held());
        }
        while !holder.tickets.is_empty() {
            holder.settle(0, Ended::Dropped);
        }
        while holder.flights > 0 {
            holder.land();
        }
        prop_assert_eq!(holder.taken(), (0, 0, 0));
    }
}
