//! Limits that clients ask for while a limiter is in use, and closures that are watched.

mod common;

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use common::{Bench, SECOND, ask};
use http::{HeaderMap, StatusCode};
use tinkers_core::{Admission, Clock, RouteClass, Settlement};
use tinkers_dispatch::{ClassSettings, LimiterAdmission, LimiterSettings, Rate};

#[test]
fn the_rate_follows_what_clients_ask_for() {
    let bench = Bench::new(LimiterSettings::default());
    let asking = |interval| LimiterSettings {
        rest: ClassSettings {
            rate: Some(Rate { interval, burst: 1 }),
            ..ClassSettings::slots(16)
        },
        ..LimiterSettings::default()
    };
    let rest = || ask(RouteClass::Rest);
    let slow = bench.claim(asking(SECOND * 60));
    let first = bench.admit(rest());
    let mut second = bench.ask(rest());
    assert!(second.is_waiting());
    // A faster rate reaches those who wait, and none at all lets all through.
    slow.replace(asking(SECOND));
    let second = second.admitted();
    let mut third = bench.ask(rest());
    assert!(third.is_waiting());
    drop(slow);
    drop((first, second, third.admitted()));
    bench.assert_all_given_back();
}

#[test]
fn the_longest_hint_follows_what_clients_ask_for() {
    let bench = Bench::new(LimiterSettings::default());
    let asking = |max_hint| LimiterSettings {
        max_hint,
        ..LimiterSettings::default()
    };
    for hours in [2u32, 1] {
        let _claim = bench.claim(asking(SECOND * (3600 * hours)));
        let rest = bench.admit(ask(RouteClass::Rest));
        let hint = Some(SECOND * 3600 * 24);
        rest.permit.settle(Settlement::Refused { hint });
        let now = bench.clock.now();
        let closed = bench.admission.closed_until(RouteClass::Rest);
        let closed = closed.expect("closed").since(now);
        assert_eq!(closed, SECOND * (3600 * hours));
        bench.clock.advance(closed);
    }
}

#[test]
fn who_watches_a_class_hears_of_each_closure() {
    let bench = Bench::new(LimiterSettings::default());
    let class = RouteClass::Rest;
    let mut cx = Context::from_waker(Waker::noop());
    let [one, other] = [0, 1].map(|_| bench.admit(ask(class)));
    for refused in [one, other] {
        let mut closure = bench.admission.next_closure(class);
        assert!(closure.as_mut().poll(&mut cx).is_pending());
        refused.permit.settle(Settlement::Refused { hint: None });
        assert_eq!(closure.as_mut().poll(&mut cx), Poll::Ready(()));
    }
    let mut other_class = bench.admission.next_closure(RouteClass::Poll);
    assert!(other_class.as_mut().poll(&mut cx).is_pending());
}

/// Reads when the gate opens whenever it is woken.
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
fn closure_is_in_force_when_watchers_are_woken() {
    let bench = Bench::new(LimiterSettings::default());
    let class = RouteClass::Rest;
    let watcher = Arc::new(Watcher {
        admission: Arc::clone(&bench.admission),
        opens_at: Mutex::default(),
    });
    let waker = Waker::from(Arc::clone(&watcher));
    let mut cx = Context::from_waker(&waker);
    let mut permit = bench.admit(ask(class)).permit;
    // The head of a 429 settles the attempt as refused, and its body then brings the hint.
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
    permit.settle(Settlement::Refused { hint });
    let opens_at = watcher.opens_at.lock().unwrap().clone();
    assert_eq!(opens_at, [Some(SECOND), Some(SECOND * 60)]);
}
