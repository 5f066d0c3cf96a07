//! The counters of lost exchanges: zero for one thread, above it when threads met.
#![cfg(all(feature = "contention", not(tinkers_loom)))]

use std::sync::Barrier;
use std::time::Duration;

use tinkers_limits::{
    BackoffGate, Bounds, ByteBudget, ConcurrencyWindow, Constraints, Cost, Ending, Failure, Gcra,
    Ramp, Rate, RetryBudget, Take,
};

const THREADS: usize = 4;
const CALLS: u32 = 2_000;
/// Threads that never meet in so many rounds do not run side by side, and then the test says nothing.
const ROUNDS: u32 = 2_000;

/// `call` is made by one thread, then by several until two of them have met.
fn counts(call: impl Fn() + Sync, contention: impl Fn() -> u64) {
    (0..CALLS).for_each(|_| call());
    assert_eq!(contention(), 0, "nobody else was there");
    for _ in 0..ROUNDS {
        let together = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    together.wait();
                    (0..CALLS).for_each(|_| call());
                });
            }
        });
        if contention() > 0 {
            return;
        }
    }
    panic!("inconclusive: no two threads met");
}

#[test]
fn of_the_gate() {
    let gate = BackoffGate::new();
    let call = || {
        gate.close(Duration::from_secs(1), gate.epoch());
    };
    counts(call, || gate.contention());
}

#[test]
fn of_the_window() {
    let window = ConcurrencyWindow::new(8);
    let call = || {
        if window.take(Take::SlotAndFlight, 8).is_ok() {
            window.undo(Take::SlotAndFlight);
        }
    };
    counts(call, || window.contention());
    assert_eq!(window.view().in_flight, 0);
}

#[test]
fn of_the_bytes() {
    let bytes = ByteBudget::new(1_000);
    let call = || {
        if bytes.take(10).is_ok() {
            bytes.give_back(10);
        }
    };
    counts(call, || bytes.contention());
    assert_eq!(bytes.taken(), 0);
}

#[test]
fn of_the_ramp() {
    let ramp = Ramp::slow_start(100);
    let call = || {
        ramp.restart(100);
        ramp.accepted(1);
    };
    counts(call, || ramp.contention());
}

#[test]
fn of_the_rate() {
    let limit = Gcra::new(Rate {
        interval: Duration::from_nanos(1),
        burst: 100,
    });
    let call = || {
        if limit.take(1, Duration::ZERO).is_ok() {
            limit.undo(1);
        }
    };
    counts(call, || limit.contention());
}

#[test]
fn of_the_retry_budget() {
    let budget = RetryBudget::new(100);
    let call = || {
        let _drawn = budget.draw(Failure::Fault);
        (0..5).for_each(|_| budget.credit());
    };
    counts(call, || budget.contention());
}

#[test]
fn of_all_parts_together() {
    let constraints = Constraints::new(Bounds {
        slots: 8,
        bytes: 1_000,
        flights: 8,
        rate: None,
        start: tinkers_limits::Start::Slow,
    });
    let demand = Cost {
        take: Take::SlotAndFlight,
        bytes: 10,
    };
    let call = || {
        if let Ok(ticket) = constraints.take(demand, || Duration::ZERO) {
            constraints.settle(ticket, Ending::Answered, Duration::ZERO, || 8);
            constraints.land();
        }
    };
    counts(call, || constraints.contention());
    let view = constraints.window().view();
    assert_eq!((view.in_flight, view.unanswered), (0, 0));
    assert_eq!(constraints.bytes().taken(), 0);
}
