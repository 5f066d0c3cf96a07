//! The clients of the simulation: the real limits, and two that do without a part of them.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkers_limits::{AdaptiveLimit, Blocked, Bounds, Constraints, Cost, Ending, Take, Ticket};

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The limits as they are.
    Learns,
    /// A gate with probe and ramp, and a window that stays as it is at the start.
    FixedWindow,
    /// The same with a window of so many: it knows what the server takes.
    Knows(u32),
    /// A window that learns, and a gate that opens for all at its deadline: no probe, no ramp and no slow start.
    OpensForAll,
}

/// What became of a wish to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admit {
    /// It is on its way.
    Goes {
        /// Congestion events that its client knew of.
        events: u64,
    },
    /// It may go then.
    NotUntil(Duration),
    /// It may when something is over.
    Full,
}

/// One process.
pub(crate) struct Client {
    policy: Policy,
    constraints: Constraints,
    growth: AdaptiveLimit,
    tickets: BTreeMap<u64, Ticket>,
    events: u64,
    /// Whether anybody wants to send and may not.
    waits: bool,
    /// Of the client that opens for all.
    until: Duration,
}

const SLOTS: u32 = 400;
const FLIGHTS: u32 = 2_000;
const PATIENCE: Duration = Duration::from_secs(1);
const DEMAND: Cost = Cost {
    take: Take::SlotAndFlight,
    bytes: 1,
};

impl Client {
    pub(crate) fn new(policy: Policy) -> Self {
        let constraints = Constraints::new(Bounds {
            slots: SLOTS,
            bytes: u64::MAX,
            flights: match policy {
                Policy::Knows(window) => window,
                _ => FLIGHTS,
            },
            rate: None,
            start: tinkers_limits::Start::Slow,
        });
        if policy == Policy::OpensForAll {
            end_slow_start(&constraints);
        }
        Self {
            policy,
            constraints,
            growth: AdaptiveLimit::new(1, FLIGHTS),
            tickets: BTreeMap::new(),
            events: 0,
            waits: false,
            until: Duration::ZERO,
        }
    }

    /// Submitted or accepted, and not finished.
    pub(crate) fn in_flight(&self) -> u64 {
        self.constraints.window().view().in_flight.into()
    }

    /// All that there is to send has gone.
    pub(crate) fn nobody_waits(&mut self) {
        self.waits = false;
    }

    pub(crate) fn admit(&mut self, id: u64, now: Duration) -> Admit {
        self.waits = true;
        loop {
            let blocked = match self.take(now) {
                Ok(ticket) => {
                    self.tickets.insert(id, ticket);
                    let events = self.events;
                    return Admit::Goes { events };
                }
                Err(blocked) => blocked,
            };
            match blocked {
                Blocked::NotUntil(at) => {
                    self.growth.held_back(now);
                    return Admit::NotUntil(at);
                }
                Blocked::WindowFull if self.has_grown(now) => {}
                Blocked::WindowFull | Blocked::Full => return Admit::Full,
            }
        }
    }

    fn take(&self, now: Duration) -> Result<Ticket, Blocked> {
        if self.policy != Policy::OpensForAll {
            return self.constraints.take_turn(DEMAND, now, PATIENCE);
        }
        if now < self.until {
            return Err(Blocked::NotUntil(self.until));
        }
        self.constraints.take(DEMAND, || now)
    }

    fn has_grown(&mut self, now: Duration) -> bool {
        let view = self.constraints.window().view();
        self.learns()
            && view.in_flight >= view.limit
            && self.constraints.try_more(&mut self.growth, now).is_some()
    }

    pub(crate) fn accepted(&mut self, id: u64, now: Duration) {
        self.settle(id, Ending::Accepted, now);
    }

    /// Until when the gate is closed by it.
    pub(crate) fn refused(&mut self, id: u64, until: Duration, now: Duration) -> Duration {
        let until = self.settle(id, Ending::Refused { until }, now);
        self.constraints.land();
        until
    }

    pub(crate) fn finished(&self) {
        self.constraints.land();
    }

    fn settle(&mut self, id: u64, ending: Ending, now: Duration) -> Duration {
        let ticket = self.tickets.remove(&id).expect("sent once");
        let level = self.growth.level().unwrap_or(u32::MAX);
        let settled = self.constraints.settle(ticket, ending, now, || level);
        let closed = settled.closed;
        self.events += u64::from(closed.is_some_and(|closed| closed.first_of_its_event));
        let matters = closed.is_some() || ticket.is_probe() || self.waits;
        if self.learns() && matters {
            let growth = &mut self.growth;
            self.constraints
                .learn(growth, ticket, &settled, ending, now);
        }
        let until = closed.map_or(now, |closed| closed.until);
        if self.policy == Policy::OpensForAll {
            self.until = self.until.max(until);
            self.forget_the_gate();
        }
        until
    }

    fn learns(&self) -> bool {
        self.policy != Policy::FixedWindow && !matches!(self.policy, Policy::Knows(_))
    }

    /// Opens the gate behind the deadline that this client keeps itself.
    fn forget_the_gate(&mut self) {
        let gate = self.constraints.gate();
        if gate.enter(self.until, PATIENCE).is_ok() && gate.reopen(gate.epoch()) {
            let in_flight = self.constraints.window().view().in_flight;
            self.growth.reopened(in_flight);
        }
    }
}

fn end_slow_start(constraints: &Constraints) {
    while constraints.slots() < SLOTS {
        let ticket = constraints
            .take(DEMAND, || Duration::ZERO)
            .expect("nobody else is there");
        constraints.settle(ticket, Ending::Accepted, Duration::ZERO, || SLOTS);
        constraints.land();
    }
}
