//! The constraints together: any sequence of calls gives back what it took.
#![cfg(not(tinkers_loom))]

use std::time::Duration;

use proptest::prelude::*;
use tinkers_limits::{Blocked, Bounds, Constraints, Cost, Ending, Rate, Take, Ticket};

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

const PATIENCE: u64 = 40;

fn take() -> impl Strategy<Value = Take> {
    prop_oneof![Just(Take::SlotAndFlight), Just(Take::Slot)]
}

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
                let taken = self.constraints.take(Cost { take, bytes }, || now);
                self.keep(taken);
            }
            LimitStep::TakeTurn(take, bytes) => {
                let demand = Cost { take, bytes };
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
    start: tinkers_limits::Start::Slow,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

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
