//! Closes a gate with hints that come in any order, and shows who goes through it and when.

use std::time::Duration;
use tinkers_limits::{BackoffGate, Drawn, Failure, RetryBudget};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let gate = BackoffGate::new();
    let admitted = gate.epoch();
    for hint in [2, 5, 3] {
        let closed = gate.close(Duration::from_secs(hint), admitted);
        println!(
            "a hint of {hint} s: closed until {:?}, a new event: {}",
            closed.until, closed.first_of_its_event
        );
    }
    let patience = Duration::from_secs(1);
    for now in [4, 5, 5] {
        match gate.enter(Duration::from_secs(now), patience) {
            Ok(entry) => println!("at {now} s one goes: {entry:?}"),
            Err(at) => println!("at {now} s nobody goes before {at:?}"),
        }
    }
    let reopened = gate.reopen(gate.epoch());
    println!("the probe was answered: {reopened}, now {:?}", gate.state());

    let budget = RetryBudget::new(12);
    while budget.draw(Failure::Fault) == Drawn::Granted {
        println!("one repeat more, {} tokens left", budget.tokens());
    }
}
