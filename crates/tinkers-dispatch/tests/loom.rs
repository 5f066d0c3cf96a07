//! Loom models of the queue of a route class: hand-over of slots, cancellation and refusals, in every interleaving.
//!
//! Run with `cargo xtask loom tinkers-dispatch`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use explore::explore;
use loom::thread;
use tinkers_core::{
    AdmissionRequest, Admitted, AttemptOutcome, ClientId, Cost, FixedJitter, ManualClock,
    Readmission, RouteClass,
};
use tinkers_dispatch::{
    ClassSettings, Limiter, LimiterAdmission, LimiterSettings, PendingAdmission,
};

/// The maximum number of thread preemptions that loom explores in most of these models.
const BOUND: usize = 3;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The future of a request that asks for admission, polled by hand.
struct Waiting {
    future: Option<Pin<Box<PendingAdmission>>>,
    woken: Arc<Woken>,
}

impl Waiting {
    fn new(admission: &LimiterAdmission) -> Self {
        let ask = AdmissionRequest {
            class: RouteClass::Sample,
            client: ClientId(1),
            cost: Cost { bytes: 1 },
            deadline: None,
            in_flight_permit: None,
            readmission: Readmission::New,
            is_nested: false,
        };
        let future = admission.wait(ask).expect("a class with limits");
        Self {
            future: Some(Box::pin(future)),
            woken: Arc::default(),
        }
    }

    fn poll(&mut self) -> Option<Admitted> {
        let waker = Waker::from(Arc::clone(&self.woken));
        let future = self.future.as_mut()?;
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(admitted) => {
                self.future = None;
                Some(admitted.expect("no deadline"))
            }
            Poll::Pending => None,
        }
    }

    /// Polls the future if it was woken since the last poll, as an executor would.
    fn run(&mut self) -> Option<Admitted> {
        if self.woken.0.swap(0, Ordering::SeqCst) == 0 {
            return None;
        }
        self.poll()
    }
}

fn limiter(slots: u32) -> (Arc<Limiter>, Arc<LimiterAdmission>) {
    let limiter = Arc::new(Limiter::new(LimiterSettings {
        sample: ClassSettings {
            slots,
            bytes: Some(8),
            max_in_flight: Some(8),
            rate: None,
        },
        ..LimiterSettings::default()
    }));
    let clock = Arc::new(ManualClock::new());
    let admission = Arc::new(limiter.admission(clock, Arc::new(FixedJitter(0.0))));
    (limiter, admission)
}

/// Ends a request as accepted, and gives its permits back to the limiter.
fn accept(admitted: Admitted) {
    let Admitted {
        permit,
        in_flight_permit,
        ..
    } = admitted;
    permit.settle(AttemptOutcome::Accepted);
    drop(in_flight_permit);
}

/// Returns a description of the waiting requests and permits that are left in a limiter. Empty if none are left, as there should be at the
/// end of a model.
fn left(limiter: &Limiter) -> Vec<String> {
    let class = limiter.snapshot().sample;
    let left = (
        class.slots,
        class.bytes,
        class.in_flight,
        class.waiting,
        class.uncollected,
    );
    if left == (0, 0, 0, 0, 0) {
        Vec::new()
    } else {
        vec![format!("left: {left:?}")]
    }
}

#[test]
fn request_that_waits_during_a_slot_return_is_admitted() {
    explore("join and give back", BOUND, || {
        let (limiter, admission) = limiter(1);
        let held = Waiting::new(&admission).poll().expect("free");
        let giver = thread::spawn(move || accept(held));
        let mut waiting = Waiting::new(&admission);
        let mut admitted = waiting.poll();
        giver.join().unwrap();
        admitted = admitted.or_else(|| waiting.run());
        let mut faults = Vec::new();
        if admitted.is_none() {
            faults.push("forgotten".to_owned());
        }
        drop((admitted, waiting));
        faults.extend(left(&limiter));
        faults
    })
    .assert_none();
}

#[test]
fn slot_granted_to_a_dropped_waiter_goes_to_the_next_waiter() {
    explore("cancel and hand over", BOUND, || {
        let (limiter, admission) = limiter(1);
        let held = Waiting::new(&admission).poll().expect("free");
        let mut first = Waiting::new(&admission);
        let mut second = Waiting::new(&admission);
        assert!(first.poll().is_none() && second.poll().is_none());
        let giver = thread::spawn(move || accept(held));
        let quitter = thread::spawn(move || drop(first));
        giver.join().unwrap();
        quitter.join().unwrap();
        let mut faults = Vec::new();
        match second.run() {
            Some(admitted) => drop(admitted),
            None => faults.push("forgotten".to_owned()),
        }
        drop(second);
        faults.extend(left(&limiter));
        faults
    })
    .assert_none();
}

#[test]
fn two_returned_slots_admit_two_waiters_in_order() {
    explore("two give back", BOUND, || {
        let (limiter, admission) = limiter(2);
        let one = Waiting::new(&admission).poll().expect("free");
        let two = Waiting::new(&admission).poll().expect("free");
        let mut first = Waiting::new(&admission);
        let mut second = Waiting::new(&admission);
        assert!(first.poll().is_none() && second.poll().is_none());
        let giver = thread::spawn(move || drop(one));
        drop(two);
        let early = (first.run(), second.run());
        let mut faults = Vec::new();
        if early.0.is_none() && early.1.is_some() {
            faults.push("passed".to_owned());
        }
        giver.join().unwrap();
        let through = (
            early.0.or_else(|| first.run()),
            early.1.or_else(|| second.run()),
        );
        if through.0.is_none() || through.1.is_none() {
            faults.push("forgotten".to_owned());
        }
        drop((through, first, second));
        faults.extend(left(&limiter));
        faults
    })
    .assert_none();
}

#[test]
fn no_request_is_admitted_after_a_recorded_refusal() {
    explore("refuse and ask", BOUND, || {
        let (limiter, admission) = limiter(2);
        let held = Waiting::new(&admission).poll().expect("free");
        let refused = thread::spawn(move || {
            let Admitted {
                permit,
                in_flight_permit,
                ..
            } = held;
            permit.settle(AttemptOutcome::Refused {
                hint: Some(Duration::from_secs(1)),
            });
            drop(in_flight_permit);
        });
        let mut meanwhile = Waiting::new(&admission);
        let early = meanwhile.poll();
        refused.join().unwrap();
        let mut faults = Vec::new();
        if meanwhile.run().is_some() {
            faults.push("let through a closed gate".to_owned());
        }
        let mut late = Waiting::new(&admission);
        if late.poll().is_some() {
            faults.push("did not see the closed gate".to_owned());
        }
        drop((early, meanwhile, late));
        faults.extend(left(&limiter));
        faults
    })
    .assert_none();
}

#[test]
fn permit_returned_while_a_request_enters_the_queue_admits_the_request() {
    explore("land and join", BOUND, || {
        let limiter = Arc::new(Limiter::new(LimiterSettings {
            sample: ClassSettings {
                slots: 4,
                bytes: None,
                max_in_flight: Some(1),
                rate: None,
            },
            ..LimiterSettings::default()
        }));
        let clock = Arc::new(ManualClock::new());
        let admission = Arc::new(limiter.admission(clock, Arc::new(FixedJitter(0.0))));
        let held = Waiting::new(&admission).poll().expect("free");
        held.permit.settle(AttemptOutcome::Accepted);
        let in_flight_permit = held.in_flight_permit;
        let lands = thread::spawn(move || drop(in_flight_permit));
        let mut waiting = Waiting::new(&admission);
        let admitted = waiting.poll();
        lands.join().unwrap();
        let admitted = admitted.or_else(|| waiting.run());
        let mut faults = Vec::new();
        if admitted.is_none() {
            faults.push("forgotten".to_owned());
        }
        drop((admitted, waiting));
        faults.extend(left(&limiter));
        faults
    })
    .assert_none();
}

#[test]
fn stricter_of_two_concurrently_requested_limits_applies() {
    // Each request resizes every class, so more than two preemptions would take too long.
    explore("two limit requests", 2, || {
        let limiter = Arc::new(Limiter::new(LimiterSettings::default()));
        let claim = |limiter: &Arc<Limiter>, slots| {
            let settings = LimiterSettings {
                rest: ClassSettings::slots(slots),
                ..LimiterSettings::default()
            };
            limiter.request_limits(settings, Arc::new(ManualClock::new()))
        };
        let other = Arc::clone(&limiter);
        let strict = thread::spawn(move || claim(&other, 2));
        let generous = claim(&limiter, 3);
        let strict = strict.join().unwrap();
        let mut faults = Vec::new();
        let mut check = |slots| {
            let allowed = limiter.snapshot().rest.slots_allowed;
            if allowed != slots {
                faults.push(format!("{allowed} are allowed and not {slots}"));
            }
        };
        check(2);
        drop(strict);
        check(3);
        drop(generous);
        faults
    })
    .assert_none();
}

/// Checks that the model detects a planted fault (negative control): the future of an admitted request is forgotten instead of dropped. So
/// the request does not leave the queue, and its permit does not pass to the next waiting request.
#[test]
fn negative_control_forgotten_future_with_a_slot_is_detected() {
    let findings = explore("negative control: a grant is kept", BOUND, || {
        let (limiter, admission) = limiter(1);
        let held = Waiting::new(&admission).poll().expect("free");
        let mut first = Waiting::new(&admission);
        let mut second = Waiting::new(&admission);
        assert!(first.poll().is_none() && second.poll().is_none());
        let giver = thread::spawn(move || drop(held));
        let quitter =
            thread::spawn(move || drop(first.future.take().map(std::mem::ManuallyDrop::new)));
        giver.join().unwrap();
        quitter.join().unwrap();
        let mut faults = Vec::new();
        match second.run() {
            Some(admitted) => drop(admitted),
            None => faults.push("forgotten".to_owned()),
        }
        drop(second);
        faults.extend(left(&limiter));
        faults
    });
    assert!(findings.faults.iter().any(|fault| fault == "forgotten"));
}
