//! A property test of the combined limits: random operations release exactly what they took.
#![cfg(not(tinkers_loom))]

use std::time::Duration;

use proptest::prelude::*;
use tinkers_limits::{
    Blocked, Bounds, Charge, Constraints, Rate, SlotRequest, Ticket, TicketOutcome,
};

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

const PATIENCE: u64 = 40;

fn take() -> impl Strategy<Value = SlotRequest> {
    prop_oneof![Just(SlotRequest::SlotAndInFlight), Just(SlotRequest::Slot)]
}

#[derive(Debug, Clone)]
enum Operation {
    Wait(u64),
    Take(SlotRequest, u64),
    TakeQueued(SlotRequest, u64),
    Settle(usize, Outcome),
    Undo(usize),
    Release,
    Resize(u32, u64),
    Limit(u32),
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Accepted,
    Refused(u64),
    Answered,
    Unanswered(u64),
    Dropped,
}

fn operation() -> impl Strategy<Value = Operation> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Accepted),
        1 => (0_u64..100).prop_map(Outcome::Refused),
        1 => Just(Outcome::Answered),
        1 => (0_u64..100).prop_map(Outcome::Unanswered),
        1 => Just(Outcome::Dropped),
    ];
    prop_oneof![
        2 => (0_u64..60).prop_map(Operation::Wait),
        4 => (take(), 0_u64..80).prop_map(|(take, bytes)| Operation::Take(take, bytes)),
        4 => (take(), 0_u64..80).prop_map(|(take, bytes)| Operation::TakeQueued(take, bytes)),
        4 => (any::<usize>(), outcome).prop_map(|(of, outcome)| Operation::Settle(of, outcome)),
        1 => any::<usize>().prop_map(Operation::Undo),
        2 => Just(Operation::Release),
        1 => (0_u32..6, 0_u64..200).prop_map(|(slots, bytes)| Operation::Resize(slots, bytes)),
        1 => (0_u32..8).prop_map(Operation::Limit),
    ]
}

fn is_in_flight(ticket: &Ticket) -> bool {
    ticket.charge().take == SlotRequest::SlotAndInFlight
}

struct Owner {
    constraints: Constraints,
    tickets: Vec<Ticket>,
    in_flight: u32,
    now: u64,
}

impl Owner {
    fn operation(&mut self, operation: &Operation) {
        match *operation {
            Operation::Wait(time) => self.now += time,
            Operation::Take(take, bytes) => {
                let now = us(self.now);
                let taken = self.constraints.take(Charge { take, bytes }, || now);
                self.keep(taken);
            }
            Operation::TakeQueued(take, bytes) => {
                let charge = Charge { take, bytes };
                let taken = self
                    .constraints
                    .take_queued(charge, us(self.now), us(PATIENCE));
                self.keep(taken);
            }
            Operation::Settle(number, outcome) => self.settle(number, outcome),
            Operation::Undo(number) => {
                if let Some(at) = number.checked_rem(self.tickets.len()) {
                    let ticket = self.tickets.swap_remove(at);
                    self.constraints.undo(ticket, us(self.now));
                }
            }
            Operation::Release => self.release(),
            Operation::Resize(slots, bytes) => self.constraints.resize(Bounds {
                slots,
                bytes,
                ..BOUNDS
            }),
            Operation::Limit(limit) => {
                self.constraints.window().set_limit(limit);
            }
        }
    }

    fn keep(&mut self, taken: Result<Ticket, Blocked>) {
        self.tickets.extend(taken);
    }

    fn settle(&mut self, number: usize, outcome: Outcome) {
        let Some(at) = number.checked_rem(self.tickets.len()) else {
            return;
        };
        let ticket = self.tickets.swap_remove(at);
        let ending = match outcome {
            Outcome::Accepted => TicketOutcome::Accepted,
            Outcome::Refused(hint) => TicketOutcome::Refused {
                until: us(self.now + hint),
            },
            Outcome::Answered => TicketOutcome::Answered,
            Outcome::Unanswered(pause) => TicketOutcome::Unanswered {
                until: us(self.now + pause),
            },
            Outcome::Dropped => TicketOutcome::Dropped,
        };
        self.constraints.settle(ticket, ending, us(self.now), || 10);
        self.in_flight += u32::from(is_in_flight(&ticket));
    }

    fn release(&mut self) {
        if self.in_flight > 0 {
            self.in_flight -= 1;
            self.constraints.release();
        }
    }

    /// Returns the amounts that, according to the model, should be taken from the limits: requests in flight, submissions without a
    /// response, and charged bytes.
    fn held(&self) -> (u32, u32, u64) {
        let submitted = self.tickets.iter().filter(|ticket| is_in_flight(ticket));
        (
            submitted.count() as u32 + self.in_flight,
            self.tickets.len() as u32,
            self.tickets
                .iter()
                .map(|ticket| ticket.charge().bytes)
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
    max_in_flight: 6,
    rate: Some(Rate {
        interval: Duration::from_micros(20),
        burst: 3,
    }),
    start: tinkers_limits::InitialLimit::Slow,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_operations_release_exactly_the_units_and_bytes_they_took(
        operations in prop::collection::vec(operation(), 1..150),
    ) {
        let mut owner = Owner {
            constraints: Constraints::new(BOUNDS),
            tickets: Vec::new(),
            in_flight: 0,
            now: 0,
        };
        for operation in &operations {
            owner.operation(operation);
            prop_assert_eq!(owner.taken(), owner.held());
        }
        while !owner.tickets.is_empty() {
            owner.settle(0, Outcome::Dropped);
        }
        while owner.in_flight > 0 {
            owner.release();
        }
        prop_assert_eq!(owner.taken(), (0, 0, 0));
    }
}
