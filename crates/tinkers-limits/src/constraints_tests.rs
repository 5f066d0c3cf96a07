//! That the parts are charged together or not at all, and told of the end in the right order.

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
        flights: 50,
        rate: None,
        start: Start::Slow,
    }
}

fn demand(bytes: u64) -> Cost {
    Cost {
        take: Take::SlotAndFlight,
        bytes,
    }
}

/// In flight, unanswered, bytes.
fn held(constraints: &Constraints) -> (u32, u32, u64) {
    let view = constraints.window().view();
    (view.in_flight, view.unanswered, constraints.bytes().taken())
}

fn settle(constraints: &Constraints, ticket: Ticket, ending: Ending) -> Settled {
    constraints.settle(ticket, ending, ms(0), || 20)
}

#[test]
fn all_parts_are_charged_for_one_that_goes() {
    let constraints = Constraints::new(bounds());
    let ticket = constraints.take(demand(10), || ms(0)).unwrap();
    assert_eq!(held(&constraints), (1, 1, 10));
    let settled = settle(&constraints, ticket, Ending::Accepted);
    assert_eq!((settled.view.accepted(), settled.closed), (1, None));
    assert_eq!(held(&constraints), (1, 0, 0));
    constraints.land();
    assert_eq!(held(&constraints), (0, 0, 0));
}

#[test]
fn nothing_is_charged_when_the_bytes_refuse() {
    let constraints = Constraints::new(bounds());
    let all = constraints.take(demand(5_000), || ms(0)).unwrap();
    for _ in 0..2 {
        assert_eq!(constraints.take(demand(1), || ms(0)), Err(Blocked::Full));
        let turn = constraints.take_turn(demand(1), ms(0), PATIENCE);
        assert_eq!(turn, Err(Blocked::Full));
    }
    assert_eq!(held(&constraints), (1, 1, 5_000));
    constraints.undo(all, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
}

#[test]
fn nothing_is_charged_when_the_rate_refuses() {
    let rate = Some(Rate {
        interval: ms(100),
        burst: 1,
    });
    let constraints = Constraints::new(Bounds { rate, ..bounds() });
    let first = constraints.take(demand(1), || ms(0)).unwrap();
    let refused = Err(Blocked::NotUntil(ms(100)));
    assert_eq!(constraints.take(demand(1), || ms(0)), refused);
    assert_eq!(constraints.take_turn(demand(1), ms(0), PATIENCE), refused);
    assert_eq!(held(&constraints), (1, 1, 1));
    constraints.undo(first, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
    assert!(constraints.take(demand(1), || ms(100)).is_ok());
}

#[test]
fn nothing_is_charged_when_the_gate_refuses_not_even_the_rate() {
    let rate = Some(Rate {
        interval: ms(100_000),
        burst: 1,
    });
    let constraints = Constraints::new(Bounds { rate, ..bounds() });
    let gate = constraints.gate();
    gate.close(ms(10), gate.epoch());
    assert_eq!(constraints.take(demand(1), || ms(0)), Err(Blocked::Full));
    let early = constraints.take_turn(demand(1), ms(0), PATIENCE);
    assert_eq!(early, Err(Blocked::NotUntil(ms(10))));
    assert_eq!(held(&constraints), (0, 0, 0));
    let probe = constraints.take_turn(demand(1), ms(10), PATIENCE).unwrap();
    assert!(probe.is_probe());
}

#[test]
fn the_gate_is_read_last() {
    let rate = Some(Rate {
        interval: ms(1),
        burst: 10,
    });
    let constraints = Constraints::new(Bounds { rate, ..bounds() });
    // The clock is read for the rate, when window and bytes are taken: a gate that closes then is still seen.
    let closes = || {
        assert_eq!(held(&constraints), (1, 1, 1));
        constraints.gate().close(ms(10), constraints.gate().epoch());
        ms(0)
    };
    assert_eq!(constraints.take(demand(1), closes), Err(Blocked::Full));
    assert_eq!(held(&constraints), (0, 0, 0));
}

#[test]
fn the_clock_is_not_read_without_a_rate() {
    let constraints = Constraints::new(bounds());
    let never = || unreachable!("nobody needs the time");
    assert!(constraints.take(demand(1), never).is_ok());
}

#[test]
fn a_full_window_or_those_who_wait_are_told_apart_from_the_rest() {
    let constraints = Constraints::new(Bounds {
        flights: 1,
        ..bounds()
    });
    let ticket = constraints.take(demand(1), || ms(0)).unwrap();
    let full = Err(Blocked::WindowFull);
    assert_eq!(constraints.take(demand(1), || ms(0)), full);
    assert_eq!(constraints.take_turn(demand(1), ms(0), PATIENCE), full);
    constraints.undo(ticket, ms(0));
    constraints.window().set_waiters(true);
    assert_eq!(constraints.take(demand(1), || ms(0)), full);
    assert!(constraints.take_turn(demand(1), ms(0), PATIENCE).is_ok());
}

#[test]
fn the_ramp_is_there_before_the_gate_opens_and_asked_for_its_level_only_then() {
    let constraints = Constraints::new(bounds());
    let first = constraints.take(demand(1), || ms(0)).unwrap();
    let until = ms(10);
    let settled = settle(&constraints, first, Ending::Refused { until });
    constraints.land();
    let closed = settled.closed.unwrap();
    assert_eq!((closed.until, closed.first_of_its_event), (until, true));
    let probe = constraints.take_turn(demand(1), until, PATIENCE).unwrap();
    let was_open = Cell::new(true);
    let settled = constraints.settle(probe, Ending::Accepted, until, || {
        was_open.set(constraints.gate().open().is_some());
        20
    });
    assert!(settled.reopened && !was_open.get());
    assert!(constraints.gate().open().is_some());
    assert_eq!(constraints.slots(), Ramp::LEAST);
    // Who goes with all the others neither restarts the ramp nor opens anything.
    let other = constraints.take(demand(1), || until).unwrap();
    let unused = || unreachable!("no probe");
    let settled = constraints.settle(other, Ending::Answered, until, unused);
    assert!(!settled.reopened && !settled.passed_on);
}

#[test]
fn each_end_of_a_probe_reaches_the_gate() {
    let ends = [
        (Ending::Accepted, GateState::Open),
        (Ending::Answered, GateState::Open),
        (
            Ending::Refused { until: ms(90) },
            GateState::ClosedUntil(ms(90)),
        ),
        (
            Ending::Unanswered { until: ms(70) },
            GateState::ClosedUntil(ms(70)),
        ),
        (Ending::Dropped, GateState::ClosedUntil(ms(20))),
    ];
    for (ending, state) in ends {
        let constraints = Constraints::new(bounds());
        let gate = constraints.gate();
        gate.close(ms(10), gate.epoch());
        let probe = constraints.take_turn(demand(1), ms(10), PATIENCE).unwrap();
        let settled = constraints.settle(probe, ending, ms(20), || 20);
        assert_eq!(gate.state(), state, "{ending:?}");
        assert_eq!(settled.passed_on, ending == Ending::Dropped);
        constraints.land();
        assert_eq!(held(&constraints), (0, 0, 0));
    }
}

#[test]
fn an_end_of_one_who_is_no_probe_leaves_the_gate_unless_it_is_a_refusal() {
    for ending in [
        Ending::Accepted,
        Ending::Answered,
        Ending::Unanswered { until: ms(70) },
        Ending::Dropped,
    ] {
        let constraints = Constraints::new(bounds());
        let straggler = constraints.take(demand(1), || ms(0)).unwrap();
        let gate = constraints.gate();
        gate.close(ms(10), gate.epoch());
        settle(&constraints, straggler, ending);
        assert_eq!(gate.state(), GateState::ClosedUntil(ms(10)), "{ending:?}");
    }
}

#[test]
fn a_refusal_is_learned_from_and_the_window_set_to_it() {
    let constraints = Constraints::new(bounds());
    let mut growth = AdaptiveLimit::new(1, 50);
    let tickets = [(); 4].map(|()| constraints.take(demand(1), || ms(0)).unwrap());
    let mut changes = Vec::new();
    for (index, ticket) in tickets.into_iter().enumerate() {
        let ending = match index {
            0 | 1 => Ending::Accepted,
            _ => Ending::Refused { until: ms(500) },
        };
        let settled = settle(&constraints, ticket, ending);
        changes.push(constraints.learn(&mut growth, ticket, &settled, ending, ms(0)));
        if settled.closed.is_some() {
            constraints.land();
        }
    }
    assert_eq!(changes, [None, None, Some(Change::Learned), None]);
    assert_eq!(constraints.window().view().limit, 2);
    assert_eq!(constraints.try_more(&mut growth, ms(100)), None);
}

#[test]
fn an_answer_that_was_under_way_at_the_refusal_corrects_the_window() {
    let constraints = Constraints::new(bounds());
    let mut growth = AdaptiveLimit::new(1, 50);
    let tickets = [(); 3].map(|()| constraints.take(demand(1), || ms(0)).unwrap());
    let until = ms(500);
    let endings = [
        Ending::Accepted,
        Ending::Refused { until },
        Ending::Accepted,
    ];
    let mut changes = Vec::new();
    for (ticket, ending) in tickets.into_iter().zip(endings) {
        let settled = settle(&constraints, ticket, ending);
        changes.push(constraints.learn(&mut growth, ticket, &settled, ending, ms(0)));
        if settled.closed.is_some() {
            constraints.land();
        }
    }
    assert_eq!(
        changes,
        [None, Some(Change::Learned), Some(Change::Corrected)]
    );
    assert_eq!(constraints.window().view().limit, 2);
}

#[test]
fn a_refusal_that_is_learned_of_after_the_gate_reopened_does_not_end_all_trials() {
    let constraints = Constraints::new(bounds());
    let mut growth = AdaptiveLimit::new(1, 50);
    let taken = constraints.take(demand(1), || ms(0)).unwrap();
    settle(&constraints, taken, Ending::Accepted);
    let refused = constraints.take(demand(1), || ms(0)).unwrap();
    let until = ms(200);
    let late = settle(&constraints, refused, Ending::Refused { until });
    constraints.land();
    let probe = constraints.take_turn(demand(1), until, PATIENCE).unwrap();
    let settled = constraints.settle(probe, Ending::Accepted, until, || 20);
    constraints.learn(&mut growth, probe, &settled, Ending::Accepted, until);
    // Its thread was held up all that time.
    constraints.learn(
        &mut growth,
        refused,
        &late,
        Ending::Refused { until },
        ms(0),
    );
    for _ in 0..30 {
        growth.accepted(1, false);
    }
    assert_eq!(constraints.try_more(&mut growth, ms(1_000)), None, "paced");
    let change = constraints.try_more(&mut growth, ms(100_000));
    assert_eq!(change, Some(Change::TrialBegun));
}

#[test]
fn other_bounds_hold_from_now_on() {
    let constraints = Constraints::new(bounds());
    let one = constraints.take(demand(10), || ms(0)).unwrap();
    constraints.resize(Bounds {
        slots: 1,
        bytes: 5,
        ..bounds()
    });
    assert_eq!(constraints.slots(), 1);
    assert_eq!(
        constraints.take(demand(1), || ms(0)),
        Err(Blocked::WindowFull)
    );
    constraints.undo(one, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
    assert!(constraints.take(demand(1), || ms(0)).is_ok());
}

#[test]
fn a_ticket_is_the_same_after_its_words() {
    let epoch = Epoch(u16::MAX);
    // As late as the gate can tell, which fills the word to its last bit.
    let last = u64::MAX >> 18;
    let entries = [
        Entry::Open(Epoch(0)),
        Entry::Open(epoch),
        Entry::Probe(Probe { epoch, since: 0 }),
        Entry::Probe(Probe { epoch, since: last }),
    ];
    for entry in entries {
        for take in [Take::Slot, Take::SlotAndFlight] {
            let bytes = u64::MAX;
            let demand = Cost { take, bytes };
            let ticket = Ticket { demand, entry };
            assert_eq!(Ticket::from_words(ticket.to_words()), ticket);
        }
    }
}

#[test]
fn accepted_requests_alone_widen_the_ramp() {
    for (ending, allowed) in [
        (Ending::Answered, 8),
        (Ending::Dropped, 8),
        (Ending::Accepted, 9),
    ] {
        let constraints = Constraints::new(bounds());
        for _ in 0..36 {
            let ticket = constraints.take(demand(1), || ms(0)).unwrap();
            settle(&constraints, ticket, ending);
            constraints.land();
        }
        assert_eq!(constraints.slots(), allowed, "{ending:?}");
    }
}

#[test]
fn requests_presumed_accepted_widen_the_ramp() {
    let constraints = Constraints::new(bounds());
    assert!(!constraints.presume_accepted(), "nothing is unanswered");
    for _ in 0..8 {
        constraints.take(demand(1), || ms(0)).unwrap();
    }
    // A quarter of 8, 16, 24, 32 and 40, and 8 at least.
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
fn nested_request_goes_beyond_the_limits_while_the_gate_is_open() {
    let constraints = Constraints::new(Bounds {
        slots: 1,
        flights: 1,
        bytes: 1,
        ..bounds()
    });
    let outer = constraints.take(demand(1), || ms(0)).unwrap();
    let nested = constraints.take_nested().expect("the gate is open");
    assert!(constraints.may_leave(&outer) && constraints.may_leave(&nested));
    assert_eq!(held(&constraints), (1, 2, 1));
    settle(&constraints, nested, Ending::Refused { until: ms(5) });
    assert!(!constraints.may_leave(&outer) && !constraints.may_leave(&nested));
    assert!(constraints.take_nested().is_none());
    assert_eq!(held(&constraints), (1, 1, 1));
    constraints.undo(outer, ms(0));
    assert_eq!(held(&constraints), (0, 0, 0));
}
