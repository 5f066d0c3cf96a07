//! Tests of the combined limits: a request is charged to all of them or to none, and released in a fixed order.

use super::*;
use crate::gate::GateState;
use std::cell::Cell;

const PATIENCE: Duration = Duration::from_secs(1);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn bounds() -> Bounds {
    Bounds {
        slots: 100,
        bytes: 1_000,
        max_in_flight: 50,
        rate: None,
        start: InitialLimit::Slow,
    }
}

fn charge(bytes: u64) -> Charge {
    Charge {
        take: SlotRequest::SlotAndInFlight,
        bytes,
    }
}

/// Returns the amounts that are taken from the limits: requests in flight, submissions without a response, and charged bytes.
fn held(constraints: &Constraints) -> (u32, u32, u64) {
    let view = constraints.window().view();
    (view.in_flight, view.unanswered, constraints.bytes().taken())
}

fn settle(constraints: &Constraints, ticket: Ticket, outcome: TicketOutcome) -> SettleEffects {
    constraints.settle(ticket, outcome, ms(0), || 20)
}

#[test]
fn admitted_request_takes_units_of_all_limits() {
    let constraints = Constraints::new(bounds());
    let ticket = constraints.take(charge(10), || ms(0)).unwrap();
    assert_eq!(held(&constraints), (1, 1, 10));
    let settled = settle(&constraints, ticket, TicketOutcome::Accepted);
    assert_eq!((settled.view.accepted(), settled.closed), (1, None));
    assert_eq!(held(&constraints), (1, 0, 0));
    constraints.release();
    assert_eq!(held(&constraints), (0, 0, 0));
}

#[test]
fn no_units_are_taken_if_the_byte_budget_refuses_a_request() {
    let constraints = Constraints::new(bounds());
    let ticket = constraints.take(charge(5_000), || ms(0)).unwrap();
    for _ in 0..2 {
        assert_eq!(constraints.take(charge(1), || ms(0)), Err(Blocked::Full));
        let turn = constraints.take_queued(charge(1), ms(0), PATIENCE);
        assert_eq!(turn, Err(Blocked::Full));
    }
    assert_eq!(held(&constraints), (1, 1, 5_000));
    constraints.undo(ticket, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
}

#[test]
fn no_units_are_taken_if_the_rate_limit_refuses_a_request() {
    let rate = Some(Rate {
        interval: ms(100),
        burst: 1,
    });
    let constraints = Constraints::new(Bounds { rate, ..bounds() });
    let first = constraints.take(charge(1), || ms(0)).unwrap();
    let refused = Err(Blocked::NotUntil(ms(100)));
    assert_eq!(constraints.take(charge(1), || ms(0)), refused);
    assert_eq!(constraints.take_queued(charge(1), ms(0), PATIENCE), refused);
    assert_eq!(held(&constraints), (1, 1, 1));
    constraints.undo(first, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
    assert!(constraints.take(charge(1), || ms(100)).is_ok());
}

#[test]
fn no_units_are_taken_if_the_gate_refuses_a_request() {
    let rate = Some(Rate {
        interval: ms(100_000),
        burst: 1,
    });
    let constraints = Constraints::new(Bounds { rate, ..bounds() });
    let gate = constraints.gate();
    gate.close(ms(10), gate.epoch());
    assert_eq!(constraints.take(charge(1), || ms(0)), Err(Blocked::Full));
    let early = constraints.take_queued(charge(1), ms(0), PATIENCE);
    assert_eq!(early, Err(Blocked::NotUntil(ms(10))));
    assert_eq!(held(&constraints), (0, 0, 0));
    let first_request = constraints
        .take_queued(charge(1), ms(10), PATIENCE)
        .unwrap();
    assert!(first_request.is_first_request());
}

#[test]
fn gate_is_read_after_all_other_limits_were_charged() {
    let rate = Some(Rate {
        interval: ms(1),
        burst: 10,
    });
    let constraints = Constraints::new(Bounds { rate, ..bounds() });
    // The rate limit reads the clock after window and bytes are charged. The gate closes at that time, which must still be seen.
    let closes = || {
        assert_eq!(held(&constraints), (1, 1, 1));
        constraints.gate().close(ms(10), constraints.gate().epoch());
        ms(0)
    };
    assert_eq!(constraints.take(charge(1), closes), Err(Blocked::Full));
    assert_eq!(held(&constraints), (0, 0, 0));
}

#[test]
fn clock_is_not_read_without_a_rate_limit() {
    let constraints = Constraints::new(bounds());
    let never = || unreachable!("the clock is not needed");
    assert!(constraints.take(charge(1), never).is_ok());
}

#[test]
fn window_full_is_reported_for_a_full_window_or_waiting_requests() {
    let constraints = Constraints::new(Bounds {
        max_in_flight: 1,
        ..bounds()
    });
    let ticket = constraints.take(charge(1), || ms(0)).unwrap();
    let full = Err(Blocked::WindowFull);
    assert_eq!(constraints.take(charge(1), || ms(0)), full);
    assert_eq!(constraints.take_queued(charge(1), ms(0), PATIENCE), full);
    constraints.undo(ticket, ms(0));
    constraints.window().set_waiters(true);
    assert_eq!(constraints.take(charge(1), || ms(0)), full);
    assert!(constraints.take_queued(charge(1), ms(0), PATIENCE).is_ok());
}

#[test]
fn gradual_increase_restarts_before_the_gate_opens() {
    let constraints = Constraints::new(bounds());
    let first = constraints.take(charge(1), || ms(0)).unwrap();
    let until = ms(10);
    let settled = settle(&constraints, first, TicketOutcome::Refused { until });
    constraints.release();
    let closed = settled.closed.unwrap();
    assert_eq!((closed.until, closed.is_new_event), (until, true));
    let first_request = constraints.take_queued(charge(1), until, PATIENCE).unwrap();
    let was_open = Cell::new(true);
    let settled = constraints.settle(first_request, TicketOutcome::Accepted, until, || {
        was_open.set(constraints.gate().open().is_some());
        20
    });
    assert!(settled.reopened && !was_open.get());
    assert!(constraints.gate().open().is_some());
    assert_eq!(constraints.slots(), Ramp::MIN_UNANSWERED);
    // The end of an attempt that is not the first request neither restarts the ramp nor opens the gate.
    let other = constraints.take(charge(1), || until).unwrap();
    let unused = || unreachable!("no first request");
    let settled = constraints.settle(other, TicketOutcome::Answered, until, unused);
    assert!(!settled.reopened && !settled.first_request_handed_over);
}

#[test]
fn each_outcome_of_the_first_request_opens_or_closes_the_gate() {
    let ends = [
        (TicketOutcome::Accepted, GateState::Open),
        (TicketOutcome::Answered, GateState::Open),
        (
            TicketOutcome::Refused { until: ms(90) },
            GateState::ClosedUntil(ms(90)),
        ),
        (
            TicketOutcome::Unanswered { until: ms(70) },
            GateState::ClosedUntil(ms(70)),
        ),
        (TicketOutcome::Dropped, GateState::ClosedUntil(ms(20))),
    ];
    for (outcome, state) in ends {
        let constraints = Constraints::new(bounds());
        let gate = constraints.gate();
        gate.close(ms(10), gate.epoch());
        let first_request = constraints
            .take_queued(charge(1), ms(10), PATIENCE)
            .unwrap();
        let settled = constraints.settle(first_request, outcome, ms(20), || 20);
        assert_eq!(gate.state(), state, "{outcome:?}");
        assert_eq!(
            settled.first_request_handed_over,
            outcome == TicketOutcome::Dropped
        );
        constraints.release();
        assert_eq!(held(&constraints), (0, 0, 0));
    }
}

#[test]
fn response_to_a_request_from_before_the_pause_does_not_open_the_gate() {
    for outcome in [
        TicketOutcome::Accepted,
        TicketOutcome::Answered,
        TicketOutcome::Unanswered { until: ms(70) },
        TicketOutcome::Dropped,
    ] {
        let constraints = Constraints::new(bounds());
        let straggler = constraints.take(charge(1), || ms(0)).unwrap();
        let gate = constraints.gate();
        gate.close(ms(10), gate.epoch());
        settle(&constraints, straggler, outcome);
        assert_eq!(gate.state(), GateState::ClosedUntil(ms(10)), "{outcome:?}");
    }
}

#[test]
fn refusal_sets_the_learned_limit_of_the_window() {
    let constraints = Constraints::new(bounds());
    let mut limit = AdaptiveLimit::new(1, 50);
    let tickets = [(); 4].map(|()| constraints.take(charge(1), || ms(0)).unwrap());
    let mut changes = Vec::new();
    for (index, ticket) in tickets.into_iter().enumerate() {
        let outcome = match index {
            0 | 1 => TicketOutcome::Accepted,
            _ => TicketOutcome::Refused { until: ms(500) },
        };
        let settled = settle(&constraints, ticket, outcome);
        changes.push(constraints.learn(&mut limit, ticket, &settled, outcome, ms(0)));
        if settled.closed.is_some() {
            constraints.release();
        }
    }
    assert_eq!(changes, [None, None, Some(LimitChange::Learned), None]);
    assert_eq!(constraints.window().view().limit, 2);
    assert_eq!(constraints.probe_limit(&mut limit, ms(100)), None);
}

#[test]
fn late_response_of_an_accepted_request_corrects_the_learned_limit() {
    let constraints = Constraints::new(bounds());
    let mut limit = AdaptiveLimit::new(1, 50);
    let tickets = [(); 3].map(|()| constraints.take(charge(1), || ms(0)).unwrap());
    let until = ms(500);
    let outcomes = [
        TicketOutcome::Accepted,
        TicketOutcome::Refused { until },
        TicketOutcome::Accepted,
    ];
    let mut changes = Vec::new();
    for (ticket, outcome) in tickets.into_iter().zip(outcomes) {
        let settled = settle(&constraints, ticket, outcome);
        changes.push(constraints.learn(&mut limit, ticket, &settled, outcome, ms(0)));
        if settled.closed.is_some() {
            constraints.release();
        }
    }
    assert_eq!(
        changes,
        [
            None,
            Some(LimitChange::Learned),
            Some(LimitChange::Corrected)
        ]
    );
    assert_eq!(constraints.window().view().limit, 2);
}

#[test]
fn refusal_recorded_after_reopening_does_not_block_limit_probes() {
    let constraints = Constraints::new(bounds());
    let mut limit = AdaptiveLimit::new(1, 50);
    let accepted = constraints.take(charge(1), || ms(0)).unwrap();
    settle(&constraints, accepted, TicketOutcome::Accepted);
    let refused = constraints.take(charge(1), || ms(0)).unwrap();
    let until = ms(200);
    let late = settle(&constraints, refused, TicketOutcome::Refused { until });
    constraints.release();
    let first_request = constraints.take_queued(charge(1), until, PATIENCE).unwrap();
    let settled = constraints.settle(first_request, TicketOutcome::Accepted, until, || 20);
    constraints.learn(
        &mut limit,
        first_request,
        &settled,
        TicketOutcome::Accepted,
        until,
    );
    // The thread that records this refusal was delayed.
    constraints.learn(
        &mut limit,
        refused,
        &late,
        TicketOutcome::Refused { until },
        ms(0),
    );
    for _ in 0..30 {
        limit.on_accepted(1, false);
    }
    assert_eq!(
        constraints.probe_limit(&mut limit, ms(1_000)),
        None,
        "the interval has not passed"
    );
    let change = constraints.probe_limit(&mut limit, ms(100_000));
    assert_eq!(change, Some(LimitChange::ProbeStarted));
}

#[test]
fn changed_limits_apply_immediately() {
    let constraints = Constraints::new(bounds());
    let ticket = constraints.take(charge(10), || ms(0)).unwrap();
    constraints.resize(Bounds {
        slots: 1,
        bytes: 5,
        ..bounds()
    });
    assert_eq!(constraints.slots(), 1);
    assert_eq!(
        constraints.take(charge(1), || ms(0)),
        Err(Blocked::WindowFull)
    );
    constraints.undo(ticket, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
    assert!(constraints.take(charge(1), || ms(0)).is_ok());
}

#[test]
fn ticket_stores_the_taken_units_and_the_admission_without_loss() {
    let epoch = Epoch(u16::MAX);
    // The maximum time uses all bits of its part of the word.
    let last = u64::MAX >> 18;
    let entries = [
        GatePass::Open(Epoch(0)),
        GatePass::Open(epoch),
        GatePass::First(FirstRequest { epoch, since: 0 }),
        GatePass::First(FirstRequest { epoch, since: last }),
    ];
    for pass in entries {
        for take in [SlotRequest::Slot, SlotRequest::SlotAndInFlight] {
            let bytes = u64::MAX;
            let charge = Charge { take, bytes };
            let ticket = Ticket::new(charge, pass);
            assert_eq!((ticket.charge(), ticket.pass()), (charge, pass));
        }
    }
}

#[test]
fn only_accepted_requests_raise_the_limit_of_the_slow_start() {
    for (outcome, allowed) in [
        (TicketOutcome::Answered, 8),
        (TicketOutcome::Dropped, 8),
        (TicketOutcome::Accepted, 9),
    ] {
        let constraints = Constraints::new(bounds());
        for _ in 0..36 {
            let ticket = constraints.take(charge(1), || ms(0)).unwrap();
            settle(&constraints, ticket, outcome);
            constraints.release();
        }
        assert_eq!(constraints.slots(), allowed, "{outcome:?}");
    }
}

#[test]
fn requests_pending_for_a_while_raise_the_slow_start_limit() {
    let constraints = Constraints::new(bounds());
    assert!(
        !constraints.presume_accepted(),
        "no submission is without a response"
    );
    for _ in 0..8 {
        constraints.take(charge(1), || ms(0)).unwrap();
    }
    // The limit is a quarter of 8, 16, 24, 32 and 40, but at least 8.
    let allows_more = [(); 5].map(|()| constraints.presume_accepted());
    assert_eq!(allows_more, [false, false, false, false, true]);
    assert_eq!(constraints.slots(), 10);
    assert!(!constraints.has_no_ramp());
    for _ in 0..45 {
        constraints.presume_accepted();
    }
    assert!(constraints.has_no_ramp());
    assert_eq!(constraints.slots(), 100);
}

#[test]
fn request_made_inside_another_may_exceed_the_limits() {
    let constraints = Constraints::new(Bounds {
        slots: 1,
        max_in_flight: 1,
        bytes: 1,
        ..bounds()
    });
    let outer = constraints.take(charge(1), || ms(0)).unwrap();
    let nested = constraints.take_nested().expect("the gate is open");
    assert!(constraints.may_leave(&outer) && constraints.may_leave(&nested));
    assert_eq!(held(&constraints), (1, 2, 1));
    settle(
        &constraints,
        nested,
        TicketOutcome::Refused { until: ms(5) },
    );
    assert!(!constraints.may_leave(&outer) && !constraints.may_leave(&nested));
    assert!(constraints.take_nested().is_none());
    assert_eq!(held(&constraints), (1, 1, 1));
    constraints.undo(outer, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
}
