//! Closes a gate with retry delays in any order, and shows which requests it admits at which time.

use std::time::Duration;
use tinkers_limits::{BackoffGate, RetryBudget, RetryDraw, RetryReason};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let gate = BackoffGate::new();
    let epoch = gate.epoch();
    for hint in [2, 5, 3] {
        let closed = gate.close(Duration::from_secs(hint), epoch);
        println!(
            "a hint of {hint} s: closed until {:?}, a new event: {}",
            closed.until, closed.is_new_event
        );
    }
    let patience = Duration::from_secs(1);
    for now in [4, 5, 5] {
        match gate.enter(Duration::from_secs(now), patience) {
            Ok(pass) => println!("at {now} s a request is admitted: {pass:?}"),
            Err(at) => println!("at {now} s no request is admitted before {at:?}"),
        }
    }
    let reopened = gate.reopen(gate.epoch());
    println!(
        "the response to the first request reopens the gate: {reopened}, now {:?}",
        gate.state()
    );

    let budget = RetryBudget::new(12);
    while budget.draw(RetryReason::Fault) == RetryDraw::Granted {
        println!("one retry, {} tokens remaining", budget.tokens());
    }
}
