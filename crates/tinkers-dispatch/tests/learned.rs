//! What a lane learns from its probes and its ramp, and what it forgets when the gate opens.

mod common;

use std::time::Duration;

use common::{Bench, SECOND, Waiting, accept, ask, refuse};
use tinkers_core::{Admitted, Moment, RouteClass, Settlement, Time};
use tinkers_dispatch::{Gate, LimiterSettings};

const MS: Duration = Duration::from_millis(1);
/// After this long a poll that was not refused counts as accepted.
const HELD: Duration = Duration::from_millis(250);

fn bench() -> Bench {
    Bench::new(LimiterSettings::default())
}

/// For how long the gate is closed from now on.
fn pause(bench: &Bench, class: RouteClass) -> Duration {
    match bench.state(class).gate {
        Gate::ClosedUntil(at) => at.since(bench.clock.now()),
        other => panic!("{other:?}"),
    }
}

/// Waits until the gate opens, and lets the probe through.
fn probe(bench: &Bench, class: RouteClass) -> Admitted {
    bench.clock.advance(pause(bench, class));
    bench.admit(ask(class))
}

fn admitted(queue: &mut [Waiting]) -> Vec<Admitted> {
    queue.iter_mut().filter_map(Waiting::try_admitted).collect()
}

/// How a probe ends well.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Opens {
    Accepted,
    /// The server holds the poll.
    Held,
}

fn open(bench: &Bench, probe: Admitted, how: Opens) -> Option<Admitted> {
    if how == Opens::Accepted {
        accept(probe);
        return None;
    }
    bench.clock.advance(HELD);
    Some(probe)
}

#[test]
fn opened_gate_forgets_the_probes_that_failed() {
    for (class, how) in [
        (RouteClass::Rest, Opens::Accepted),
        (RouteClass::Poll, Opens::Accepted),
        (RouteClass::Poll, Opens::Held),
    ] {
        let bench = bench();
        let mut held = None;
        for _ in 0..2 {
            refuse(bench.admit(ask(class)), Some(MS));
            drop(held.take());
            let mut pauses = vec![pause(&bench, class)];
            for _ in 0..3 {
                refuse(probe(&bench, class), Some(MS));
                pauses.push(pause(&bench, class));
            }
            let expected = [10, 10, 20, 40].map(|ms| MS * ms);
            assert_eq!(pauses, expected, "{class:?} {how:?}");
            let good = probe(&bench, class);
            held = open(&bench, good, how);
        }
    }
}

#[test]
fn pauses_of_unanswered_probes_double_until_the_gate_opens() {
    let (bench, class) = (bench(), RouteClass::Rest);
    for _ in 0..2 {
        refuse(bench.admit(ask(class)), Some(MS));
        for expected in [500, 1000, 2000] {
            probe(&bench, class).permit.settle(Settlement::Unknown);
            assert_eq!(pause(&bench, class), MS * expected);
        }
        accept(probe(&bench, class));
    }
}

#[test]
fn patience_with_a_probe_is_twice_what_the_last_answer_took() {
    let (bench, class) = (bench(), RouteClass::Rest);
    for (takes, patience) in [(SECOND * 3, SECOND), (MS, SECOND * 6), (MS, SECOND)] {
        refuse(bench.admit(ask(class)), Some(SECOND));
        let probe = probe(&bench, class);
        let until: Moment = bench.at(patience);
        assert_eq!(bench.state(class).gate, Gate::ProbingUntil(until));
        bench.clock.advance(takes);
        accept(probe);
    }
}

#[test]
fn polls_ramp_up_anew_after_each_pause() {
    for how in [Opens::Accepted, Opens::Held] {
        let (bench, class) = (bench(), RouteClass::Poll);
        refuse(bench.admit(ask(class)), Some(SECOND));
        let mut queue: Vec<_> = (0..100).map(|_| bench.ask(ask(class))).collect();
        for _ in 0..3 {
            bench.clock.advance(SECOND);
            let mut first = admitted(&mut queue);
            assert_eq!(first.len(), 1, "{how:?}: a probe");
            let probe = first.pop().expect("the probe");
            let _held = open(&bench, probe, how);
            let mut through = admitted(&mut queue);
            assert!(
                (1..=8).contains(&through.len()),
                "{how:?}: {}",
                through.len()
            );
            // The ramp is not at its end when the next refusal comes.
            let refused = through.pop().expect("one of them");
            refuse(refused, Some(SECOND));
        }
    }
}
