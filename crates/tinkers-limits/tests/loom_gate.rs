//! Loom models of the backoff gate. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::time::Duration;

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{BackoffGate, Epoch, FirstRequest, GatePass, GateState};

const PATIENCE: u64 = 100;

/// A gate to be tested, with times in milliseconds: the real gate, or one with a planted fault (negative control).
trait Gate: Send + Sync + 'static {
    type Epoch: Copy + Send + 'static;

    fn new() -> Self;
    fn epoch(&self) -> Self::Epoch;
    /// Closes the gate until `until`, for a refused request that was admitted in the epoch `seen`. Returns whether this is the first
    /// refusal of a congestion event (a group of concurrent refusals).
    fn close(&self, until: u64, seen: Self::Epoch) -> bool;
    /// Asks the gate to admit a request at `now`. Returns whether the request is the first one after a rate-limit pause, or `None` if the
    /// request is not admitted.
    fn enter(&self, now: u64) -> Option<bool>;
    /// Records a response, other than a refusal (429), to a request that was admitted in the gate epoch `seen`.
    fn succeeded(&self, seen: Self::Epoch);
    /// Returns the deadline of a closed gate, or `None` if the gate is not closed.
    fn closed_until(&self) -> Option<u64>;
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Gate for BackoffGate {
    type Epoch = Epoch;

    fn new() -> Self {
        Self::new()
    }

    fn epoch(&self) -> Epoch {
        self.epoch()
    }

    fn close(&self, until: u64, seen: Epoch) -> bool {
        self.close(ms(until), seen).is_new_event
    }

    fn enter(&self, now: u64) -> Option<bool> {
        let pass = self.enter(ms(now), ms(PATIENCE)).ok();
        pass.map(GatePass::is_first_request)
    }

    fn succeeded(&self, seen: Epoch) {
        self.reopen(seen);
    }

    fn closed_until(&self) -> Option<u64> {
        match self.state() {
            GateState::ClosedUntil(until) => Some(until.as_millis() as u64),
            GateState::Open | GateState::FirstRequestSince(_) => None,
        }
    }
}

/// A gate with a planted fault: the last refusal sets the deadline, even if an earlier refusal had a later one, and any success opens the
/// gate.
struct LastWriterWins(AtomicU64);

impl Gate for LastWriterWins {
    type Epoch = ();

    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn epoch(&self) {}

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

/// Models two concurrent refusals (429 responses), and a request that asks the gate for admission meanwhile.
fn two_refusals_and_an_admission<G: Gate>() -> Findings {
    explore("two refusals and an admission", 3, || {
        let gate = Arc::new(G::new());
        let seen = gate.epoch();
        let is_long_closed = Arc::new(AtomicU64::new(0));
        let close = |until| {
            let (gate, flag) = (Arc::clone(&gate), Arc::clone(&is_long_closed));
            spawn(move || {
                let is_first = gate.close(until, seen);
                if until == 9 {
                    flag.store(1, Ordering::Release);
                }
                is_first
            })
        };
        let closers = [close(5), close(9)];
        let was_closed = is_long_closed.load(Ordering::Acquire) == 1;
        let entered = gate.enter(6);
        let events = closers.map(join).into_iter().filter(|first| *first).count();
        let mut faults = Vec::new();
        if was_closed && entered.is_some() {
            faults.push("admitted before the deadline".to_owned());
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
fn concurrent_refusals_count_once_and_the_later_deadline_applies() {
    two_refusals_and_an_admission::<BackoffGate>().assert_none();
}

#[test]
fn negative_control_later_deadline_overwritten_by_earlier_is_detected() {
    let faults = two_refusals_and_an_admission::<LastWriterWins>().faults;
    for fault in ["the deadline was shortened", "admitted before the deadline"] {
        assert!(faults.contains(&fault.to_owned()), "{faults:?}");
    }
}

/// Models a success of the first request after a rate-limit pause while another request, which was admitted before the pause, is refused.
/// The gate must stay closed for that refusal.
fn first_request_and_late_refusal<G: Gate>() -> Findings {
    explore("first request and late refusal", 3, || {
        let gate = Arc::new(G::new());
        let old = gate.epoch();
        gate.close(10, old);
        let first_request = gate.epoch();
        assert_eq!(gate.enter(10), Some(true));
        let response = {
            let gate = Arc::clone(&gate);
            spawn(move || gate.succeeded(first_request))
        };
        gate.close(30, old);
        join(response);
        let is_closed = gate.closed_until() == Some(30);
        let fault = (!is_closed).then(|| "reopened early".to_owned());
        fault.into_iter().collect()
    })
}

#[test]
fn success_of_the_first_request_does_not_undo_a_later_refusal() {
    first_request_and_late_refusal::<BackoffGate>().assert_none();
}

#[test]
fn negative_control_success_that_opens_a_closed_gate_is_detected() {
    let faults = first_request_and_late_refusal::<LastWriterWins>().faults;
    assert_eq!(faults, ["reopened early"]);
}

#[test]
fn dropped_first_request_never_opens_a_closed_gate() {
    let findings = explore("dropped first request and refusal", 3, || {
        let gate = Arc::new(BackoffGate::new());
        let old = gate.epoch();
        gate.close(ms(10), old);
        let first_request = enter(&gate, 10).expect("a first request is due");
        let dropped = {
            let gate = Arc::clone(&gate);
            spawn(move || gate.hand_over_first_request(ms(12), first_request))
        };
        let next = {
            let gate = Arc::clone(&gate);
            spawn(move || gate.enter(ms(12), ms(PATIENCE)).is_ok())
        };
        gate.close(ms(30), old);
        let handed_over = join(dropped);
        let admitted = join(next);
        let mut faults = Vec::new();
        if gate.closed_until() != Some(30) {
            faults.push(format!("{:?}", gate.state()));
        }
        if admitted && !handed_over {
            faults.push("two first requests".to_owned());
        }
        faults
    });
    findings.assert_none();
}

#[test]
fn exactly_one_request_replaces_a_dropped_first_request() {
    let findings = explore("dropped first request and admission", 3, || {
        let gate = Arc::new(BackoffGate::new());
        gate.close(ms(10), gate.epoch());
        let first_request = enter(&gate, 10).expect("a first request is due");
        let others = [(); 2].map(|()| {
            let gate = Arc::clone(&gate);
            spawn(move || gate.enter(ms(12), ms(PATIENCE)).is_ok())
        });
        assert!(
            gate.hand_over_first_request(ms(12), first_request),
            "no other thread ended it"
        );
        let admitted = others
            .map(join)
            .into_iter()
            .filter(|admitted| *admitted)
            .count();
        let is_free = gate.enter(ms(12), ms(PATIENCE)).is_ok();
        let is_right = matches!((admitted, is_free), (1, false) | (0, true));
        let fault = (!is_right).then(|| format!("{admitted} admitted, and one more: {is_free}"));
        fault.into_iter().collect()
    });
    findings.assert_none();
}

fn enter(gate: &BackoffGate, now: u64) -> Option<FirstRequest> {
    let pass = gate.enter(ms(now), ms(PATIENCE)).ok()?;
    pass.first_request()
}

/// A way to report to the gate that a first request after a rate-limit pause has ended: the real way, or one with a planted fault (negative
/// control).
trait EndReport: Send + Sync + 'static {
    fn new(first: FirstRequest) -> Self;
    /// Records that `first_request` was admitted as the first request after a rate-limit pause, in place of an earlier one.
    fn started(&self, first_request: FirstRequest);
    /// Returns the request whose end is reported to the gate when `first_request` ends. The correct one is `first_request` itself.
    fn ended(&self, first_request: FirstRequest) -> FirstRequest;
}

/// The real behaviour: when the first request after a rate-limit pause ends, the end of this same request is reported to the gate.
struct OwnFirstRequest;

impl EndReport for OwnFirstRequest {
    fn new(_: FirstRequest) -> Self {
        Self
    }

    fn started(&self, _: FirstRequest) {}

    fn ended(&self, first_request: FirstRequest) -> FirstRequest {
        first_request
    }
}

/// A planted fault: when a first request after a rate-limit pause ends, the end of the latest such request is reported to the gate, which
/// may be another one.
struct LatestFirstRequest(Mutex<FirstRequest>);

impl EndReport for LatestFirstRequest {
    fn new(first: FirstRequest) -> Self {
        Self(Mutex::new(first))
    }

    fn started(&self, first_request: FirstRequest) {
        *self.0.lock().unwrap() = first_request;
    }

    fn ended(&self, _: FirstRequest) -> FirstRequest {
        *self.0.lock().unwrap()
    }
}

/// Models the late end of the first request after a rate-limit pause, while a second and possibly a third request try to replace it. At
/// most one of them may be admitted.
fn late_end_of_a_first_request<E: EndReport>(
    name: &str,
    end: fn(&BackoffGate, FirstRequest) -> bool,
) -> Findings {
    explore(name, 3, move || {
        let gate = Arc::new(BackoffGate::new());
        gate.close(ms(10), gate.epoch());
        let first = enter(&gate, 10).expect("a first request is due");
        let ends = Arc::new(E::new(first));
        let late = {
            let (gate, ends) = (Arc::clone(&gate), Arc::clone(&ends));
            spawn(move || end(&gate, ends.ended(first)))
        };
        let next = {
            let (gate, ends) = (Arc::clone(&gate), Arc::clone(&ends));
            spawn(move || enter(&gate, 110).inspect(|first_request| ends.started(*first_request)))
        };
        let third = enter(&gate, 120);
        let ended = join(late);
        let admitted = [join(next), third].into_iter().flatten().count();
        let mut faults = Vec::new();
        if admitted > 1 {
            faults.push("two first requests".to_owned());
        }
        let is_pending = matches!(gate.state(), GateState::FirstRequestSince(_));
        if admitted > 0 && !is_pending {
            faults.push("closed while the next first request is in flight".to_owned());
        }
        if admitted == 0 && !ended {
            faults.push("neither ended nor replaced".to_owned());
        }
        faults
    })
}

#[test]
fn first_request_that_ends_late_does_not_end_the_one_that_replaced_it() {
    late_end_of_a_first_request::<OwnFirstRequest>("late drop", |gate, first_request| {
        gate.hand_over_first_request(ms(105), first_request)
    })
    .assert_none();
    late_end_of_a_first_request::<OwnFirstRequest>(
        "late connection error",
        |gate, first_request| gate.defer_first_request(ms(500), first_request),
    )
    .assert_none();
}

#[test]
fn negative_control_end_of_the_wrong_first_request_is_detected() {
    let drops = late_end_of_a_first_request::<LatestFirstRequest>(
        "negative control: late drop",
        |gate, first_request| gate.hand_over_first_request(ms(105), first_request),
    );
    let two = "two first requests".to_owned();
    assert!(drops.faults.contains(&two), "{:?}", drops.faults);
    let breaks = late_end_of_a_first_request::<LatestFirstRequest>(
        "negative control: late connection error",
        |gate, first_request| gate.defer_first_request(ms(500), first_request),
    );
    assert_eq!(
        breaks.faults,
        ["closed while the next first request is in flight"]
    );
}
