//! Loom models of the combined limits of a route class. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::time::Duration;

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{
    Blocked, Bounds, Charge, Constraints, InitialLimit, SlotRequest, Ticket, TicketOutcome,
};

const PATIENCE: Duration = Duration::from_secs(1);
const START: Duration = Duration::ZERO;
const UNTIL: Duration = Duration::from_secs(5);

const BOUNDS: Bounds = Bounds {
    slots: 8,
    bytes: 10,
    max_in_flight: 8,
    rate: None,
    start: InitialLimit::Slow,
};

fn constraints(max_in_flight: u32) -> Constraints {
    Constraints::new(Bounds {
        max_in_flight,
        ..BOUNDS
    })
}

const fn charge(bytes: u64) -> Charge {
    Charge {
        take: SlotRequest::SlotAndInFlight,
        bytes,
    }
}

fn take(constraints: &Constraints) -> Result<Ticket, Blocked> {
    constraints.take(charge(1), || START)
}

fn settle(constraints: &Constraints, ticket: Ticket, ending: TicketOutcome) {
    constraints.settle(ticket, ending, START, || 8);
    constraints.release();
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

/// Returns a message if the constraints still count a request as in flight or unanswered, or still hold bytes. Otherwise returns nothing.
fn held(constraints: &Constraints) -> Vec<String> {
    let view = constraints.window().view();
    let held = (view.in_flight, view.unanswered, constraints.bytes().taken());
    let fault = (held != (0, 0, 0)).then(|| format!("still held: {held:?}"));
    fault.into_iter().collect()
}

/// The point of an admission at which the gate is read: after all other limits, as in the real code, or before them (a planted fault).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Last,
    First,
}

/// Models an admission during the refusal (429 response) of another request. An admission that starts after the end of the refusal must
/// fail.
fn admission_during_a_refusal(reads: Reads) -> Findings {
    explore("admission during a refusal", 3, move || {
        let constraints = Arc::new(constraints(8));
        let refused = take(&constraints).unwrap();
        let is_closed = Arc::new(AtomicBool::new(false));
        let other = {
            let (constraints, is_closed) = (Arc::clone(&constraints), Arc::clone(&is_closed));
            spawn(move || {
                let was_open = constraints.gate().open().is_some();
                let was_closed = is_closed.load(Ordering::Acquire);
                let ticket = match reads {
                    Reads::Last => take(&constraints).ok(),
                    Reads::First if was_open => {
                        let taken = constraints.take_queued(charge(1), UNTIL, PATIENCE);
                        taken.ok()
                    }
                    Reads::First => None,
                };
                if let Some(ticket) = ticket {
                    settle(&constraints, ticket, TicketOutcome::Answered);
                }
                was_closed && ticket.is_some()
            })
        };
        settle(
            &constraints,
            refused,
            TicketOutcome::Refused { until: UNTIL },
        );
        is_closed.store(true, Ordering::Release);
        let mut faults = held(&constraints);
        if join(other) {
            faults.push("admitted after the refusal".to_owned());
        }
        faults.retain(|fault| !fault.starts_with("still held"));
        faults.extend(held(&constraints));
        faults
    })
}

#[test]
fn no_request_is_admitted_after_a_refusal() {
    admission_during_a_refusal(Reads::Last).assert_none();
}

#[test]
fn negative_control_gate_read_before_other_limits_is_detected() {
    let faults = admission_during_a_refusal(Reads::First).faults;
    assert_eq!(faults, ["admitted after the refusal"]);
}

#[test]
fn all_units_are_released_after_refused_admissions() {
    let findings = explore("two attempts and an undo", 2, || {
        let constraints = Arc::new(constraints(2));
        let attempt = |ending: TicketOutcome| {
            let constraints = Arc::clone(&constraints);
            spawn(move || {
                if let Ok(ticket) = take(&constraints) {
                    settle(&constraints, ticket, ending);
                }
            })
        };
        let others = [
            attempt(TicketOutcome::Accepted),
            attempt(TicketOutcome::Refused { until: UNTIL }),
        ];
        if let Ok(ticket) = take(&constraints) {
            constraints.undo(ticket, START);
        }
        others.into_iter().for_each(join);
        held(&constraints)
    });
    findings.assert_none();
}

#[test]
fn exactly_one_request_replaces_a_dropped_first_request() {
    let findings = explore("dropped first request", 2, || {
        let constraints = Arc::new(constraints(8));
        let gate = constraints.gate();
        gate.close(UNTIL, gate.epoch());
        let turn = |constraints: &Constraints| constraints.take_queued(charge(1), UNTIL, PATIENCE);
        let first_request = turn(&constraints).unwrap();
        let other = {
            let constraints = Arc::clone(&constraints);
            spawn(move || turn(&constraints).ok())
        };
        constraints.undo(first_request, UNTIL);
        let theirs = join(other);
        let ours = turn(&constraints).ok();
        let mut faults = Vec::new();
        if theirs.is_some() == ours.is_some() {
            faults.push("not exactly one first request".to_owned());
        }
        for ticket in [theirs, ours].into_iter().flatten() {
            settle(&constraints, ticket, TicketOutcome::Accepted);
        }
        if constraints.gate().open().is_none() {
            faults.push("not reopened".to_owned());
        }
        faults.extend(held(&constraints));
        faults
    });
    findings.assert_none();
}

#[test]
fn slot_of_a_refused_request_is_freed_only_after_the_gate_closes() {
    explore("slot of a refused request", 3, || {
        let constraints = Arc::new(Constraints::new(Bounds { slots: 1, ..BOUNDS }));
        let refused = take(&constraints).unwrap();
        let other = {
            let constraints = Arc::clone(&constraints);
            spawn(move || take(&constraints).is_ok())
        };
        settle(
            &constraints,
            refused,
            TicketOutcome::Refused { until: UNTIL },
        );
        let fault = join(other).then(|| "admitted with the slot of a refused request".to_owned());
        fault.into_iter().collect()
    })
    .assert_none();
}

#[test]
fn gate_is_found_open_only_after_the_gradual_increase_has_restarted() {
    explore("gate that opens", 3, || {
        let constraints = Arc::new(Constraints::new(Bounds {
            slots: 64,
            start: InitialLimit::Open,
            ..BOUNDS
        }));
        let gate = constraints.gate();
        gate.close(UNTIL, gate.epoch());
        let first_request = constraints.take_queued(charge(1), UNTIL, PATIENCE).unwrap();
        let other = {
            let constraints = Arc::clone(&constraints);
            spawn(move || {
                let is_open = constraints.gate().open().is_some();
                is_open && constraints.slots() > 8
            })
        };
        settle(&constraints, first_request, TicketOutcome::Accepted);
        let is_unbounded = join(other).then(|| "open without its ramp".to_owned());
        is_unbounded.into_iter().collect()
    })
    .assert_none();
}

/// Models the end of an attempt while another request starts to wait, because the limits that `full` returns are used up. If `tries_first`,
/// that request has called `take` before, without success. Unless the request is admitted, the end of the attempt must find the waiters
/// flag set; otherwise nothing would ever admit the request.
fn wait_during_the_end_of_an_attempt(
    name: &'static str,
    full: fn() -> (Constraints, Ticket),
    tries_first: bool,
) -> Findings {
    explore(name, 3, move || {
        let (constraints, ends) = full();
        let constraints = Arc::new(constraints);
        let waiter = {
            let constraints = Arc::clone(&constraints);
            spawn(move || {
                if tries_first {
                    let _admitted = take(&constraints);
                }
                constraints.window().set_waiters(true);
                constraints.take_queued(charge(1), START, PATIENCE).is_ok()
            })
        };
        let settled = constraints.settle(ends, TicketOutcome::Accepted, START, || 8);
        let is_lost = !join(waiter) && !settled.view.has_waiters;
        is_lost
            .then(|| "lost wake-up".to_owned())
            .into_iter()
            .collect()
    })
}

#[test]
fn no_wake_up_is_lost_when_an_attempt_ends_during_a_wait_for_bytes() {
    let full = || {
        let constraints = Constraints::new(Bounds { bytes: 1, ..BOUNDS });
        let ticket = take(&constraints).unwrap();
        (constraints, ticket)
    };
    wait_during_the_end_of_an_attempt("waiter for bytes", full, false).assert_none();
}

#[test]
fn no_wake_up_is_lost_when_an_attempt_ends_during_the_slow_start() {
    let full = || {
        let constraints = Constraints::new(Bounds {
            slots: 64,
            bytes: 64,
            max_in_flight: 64,
            ..BOUNDS
        });
        // 35 accepted requests allow 8 submissions without a response, and 36 allow 9.
        let mut tickets: Vec<Ticket> = (0..7).map(|_| take(&constraints).unwrap()).collect();
        (0..5).for_each(|_| {
            constraints.presume_accepted();
        });
        tickets.push(take(&constraints).unwrap());
        assert_eq!(constraints.slots(), 8);
        (constraints, tickets[0])
    };
    wait_during_the_end_of_an_attempt("waiter for the ramp", full, true).assert_none();
}

/// What a request does after a limit has refused its admission and its units were released: admit waiting requests, as it must, or ignore
/// them (a planted fault).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rollback {
    ServesWaiters,
    IgnoresWaiters,
}

/// Models a request that briefly holds the only unit of the window, until the byte budget refuses it. If another request starts to wait
/// meanwhile because the unit is taken, that request must get the unit.
fn rollback_model(rollback: Rollback) -> Findings {
    explore("rollback and waiter", 3, move || {
        let constraints = Arc::new(constraints(1));
        let is_waiting = Arc::new(Mutex::new(false));
        // The bytes are used up, but not the window.
        constraints.bytes().take(10).unwrap();
        let grant = |constraints: &Constraints, is_waiting: &mut bool| {
            let turn = || constraints.take_queued(charge(0), START, PATIENCE);
            if *is_waiting && turn().is_ok() {
                *is_waiting = false;
                constraints.window().set_waiters(false);
            }
        };
        let waiter = {
            let (constraints, is_waiting) = (Arc::clone(&constraints), Arc::clone(&is_waiting));
            spawn(move || {
                let mut is_waiting = is_waiting.lock().expect("not poisoned");
                *is_waiting = true;
                constraints.window().set_waiters(true);
                grant(&constraints, &mut is_waiting);
            })
        };
        let refused = take(&constraints).is_err();
        if rollback == Rollback::ServesWaiters && constraints.window().view().has_waiters {
            let mut is_waiting = is_waiting.lock().expect("not poisoned");
            grant(&constraints, &mut is_waiting);
        }
        join(waiter);
        let is_lost = *is_waiting.lock().expect("not poisoned");
        let mut faults = Vec::new();
        if !refused {
            faults.push("admitted without bytes".to_owned());
        }
        if is_lost {
            faults.push("lost wake-up".to_owned());
        }
        faults
    })
}

#[test]
fn no_wake_up_is_lost_when_a_refused_admission_is_rolled_back() {
    rollback_model(Rollback::ServesWaiters).assert_none();
}

#[test]
fn negative_control_rollback_without_wake_up_is_detected() {
    assert_eq!(
        rollback_model(Rollback::IgnoresWaiters).faults,
        ["lost wake-up"]
    );
}
