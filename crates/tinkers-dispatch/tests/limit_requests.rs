//! Tests of limit requests while a limiter is in use, and of notifications when a gate closes.

mod common;

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use common::{Bench, SECOND, ask};
use http::{HeaderMap, StatusCode};
use tinkers_core::{Admission, AttemptOutcome, Clock, RouteClass};
use tinkers_dispatch::{ClassSettings, LimiterAdmission, LimiterSettings, Rate};

#[test]
fn changed_or_dropped_rate_limit_request_applies_to_waiters_at_once() {
    let bench = Bench::new(LimiterSettings::default());
    let asking = |interval| LimiterSettings {
        rest: ClassSettings {
            rate: Some(Rate { interval, burst: 1 }),
            ..ClassSettings::slots(16)
        },
        ..LimiterSettings::default()
    };
    let rest = || ask(RouteClass::Rest);
    let slow = bench.request_limits(asking(SECOND * 60));
    let first = bench.admit(rest());
    let mut second = bench.ask(rest());
    assert!(second.is_waiting());
    // A faster rate applies to waiters at once, and no rate limit admits them all.
    slow.replace(asking(SECOND));
    let second = second.admitted();
    let mut third = bench.ask(rest());
    assert!(third.is_waiting());
    drop(slow);
    drop((first, second, third.admitted()));
    bench.assert_all_given_back();
}

#[test]
fn requested_maximum_retry_delay_applies_until_its_guard_is_dropped() {
    let bench = Bench::new(LimiterSettings::default());
    let asking = |max_hint| LimiterSettings {
        max_hint,
        ..LimiterSettings::default()
    };
    for hours in [2u32, 1] {
        let _claim = bench.request_limits(asking(SECOND * (3600 * hours)));
        let rest = bench.admit(ask(RouteClass::Rest));
        let hint = Some(SECOND * 3600 * 24);
        rest.permit.settle(AttemptOutcome::Refused { hint });
        let now = bench.clock.now();
        let closed = bench.admission.closed_until(RouteClass::Rest);
        let closed = closed.expect("closed").since(now);
        assert_eq!(closed, SECOND * (3600 * hours));
        bench.clock.advance(closed);
    }
}

#[test]
fn gate_watcher_is_notified_each_time_the_gate_closes() {
    let bench = Bench::new(LimiterSettings::default());
    let class = RouteClass::Rest;
    let mut cx = Context::from_waker(Waker::noop());
    let [one, other] = [0, 1].map(|_| bench.admit(ask(class)));
    for refused in [one, other] {
        let mut closure = bench.admission.next_closure(class);
        assert!(closure.as_mut().poll(&mut cx).is_pending());
        refused
            .permit
            .settle(AttemptOutcome::Refused { hint: None });
        assert_eq!(closure.as_mut().poll(&mut cx), Poll::Ready(()));
    }
    let mut other_class = bench.admission.next_closure(RouteClass::Poll);
    assert!(other_class.as_mut().poll(&mut cx).is_pending());
}

/// A waker that records, each time it is called, the time at which the closed gate may open.
struct Watcher {
    admission: Arc<LimiterAdmission>,
    opens_at: Mutex<Vec<Option<Duration>>>,
}

impl Wake for Watcher {
    fn wake(self: Arc<Self>) {
        let closed = self.admission.closed_until(RouteClass::Rest);
        let opens_at = closed.map(|at| at.since_origin());
        self.opens_at.lock().unwrap().push(opens_at);
    }
}

#[test]
fn gate_is_closed_before_its_watchers_are_woken() {
    let bench = Bench::new(LimiterSettings::default());
    let class = RouteClass::Rest;
    let watcher = Arc::new(Watcher {
        admission: Arc::clone(&bench.admission),
        opens_at: Mutex::default(),
    });
    let waker = Waker::from(Arc::clone(&watcher));
    let mut cx = Context::from_waker(&waker);
    let mut permit = bench.admit(ask(class)).permit;
    // The head of a 429 ends the attempt as refused; the retry delay follows in the body.
    let mut closure = bench.admission.next_closure(class);
    assert!(closure.as_mut().poll(&mut cx).is_pending());
    permit.departure().head(
        StatusCode::TOO_MANY_REQUESTS,
        &HeaderMap::new(),
        SystemTime::UNIX_EPOCH,
    );
    let mut longer = bench.admission.next_closure(class);
    assert!(longer.as_mut().poll(&mut cx).is_pending());
    let hint = Some(SECOND * 60);
    permit.settle(AttemptOutcome::Refused { hint });
    let opens_at = watcher.opens_at.lock().unwrap().clone();
    assert_eq!(opens_at, [Some(SECOND), Some(SECOND * 60)]);
}
