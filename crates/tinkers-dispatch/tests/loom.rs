//! The queue of a lane under every interleaving: with hand-over, cancellation and refusals.
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
    AdmissionRequest, Admitted, ClientId, Cost, FixedJitter, ManualClock, Readmission, RouteClass,
    Settlement,
};
use tinkers_dispatch::{
    ClassSettings, Limiter, LimiterAdmission, LimiterSettings, PendingAdmission,
};

/// Forced switches.
const BOUND: usize = 3;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A wait that is polled by hand.
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
            flight: None,
            reentry: Readmission::New,
            is_nested: false,
        };
        let future = admission.wait(ask).expect("a lane with limits");
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

    /// As an executor does: polled again only when it was woken.
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
            flights: Some(8),
            rate: None,
        },
        ..LimiterSettings::default()
    }));
    let clock = Arc::new(ManualClock::new());
    let admission = Arc::new(limiter.admission(clock, Arc::new(FixedJitter(0.0))));
    (limiter, admission)
}

/// The server takes it and has its result at once.
fn accept(admitted: Admitted) {
    let Admitted { permit, flight, .. } = admitted;
    permit.settle(Settlement::Accepted);
    drop(flight);
}

/// What is wrong with a lane in which nothing should be left.
fn left(limiter: &Limiter) -> Vec<String> {
    let lane = limiter.snapshot().sample;
    let left = (
        lane.slots,
        lane.bytes,
        lane.in_flight,
        lane.waiting,
        lane.uncollected,
    );
    if left == (0, 0, 0, 0, 0) {
        Vec::new()
    } else {
        vec![format!("left: {left:?}")]
    }
}

#[test]
fn whoever_comes_while_a_slot_is_given_back_gets_it_or_is_woken_for_it() {
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
fn one_that_gives_up_while_it_is_let_through_passes_its_turn_on() {
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
fn two_that_give_back_let_two_through_in_order() {
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
fn nobody_goes_after_a_refusal_that_is_over() {
    explore("refuse and ask", BOUND, || {
        let (limiter, admission) = limiter(2);
        let held = Waiting::new(&admission).poll().expect("free");
        let refused = thread::spawn(move || {
            let Admitted { permit, flight, .. } = held;
            permit.settle(Settlement::Refused {
                hint: Some(Duration::from_secs(1)),
            });
            drop(flight);
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
fn a_flight_that_lands_while_somebody_joins_is_theirs() {
    explore("land and join", BOUND, || {
        let limiter = Arc::new(Limiter::new(LimiterSettings {
            sample: ClassSettings {
                slots: 4,
                bytes: None,
                flights: Some(1),
                rate: None,
            },
            ..LimiterSettings::default()
        }));
        let clock = Arc::new(ManualClock::new());
        let admission = Arc::new(limiter.admission(clock, Arc::new(FixedJitter(0.0))));
        let held = Waiting::new(&admission).poll().expect("free");
        held.permit.settle(Settlement::Accepted);
        let flight = held.flight;
        let lands = thread::spawn(move || drop(flight));
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
fn of_two_that_ask_for_limits_together_the_stricter_holds() {
    // Every lane is set anew by each, so two switches are as many as can be gone through.
    explore("two claims", 2, || {
        let limiter = Arc::new(Limiter::new(LimiterSettings::default()));
        let claim = |limiter: &Arc<Limiter>, slots| {
            let settings = LimiterSettings {
                rest: ClassSettings::slots(slots),
                ..LimiterSettings::default()
            };
            limiter.claim(settings, Arc::new(ManualClock::new()))
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

/// The same wait with the fault of a lane that forgets to hand over when somebody gives up: what `leave` would do is left undone by
/// forgetting the future, permit and all.
#[test]
fn a_turn_that_is_not_passed_on_is_found_out() {
    let findings = explore("control: a turn is kept", BOUND, || {
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
