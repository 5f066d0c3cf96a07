//! The clients of the simulation: the real limits, and clients for comparison that lack a part of them.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkers_limits::{
    AdaptiveLimit, Blocked, Bounds, Charge, Constraints, SlotRequest, Ticket, TicketOutcome,
};

/// The kind of a simulated client: the real limiter, or one for comparison that lacks a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// A client with the real limiter: the gate, the gradual increase after a rate-limit pause, and the in-flight limit that adapts to
    /// refusals.
    Adaptive,
    /// A client for comparison whose in-flight limit does not adapt: it stays at the value with which the real limiter starts. The gate and
    /// the gradual increase after a rate-limit pause are the real ones.
    FixedWindow,
    /// A client for comparison that knows the capacity of the server, this number, and has it as a fixed in-flight limit. The gate and the
    /// gradual increase after a rate-limit pause are the real ones.
    KnownWindow(u32),
    /// A client for comparison whose gate admits all requests again after its deadline: without first sending a single request, and without
    /// gradual increase or slow start. Its in-flight limit adapts to refusals.
    OpensAtDeadline,
}

/// The result of a client's attempt to send a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The request was sent.
    Sent {
        /// The number of congestion events (groups of concurrent refusals) that the client had observed before it sent the request.
        events: u64,
    },
    /// The request was not sent, since the gate is closed. It may be sent at this time.
    NotUntil(Duration),
    /// The request was not sent, since a limit is reached. It may be sent only after another request has ended.
    Full,
}

/// A simulated client process with its own limits.
pub(crate) struct Client {
    policy: Policy,
    constraints: Constraints,
    limit: AdaptiveLimit,
    tickets: BTreeMap<u64, Ticket>,
    events: u64,
    /// Whether a request of the client waits for admission.
    has_waiters: bool,
    /// The deadline of the gate. Only used by clients of the kind [`Policy::OpensAtDeadline`].
    until: Duration,
}

const SLOTS: u32 = 400;
const MAX_IN_FLIGHT: u32 = 2_000;
const PATIENCE: Duration = Duration::from_secs(1);
const DEMAND: Charge = Charge {
    take: SlotRequest::SlotAndInFlight,
    bytes: 1,
};

impl Client {
    pub(crate) fn new(policy: Policy) -> Self {
        let constraints = Constraints::new(Bounds {
            slots: SLOTS,
            bytes: u64::MAX,
            max_in_flight: match policy {
                Policy::KnownWindow(window) => window,
                _ => MAX_IN_FLIGHT,
            },
            rate: None,
            start: tinkers_limits::InitialLimit::Slow,
        });
        if policy == Policy::OpensAtDeadline {
            end_slow_start(&constraints);
        }
        Self {
            policy,
            constraints,
            limit: AdaptiveLimit::new(1, MAX_IN_FLIGHT),
            tickets: BTreeMap::new(),
            events: 0,
            has_waiters: false,
            until: Duration::ZERO,
        }
    }

    /// Returns the number of requests that were submitted and have not finished.
    pub(crate) fn in_flight(&self) -> u64 {
        self.constraints.window().view().in_flight.into()
    }

    /// Records that no request of the client waits to be sent any more.
    pub(crate) fn set_idle(&mut self) {
        self.has_waiters = false;
    }

    pub(crate) fn admit(&mut self, id: u64, now: Duration) -> Admission {
        self.has_waiters = true;
        loop {
            let blocked = match self.take(now) {
                Ok(ticket) => {
                    self.tickets.insert(id, ticket);
                    let events = self.events;
                    return Admission::Sent { events };
                }
                Err(blocked) => blocked,
            };
            match blocked {
                Blocked::NotUntil(at) => {
                    self.limit.on_held_back(now);
                    return Admission::NotUntil(at);
                }
                Blocked::WindowFull if self.probe_limit(now) => {}
                Blocked::WindowFull | Blocked::Full => return Admission::Full,
            }
        }
    }

    fn take(&self, now: Duration) -> Result<Ticket, Blocked> {
        if self.policy != Policy::OpensAtDeadline {
            return self.constraints.take_queued(DEMAND, now, PATIENCE);
        }
        if now < self.until {
            return Err(Blocked::NotUntil(self.until));
        }
        self.constraints.take(DEMAND, || now)
    }

    fn probe_limit(&mut self, now: Duration) -> bool {
        let view = self.constraints.window().view();
        self.is_adaptive()
            && view.in_flight >= view.limit
            && self.constraints.probe_limit(&mut self.limit, now).is_some()
    }

    pub(crate) fn accepted(&mut self, id: u64, now: Duration) {
        self.settle(id, TicketOutcome::Accepted, now);
    }

    /// Records that the server refused the request `id`. Returns the deadline until which the gate is closed.
    pub(crate) fn refused(&mut self, id: u64, until: Duration, now: Duration) -> Duration {
        let until = self.settle(id, TicketOutcome::Refused { until }, now);
        self.constraints.release();
        until
    }

    pub(crate) fn finished(&self) {
        self.constraints.release();
    }

    fn settle(&mut self, id: u64, ending: TicketOutcome, now: Duration) -> Duration {
        let ticket = self
            .tickets
            .remove(&id)
            .expect("each request is answered once");
        let level = self.limit.level().unwrap_or(u32::MAX);
        let settled = self.constraints.settle(ticket, ending, now, || level);
        let closed = settled.closed;
        self.events += u64::from(closed.is_some_and(|closed| closed.is_new_event));
        let is_relevant = closed.is_some() || ticket.is_first_request() || self.has_waiters;
        if self.is_adaptive() && is_relevant {
            let limit = &mut self.limit;
            self.constraints.learn(limit, ticket, &settled, ending, now);
        }
        let until = closed.map_or(now, |closed| closed.until);
        if self.policy == Policy::OpensAtDeadline {
            self.until = self.until.max(until);
            self.open_gate();
        }
        until
    }

    fn is_adaptive(&self) -> bool {
        self.policy != Policy::FixedWindow && !matches!(self.policy, Policy::KnownWindow(_))
    }

    /// Opens the gate completely. Only used for clients of the kind [`Policy::OpensAtDeadline`].
    fn open_gate(&mut self) {
        let gate = self.constraints.gate();
        if gate.enter(self.until, PATIENCE).is_ok() && gate.reopen(gate.epoch()) {
            let in_flight = self.constraints.window().view().in_flight;
            self.limit.on_reopened(in_flight);
        }
    }
}

fn end_slow_start(constraints: &Constraints) {
    while constraints.slots() < SLOTS {
        let ticket = constraints
            .take(DEMAND, || Duration::ZERO)
            .expect("no other request is in flight");
        constraints.settle(ticket, TicketOutcome::Accepted, Duration::ZERO, || SLOTS);
        constraints.release();
    }
}
