//! Closes a gate with hints that come in any order, and shows when it opens.

use std::time::Duration;
use tinkers_limits::{BackoffGate, Drawn, Failure, RetryBudget};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let gate = BackoffGate::new();
    let admitted = gate.epoch();
    for hint in [2, 5, 3] {
        let closed = gate.close(Duration::from_secs(hint), admitted);
        println!(
            "a hint of {hint} s: opens at {:?}, a new event: {}",
            closed.opens_at, closed.first_of_its_event
        );
    }
    for now in [4, 5] {
        println!(
            "open at {now} s: {}",
            gate.is_open(Duration::from_secs(now))
        );
    }

    let budget = RetryBudget::new(12);
    while budget.draw(Failure::Fault) == Drawn::Granted {
        println!("one repeat more, {} tokens left", budget.tokens());
    }
}
