//! A test with threads that share a route class: never more requests than slots at once, and every unit is returned.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tinkers_core::{
    Admission, AdmissionRequest, AttemptOutcome, ClientId, Cost, FixedJitter, ManualClock,
    Readmission, RouteClass,
};
use tinkers_dispatch::{ClassSettings, Limiter, LimiterSettings};

const THREADS: usize = 8;
const ROUNDS: usize = 2_000;
const SLOTS: u32 = 3;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

fn ask(bytes: u64) -> AdmissionRequest {
    AdmissionRequest {
        class: RouteClass::Sample,
        client: ClientId(1),
        cost: Cost { bytes },
        deadline: None,
        in_flight_permit: None,
        readmission: Readmission::New,
        is_nested: false,
    }
}

#[test]
fn threads_sharing_a_route_class_return_all_permits() {
    let limiter = Arc::new(Limiter::new(LimiterSettings {
        sample: ClassSettings {
            slots: SLOTS,
            bytes: Some(100),
            max_in_flight: Some(5),
            rate: None,
        },
        ..LimiterSettings::default()
    }));
    let admission = limiter.admission(Arc::new(ManualClock::new()), Arc::new(FixedJitter(0.0)));
    let (inside, peak, served) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (admission, inside, peak, served) = (&admission, &inside, &peak, &served);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    if (round + thread) % 9 == 0 {
                        // The future is dropped after one poll, granted or not.
                        let mut given_up = admission.admit(ask(7));
                        let _outcome = given_up
                            .as_mut()
                            .poll(&mut Context::from_waker(Waker::noop()));
                        continue;
                    }
                    let admitted = block_on(admission.admit(ask(40))).expect("no deadline");
                    peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    served.fetch_add(1, Ordering::SeqCst);
                    admitted.permit.settle(AttemptOutcome::Accepted);
                }
            });
        }
    });
    let peak = peak.into_inner();
    assert!(peak <= u64::from(SLOTS), "{peak} inside at once");
    assert!(peak > 1, "no two threads overlapped: inconclusive");
    let given_up = (0..THREADS * ROUNDS)
        .filter(|n| (n % ROUNDS + n / ROUNDS).is_multiple_of(9))
        .count();
    assert_eq!(served.into_inner() as usize, THREADS * ROUNDS - given_up);
    let left = limiter.class_snapshot(RouteClass::Sample).expect("a class");
    assert_eq!(
        (left.waiting, left.slots, left.bytes, left.in_flight),
        (0, 0, 0, 0)
    );
}
