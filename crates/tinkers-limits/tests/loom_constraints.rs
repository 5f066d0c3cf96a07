//! Models of the constraints together. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::time::Duration;

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{Blocked, Bounds, Constraints, Cost, Ending, Start, Take, Ticket};

const PATIENCE: Duration = Duration::from_secs(1);
const START: Duration = Duration::ZERO;
const UNTIL: Duration = Duration::from_secs(5);

const BOUNDS: Bounds = Bounds {
    slots: 8,
    bytes: 10,
    flights: 8,
    rate: None,
    start: Start::Slow,
};

fn constraints(flights: u32) -> Constraints {
    Constraints::new(Bounds { flights, ..BOUNDS })
}

const fn demand(bytes: u64) -> Cost {
    Cost {
        take: Take::SlotAndFlight,
        bytes,
    }
}

fn take(constraints: &Constraints) -> Result<Ticket, Blocked> {
    constraints.take(demand(1), || START)
}

fn settle(constraints: &Constraints, ticket: Ticket, ending: Ending) {
    constraints.settle(ticket, ending, START, || 8);
    constraints.land();
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

/// What is still held when everybody has gone.
fn held(constraints: &Constraints) -> Vec<String> {
    let view = constraints.window().view();
    let held = (view.in_flight, view.unanswered, constraints.bytes().taken());
    let fault = (held != (0, 0, 0)).then(|| format!("still held: {held:?}"));
    fault.into_iter().collect()
}

/// When the gate is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    AtTheEnd,
    BeforeTheRest,
}

/// One goes while another one is refused. Whoever begins after the refusal was told must not go.
fn one_goes_while_the_gate_closes(reads: Reads) -> Findings {
    explore("one goes while the gate closes", 3, move || {
        let constraints = Arc::new(constraints(8));
        let refused = take(&constraints).unwrap();
        let is_told = Arc::new(AtomicBool::new(false));
        let other = {
            let (constraints, is_told) = (Arc::clone(&constraints), Arc::clone(&is_told));
            spawn(move || {
                let was_open = constraints.gate().open().is_some();
                let was_told = is_told.load(Ordering::Acquire);
                let ticket = match reads {
                    Reads::AtTheEnd => take(&constraints).ok(),
                    Reads::BeforeTheRest if was_open => {
                        let taken = constraints.take_turn(demand(1), UNTIL, PATIENCE);
                        taken.ok()
                    }
                    Reads::BeforeTheRest => None,
                };
                if let Some(ticket) = ticket {
                    settle(&constraints, ticket, Ending::Answered);
                }
                was_told && ticket.is_some()
            })
        };
        settle(&constraints, refused, Ending::Refused { until: UNTIL });
        is_told.store(true, Ordering::Release);
        let mut faults = held(&constraints);
        if join(other) {
            faults.push("went after the refusal".to_owned());
        }
        faults.retain(|fault| !fault.starts_with("still held"));
        faults.extend(held(&constraints));
        faults
    })
}

#[test]
fn nobody_goes_after_a_refusal_that_was_told() {
    one_goes_while_the_gate_closes(Reads::AtTheEnd).assert_none();
}

#[test]
fn the_same_model_finds_a_gate_that_is_read_before_the_rest() {
    let faults = one_goes_while_the_gate_closes(Reads::BeforeTheRest).faults;
    assert_eq!(faults, ["went after the refusal"]);
}

#[test]
fn all_that_was_taken_comes_back_whoever_is_refused() {
    let findings = explore("two that end and one that is refused", 2, || {
        let constraints = Arc::new(constraints(2));
        let visit = |ending: Ending| {
            let constraints = Arc::clone(&constraints);
            spawn(move || {
                if let Ok(ticket) = take(&constraints) {
                    settle(&constraints, ticket, ending);
                }
            })
        };
        let others = [
            visit(Ending::Accepted),
            visit(Ending::Refused { until: UNTIL }),
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
fn a_probe_that_is_given_up_passes_on_and_of_two_only_one_goes() {
    let findings = explore("a probe that is given up", 2, || {
        let constraints = Arc::new(constraints(8));
        let gate = constraints.gate();
        gate.close(UNTIL, gate.epoch());
        let turn = |constraints: &Constraints| constraints.take_turn(demand(1), UNTIL, PATIENCE);
        let probe = turn(&constraints).unwrap();
        let other = {
            let constraints = Arc::clone(&constraints);
            spawn(move || turn(&constraints).ok())
        };
        constraints.undo(probe, UNTIL);
        let theirs = join(other);
        let ours = turn(&constraints).ok();
        let mut faults = Vec::new();
        if theirs.is_some() == ours.is_some() {
            faults.push("not exactly one probe".to_owned());
        }
        for ticket in [theirs, ours].into_iter().flatten() {
            settle(&constraints, ticket, Ending::Accepted);
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
fn slot_of_a_refused_request_comes_with_the_closed_gate() {
    explore("the slot of a refused request", 3, || {
        let constraints = Arc::new(Constraints::new(Bounds { slots: 1, ..BOUNDS }));
        let refused = take(&constraints).unwrap();
        let other = {
            let constraints = Arc::clone(&constraints);
            spawn(move || take(&constraints).is_ok())
        };
        settle(&constraints, refused, Ending::Refused { until: UNTIL });
        let went = join(other).then(|| "went with the slot of a refused request".to_owned());
        went.into_iter().collect()
    })
    .assert_none();
}

#[test]
fn request_that_sees_the_gate_open_sees_its_ramp() {
    explore("a gate that opens", 3, || {
        let constraints = Arc::new(Constraints::new(Bounds {
            slots: 64,
            start: Start::Open,
            ..BOUNDS
        }));
        let gate = constraints.gate();
        gate.close(UNTIL, gate.epoch());
        let probe = constraints.take_turn(demand(1), UNTIL, PATIENCE).unwrap();
        let other = {
            let constraints = Arc::clone(&constraints);
            spawn(move || {
                let is_open = constraints.gate().open().is_some();
                is_open && constraints.slots() > 8
            })
        };
        settle(&constraints, probe, Ending::Accepted);
        let is_unbounded = join(other).then(|| "open without its ramp".to_owned());
        is_unbounded.into_iter().collect()
    })
    .assert_none();
}

/// An attempt is accepted while a request begins to wait, after another one has asked where `comes_first` says so. Unless the waiter
/// finds room, the end of the attempt must see that it waits: nothing else would serve it.
fn one_waits_while_an_attempt_ends(
    name: &'static str,
    full: fn() -> (Constraints, Ticket),
    comes_first: bool,
) -> Findings {
    explore(name, 3, move || {
        let (constraints, ends) = full();
        let constraints = Arc::new(constraints);
        let waiter = {
            let constraints = Arc::clone(&constraints);
            spawn(move || {
                if comes_first {
                    let _admitted = take(&constraints);
                }
                constraints.window().set_waiters(true);
                constraints.take_turn(demand(1), START, PATIENCE).is_ok()
            })
        };
        let settled = constraints.settle(ends, Ending::Accepted, START, || 8);
        let is_forgotten = !join(waiter) && !settled.view.has_waiters;
        is_forgotten
            .then(|| "forgotten".to_owned())
            .into_iter()
            .collect()
    })
}

#[test]
fn end_of_an_attempt_sees_who_waits_for_its_bytes() {
    let full = || {
        let constraints = Constraints::new(Bounds { bytes: 1, ..BOUNDS });
        let ticket = take(&constraints).unwrap();
        (constraints, ticket)
    };
    one_waits_while_an_attempt_ends("one that waits for bytes", full, false).assert_none();
}

#[test]
fn end_of_an_attempt_sees_who_waits_for_the_ramp() {
    let full = || {
        let constraints = Constraints::new(Bounds {
            slots: 64,
            bytes: 64,
            flights: 64,
            ..BOUNDS
        });
        // 35 accepted requests allow 8 unanswered ones, and one more allows 9.
        let mut tickets: Vec<Ticket> = (0..7).map(|_| take(&constraints).unwrap()).collect();
        (0..5).for_each(|_| {
            constraints.presume_accepted();
        });
        tickets.push(take(&constraints).unwrap());
        assert_eq!(constraints.slots(), 8);
        (constraints, tickets[0])
    };
    one_waits_while_an_attempt_ends("one that waits for the ramp", full, true).assert_none();
}

/// Whether one that was refused and gave back what it had looks who waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rollback {
    HandsOver,
    Forgets,
}

/// The window's only place is held for a moment by one that its bytes then refuse. Who found it full by that must get it.
fn a_rollback(rollback: Rollback) -> Findings {
    explore("a rollback and one that waits", 3, move || {
        let constraints = Arc::new(constraints(1));
        let is_waiting = Arc::new(Mutex::new(false));
        // Not of the window: all bytes are taken.
        constraints.bytes().take(10).unwrap();
        let grant = |constraints: &Constraints, is_waiting: &mut bool| {
            let turn = || constraints.take_turn(demand(0), START, PATIENCE);
            if *is_waiting && turn().is_ok() {
                *is_waiting = false;
                constraints.window().set_waiters(false);
            }
        };
        let waiter = {
            let (constraints, is_waiting) = (Arc::clone(&constraints), Arc::clone(&is_waiting));
            spawn(move || {
                let mut is_waiting = is_waiting.lock().expect("no panic under it");
                *is_waiting = true;
                constraints.window().set_waiters(true);
                grant(&constraints, &mut is_waiting);
            })
        };
        let refused = take(&constraints).is_err();
        if rollback == Rollback::HandsOver && constraints.window().view().has_waiters {
            let mut is_waiting = is_waiting.lock().expect("no panic under it");
            grant(&constraints, &mut is_waiting);
        }
        join(waiter);
        let is_forgotten = *is_waiting.lock().expect("no panic under it");
        let mut faults = Vec::new();
        if !refused {
            faults.push("went without bytes".to_owned());
        }
        if is_forgotten {
            faults.push("forgotten".to_owned());
        }
        faults
    })
}

#[test]
fn a_rollback_hands_over_to_who_waits() {
    a_rollback(Rollback::HandsOver).assert_none();
}

#[test]
fn the_same_model_finds_a_rollback_that_forgets_who_waits() {
    assert_eq!(a_rollback(Rollback::Forgets).faults, ["forgotten"]);
}
