//! Tests of the contention counters: they stay zero with one thread, and grow if threads compete.
#![cfg(all(feature = "contention", not(tinkers_loom)))]

use std::sync::Barrier;
use std::time::Duration;

use tinkers_limits::{
    BackoffGate, Bounds, ByteBudget, Charge, ConcurrencyWindow, Constraints, Gcra, Ramp, Rate,
    RetryBudget, RetryReason, SlotRequest, TicketOutcome,
};

const THREADS: usize = 4;
const CALLS: u32 = 2_000;
/// The maximum number of rounds in which threads compete. If no compare-and-swap was lost by then, the test fails, since it has tested
/// nothing.
const ROUNDS: u32 = 2_000;

/// Asserts that `contention`, the number of failed compare-and-swaps, does not rise while one thread runs `call`. Then runs `call` on
/// several threads until that number rises.
fn assert_counted(call: impl Fn() + Sync, contention: impl Fn() -> u64) {
    (0..CALLS).for_each(|_| call());
    assert_eq!(contention(), 0, "one thread causes no contention");
    for _ in 0..ROUNDS {
        let barrier = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    barrier.wait();
                    (0..CALLS).for_each(|_| call());
                });
            }
        });
        if contention() > 0 {
            return;
        }
    }
    panic!("inconclusive: there was no contention");
}

#[test]
fn gate_counts_failed_compare_and_swaps_of_threads() {
    let gate = BackoffGate::new();
    let call = || {
        gate.close(Duration::from_secs(1), gate.epoch());
    };
    assert_counted(call, || gate.contention());
}

#[test]
fn in_flight_window_counts_failed_compare_and_swaps_of_threads() {
    let window = ConcurrencyWindow::new(8);
    let call = || {
        if window.take(SlotRequest::SlotAndInFlight, 8).is_ok() {
            window.undo(SlotRequest::SlotAndInFlight);
        }
    };
    assert_counted(call, || window.contention());
    assert_eq!(window.view().in_flight, 0);
}

#[test]
fn byte_budget_counts_failed_compare_and_swaps_of_threads() {
    let bytes = ByteBudget::new(1_000);
    let call = || {
        if bytes.take(10).is_ok() {
            bytes.release(10);
        }
    };
    assert_counted(call, || bytes.contention());
    assert_eq!(bytes.taken(), 0);
}

#[test]
fn gradual_increase_counts_failed_compare_and_swaps_of_threads() {
    let ramp = Ramp::slow_start(100);
    let call = || {
        ramp.restart(100);
        ramp.accepted(1);
    };
    assert_counted(call, || ramp.contention());
}

#[test]
fn rate_limit_counts_failed_compare_and_swaps_of_threads() {
    let limit = Gcra::new(Rate {
        interval: Duration::from_nanos(1),
        burst: 100,
    });
    let call = || {
        if limit.take(1, Duration::ZERO).is_ok() {
            limit.undo(1);
        }
    };
    assert_counted(call, || limit.contention());
}

#[test]
fn retry_budget_counts_failed_compare_and_swaps_of_threads() {
    let budget = RetryBudget::new(100);
    let call = || {
        let _drawn = budget.draw(RetryReason::Fault);
        (0..5).for_each(|_| budget.credit());
    };
    assert_counted(call, || budget.contention());
}

#[test]
fn number_of_failed_compare_and_swaps_includes_all_limits() {
    let constraints = Constraints::new(Bounds {
        slots: 8,
        bytes: 1_000,
        max_in_flight: 8,
        rate: None,
        start: tinkers_limits::InitialLimit::Slow,
    });
    let charge = Charge {
        take: SlotRequest::SlotAndInFlight,
        bytes: 10,
    };
    let call = || {
        if let Ok(ticket) = constraints.take(charge, || Duration::ZERO) {
            constraints.settle(ticket, TicketOutcome::Answered, Duration::ZERO, || 8);
            constraints.release();
        }
    };
    assert_counted(call, || constraints.contention());
    let view = constraints.window().view();
    assert_eq!((view.in_flight, view.unanswered), (0, 0));
    assert_eq!(constraints.bytes().taken(), 0);
}
