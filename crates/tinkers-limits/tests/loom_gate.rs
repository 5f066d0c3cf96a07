//! Models of the gate. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::time::Duration;

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{BackoffGate, Entry, Epoch, GateState, Probe};

const PATIENCE: u64 = 100;

/// A gate in milliseconds, as the models use it.
trait Gate: Send + Sync + 'static {
    type Seen: Copy + Send + 'static;

    fn new() -> Self;
    fn seen(&self) -> Self::Seen;
    /// Whether it began an event.
    fn close(&self, until: u64, seen: Self::Seen) -> bool;
    /// Whether it went, and whether as the probe.
    fn enter(&self, now: u64) -> Option<bool>;
    /// A request that was admitted after `seen` succeeded.
    fn succeeded(&self, seen: Self::Seen);
    /// `None` when it is not closed.
    fn closed_until(&self) -> Option<u64>;
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Gate for BackoffGate {
    type Seen = Epoch;

    fn new() -> Self {
        Self::new()
    }

    fn seen(&self) -> Epoch {
        self.epoch()
    }

    fn close(&self, until: u64, seen: Epoch) -> bool {
        self.close(ms(until), seen).first_of_its_event
    }

    fn enter(&self, now: u64) -> Option<bool> {
        let entry = self.enter(ms(now), ms(PATIENCE)).ok();
        entry.map(Entry::is_probe)
    }

    fn succeeded(&self, seen: Epoch) {
        self.reopen(seen);
    }

    fn closed_until(&self) -> Option<u64> {
        match self.state() {
            GateState::ClosedUntil(until) => Some(until.as_millis() as u64),
            GateState::Open | GateState::ProbingSince(_) => None,
        }
    }
}

/// The fault of older clients: whoever closes last says until when, and any success opens.
struct Stored(AtomicU64);

impl Gate for Stored {
    type Seen = ();

    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn seen(&self) {}

    fn close(&self, until: u64, (): ()) -> bool {
        self.0.swap(until, Ordering::AcqRel) == 0
    }

    fn enter(&self, now: u64) -> Option<bool> {
        let until = self.0.load(Ordering::Acquire);
        (now >= until).then_some(until > 0)
    }

    fn succeeded(&self, (): ()) {
        self.0.store(0, Ordering::Release);
    }

    fn closed_until(&self) -> Option<u64> {
        let until = self.0.load(Ordering::Acquire);
        (until > 0).then_some(until)
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

/// Two refusals of one moment, and one that wants to go while they are told.
fn two_refusals_and_one_that_enters<G: Gate>() -> Findings {
    explore("two refusals and one that enters", 3, || {
        let gate = Arc::new(G::new());
        let seen = gate.seen();
        let long_is_told = Arc::new(AtomicU64::new(0));
        let close = |until| {
            let (gate, told) = (Arc::clone(&gate), Arc::clone(&long_is_told));
            spawn(move || {
                let is_first = gate.close(until, seen);
                if until == 9 {
                    told.store(1, Ordering::Release);
                }
                is_first
            })
        };
        let closers = [close(5), close(9)];
        let was_told = long_is_told.load(Ordering::Acquire) == 1;
        let entered = gate.enter(6);
        let events = closers.map(join).into_iter().filter(|first| *first).count();
        let mut faults = Vec::new();
        if was_told && entered.is_some() {
            faults.push("went before the deadline".to_owned());
        }
        if gate.closed_until() != Some(9) {
            faults.push("the deadline was shortened".to_owned());
        }
        if events != 1 {
            faults.push(format!("{events} events"));
        }
        faults
    })
}

#[test]
fn the_later_deadline_stays_and_two_refusals_are_one_event() {
    two_refusals_and_one_that_enters::<BackoffGate>().assert_none();
}

#[test]
fn the_same_model_finds_the_fault_of_the_last_writer() {
    let faults = two_refusals_and_one_that_enters::<Stored>().faults;
    for fault in ["the deadline was shortened", "went before the deadline"] {
        assert!(faults.contains(&fault.to_owned()), "{faults:?}");
    }
}

/// The probe is answered while one that was sent before it is refused.
fn a_probe_and_a_straggler<G: Gate>() -> Findings {
    explore("a probe and a straggler", 3, || {
        let gate = Arc::new(G::new());
        let old = gate.seen();
        gate.close(10, old);
        let probe = gate.seen();
        assert_eq!(gate.enter(10), Some(true));
        let answer = {
            let gate = Arc::clone(&gate);
            spawn(move || gate.succeeded(probe))
        };
        gate.close(30, old);
        join(answer);
        let is_closed = gate.closed_until() == Some(30);
        let fault = (!is_closed).then(|| "reopened early".to_owned());
        fault.into_iter().collect()
    })
}

#[test]
fn the_refusal_of_a_straggler_is_not_erased_by_an_answer_to_the_probe() {
    a_probe_and_a_straggler::<BackoffGate>().assert_none();
}

#[test]
fn the_same_model_finds_the_fault_of_success_that_clears() {
    let faults = a_probe_and_a_straggler::<Stored>().faults;
    assert_eq!(faults, ["reopened early"]);
}

#[test]
fn a_dropped_probe_never_lifts_a_closure() {
    let findings = explore("pass on and close", 3, || {
        let gate = Arc::new(BackoffGate::new());
        let old = gate.epoch();
        gate.close(ms(10), old);
        let probe = enter(&gate, 10).expect("a probe is due");
        let dropped = {
            let gate = Arc::clone(&gate);
            spawn(move || gate.pass_on(ms(12), probe))
        };
        let next = {
            let gate = Arc::clone(&gate);
            spawn(move || gate.enter(ms(12), ms(PATIENCE)).is_ok())
        };
        gate.close(ms(30), old);
        let passed_on = join(dropped);
        let went = join(next);
        let mut faults = Vec::new();
        if gate.closed_until() != Some(30) {
            faults.push(format!("{:?}", gate.state()));
        }
        if went && !passed_on {
            faults.push("two probes".to_owned());
        }
        faults
    });
    findings.assert_none();
}

#[test]
fn a_dropped_probe_is_not_lost_and_of_two_only_one_goes() {
    let findings = explore("pass on and enter", 3, || {
        let gate = Arc::new(BackoffGate::new());
        gate.close(ms(10), gate.epoch());
        let probe = enter(&gate, 10).expect("a probe is due");
        let others = [(); 2].map(|()| {
            let gate = Arc::clone(&gate);
            spawn(move || gate.enter(ms(12), ms(PATIENCE)).is_ok())
        });
        assert!(gate.pass_on(ms(12), probe), "nobody else ended it");
        let went = others.map(join).into_iter().filter(|went| *went).count();
        let is_free = gate.enter(ms(12), ms(PATIENCE)).is_ok();
        let is_right = matches!((went, is_free), (1, false) | (0, true));
        let fault = (!is_right).then(|| format!("{went} went, and one more: {is_free}"));
        fault.into_iter().collect()
    });
    findings.assert_none();
}

fn enter(gate: &BackoffGate, now: u64) -> Option<Probe> {
    let entry = gate.enter(ms(now), ms(PATIENCE)).ok()?;
    entry.probe()
}

/// How the end of a probe is told.
trait Ends: Send + Sync + 'static {
    fn new(first: Probe) -> Self;
    /// Another probe goes.
    fn goes(&self, probe: Probe);
    /// Which one the gate is told has ended, when `probe` has.
    fn ended(&self, probe: Probe) -> Probe;
}

/// As it is: each for itself.
struct ForItself;

impl Ends for ForItself {
    fn new(_: Probe) -> Self {
        Self
    }

    fn goes(&self, _: Probe) {}

    fn ended(&self, probe: Probe) -> Probe {
        probe
    }
}

/// The fault of a gate that knows its probes by their epoch alone: any of them ends the one under way.
struct ForTheLast(Mutex<Probe>);

impl Ends for ForTheLast {
    fn new(first: Probe) -> Self {
        Self(Mutex::new(first))
    }

    fn goes(&self, probe: Probe) {
        *self.0.lock().unwrap() = probe;
    }

    fn ended(&self, _: Probe) -> Probe {
        *self.0.lock().unwrap()
    }
}

/// A probe ends late, while the next one and perhaps a third want to go.
fn a_probe_that_ends_late<E: Ends>(name: &str, end: fn(&BackoffGate, Probe) -> bool) -> Findings {
    explore(name, 3, move || {
        let gate = Arc::new(BackoffGate::new());
        gate.close(ms(10), gate.epoch());
        let first = enter(&gate, 10).expect("a probe is due");
        let ends = Arc::new(E::new(first));
        let late = {
            let (gate, ends) = (Arc::clone(&gate), Arc::clone(&ends));
            spawn(move || end(&gate, ends.ended(first)))
        };
        let next = {
            let (gate, ends) = (Arc::clone(&gate), Arc::clone(&ends));
            spawn(move || enter(&gate, 110).inspect(|probe| ends.goes(*probe)))
        };
        let third = enter(&gate, 120);
        let ended = join(late);
        let went = [join(next), third].into_iter().flatten().count();
        let mut faults = Vec::new();
        if went > 1 {
            faults.push("two probes".to_owned());
        }
        let is_probed = matches!(gate.state(), GateState::ProbingSince(_));
        if went > 0 && !is_probed {
            faults.push("closed under the next probe".to_owned());
        }
        if went == 0 && !ended {
            faults.push("neither ended nor overtaken".to_owned());
        }
        faults
    })
}

#[test]
fn the_end_of_a_probe_that_was_overtaken_leaves_the_next_one_alone() {
    a_probe_that_ends_late::<ForItself>("a late drop", |gate, probe| gate.pass_on(ms(105), probe))
        .assert_none();
    a_probe_that_ends_late::<ForItself>("a late break", |gate, probe| gate.defer(ms(500), probe))
        .assert_none();
}

#[test]
fn the_same_model_finds_the_fault_of_probes_that_are_known_by_their_epoch() {
    let drops = a_probe_that_ends_late::<ForTheLast>("control: a late drop", |gate, probe| {
        gate.pass_on(ms(105), probe)
    });
    let two = "two probes".to_owned();
    assert!(drops.faults.contains(&two), "{:?}", drops.faults);
    let breaks = a_probe_that_ends_late::<ForTheLast>("control: a late break", |gate, probe| {
        gate.defer(ms(500), probe)
    });
    assert_eq!(breaks.faults, ["closed under the next probe"]);
}
