//! Tests of user code (log subscribers and wakers) that panics or calls the limiter.

mod common;

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use tinkers_core::{Admission, AttemptOutcome, RouteClass};
use tinkers_dispatch::{ByteSemaphore, LimiterSettings};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use common::{Bench, SECOND, accept, refuse, sample};

/// A log subscriber that calls a function for each event.
struct OnEvent<F>(F);

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Subscriber for OnEvent<F> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        (self.0)(event);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn no_wake_up_is_lost_if_a_log_subscriber_panics() {
    let bench = Bench::sampling(9, 1000, 99);
    refuse(bench.admit(sample()), Some(SECOND));
    let mut queue: Vec<_> = (0..6).map(|_| bench.ask(sample())).collect();
    bench.clock.advance(SECOND);
    let first_request = queue
        .iter_mut()
        .find_map(|waiting| waiting.try_admitted())
        .expect("a first request");
    let subscriber = OnEvent(|_: &Event<'_>| panic!("a panicking log layer"));
    let settled = catch_unwind(AssertUnwindSafe(|| {
        tracing::subscriber::with_default(subscriber, || {
            first_request.permit.settle(AttemptOutcome::Accepted)
        });
    }));
    assert!(settled.is_ok(), "the panic is caught");
    drop(first_request.in_flight_permit);
    let admitted: Vec<_> = queue
        .iter_mut()
        .filter_map(|waiting| waiting.try_admitted())
        .collect();
    assert_eq!(admitted.len(), 5, "each waiter was woken");
    admitted.into_iter().for_each(accept);
    bench.assert_all_given_back();
}

#[test]
fn log_subscriber_may_use_the_limiter() {
    let bench = Arc::new(Bench::sampling(9, 1000, 99));
    let inner = Arc::clone(&bench);
    let subscriber = OnEvent(move |_: &Event<'_>| {
        // The subscriber behaves like a log shipper that sends through the same client.
        drop(inner.ask(sample()));
        let _ = inner.sample();
    });
    tracing::subscriber::with_default(subscriber, || {
        refuse(bench.admit(sample()), Some(SECOND));
    });
    assert_eq!(bench.sample().counts.refusals, 1);
    bench.assert_all_given_back();
}

/// The fields of all log events, each as text of the form `name=value`.
#[derive(Clone, Default)]
struct Fields(Arc<Mutex<Vec<String>>>);

impl Fields {
    /// Runs `work` and returns the fields of the events that it logs.
    fn of(work: impl FnOnce()) -> Vec<String> {
        let fields = Self::default();
        let written = fields.clone();
        let subscriber = OnEvent(move |event: &Event<'_>| event.record(&mut written.clone()));
        tracing::subscriber::with_default(subscriber, work);
        std::mem::take(&mut *fields.0.lock().unwrap())
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{}={value:?}", field.name());
        self.0.lock().unwrap().push(text);
    }
}

#[test]
fn refusal_is_logged_with_the_pause_that_it_causes() {
    let bench = Bench::sampling(9, 1000, 99);
    let fields = Fields::of(|| refuse(bench.admit(sample()), Some(7 * SECOND)));
    assert!(fields.contains(&"pause_ms=7000".to_owned()), "{fields:?}");
}

#[test]
fn requested_limits_are_logged_only_if_clients_request_different_ones() {
    let bench = Bench::sampling(9, 1000, 99);
    let settings = LimiterSettings::default();
    let mut requests = Vec::new();
    let mut log_of = |settings| Fields::of(|| requests.push(bench.request_limits(settings)));
    assert!(log_of(settings).is_empty());
    assert!(log_of(settings).is_empty(), "the same limits");
    let other = LimiterSettings {
        max_hint: SECOND,
        ..settings
    };
    assert_eq!(log_of(other).len(), 1);
}

/// A waker that uses the limiter when it is dropped.
struct UsesLimiterOnDrop(Arc<Bench>);

impl Wake for UsesLimiterOnDrop {
    fn wake(self: Arc<Self>) {}
}

impl Drop for UsesLimiterOnDrop {
    fn drop(&mut self) {
        let _ = self.0.sample();
    }
}

#[test]
fn task_wakers_are_dropped_without_the_limiter_lock() {
    let bench = Arc::new(Bench::sampling(1, 1000, 99));
    let held = bench.admit(sample());
    let mut pending = Box::pin(bench.admission.admit(sample()));
    for _ in 0..2 {
        let waker = Waker::from(Arc::new(UsesLimiterOnDrop(Arc::clone(&bench))));
        let polled = pending.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    drop(pending);
    accept(held);
    bench.assert_all_given_back();
}

struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        panic!("a panicking waker");
    }
}

#[test]
fn panicking_waker_does_not_stop_other_wake_ups() {
    let bench = Bench::sampling(2, 1000, 99);
    let held = [bench.admit(sample()), bench.admit(sample())];
    let broken = Waker::from(Arc::new(PanicsWhenWoken));
    let mut first = pin!(bench.admission.admit(sample()));
    let polled = first.as_mut().poll(&mut Context::from_waker(&broken));
    assert!(matches!(polled, Poll::Pending));
    let second = bench.ask(sample());
    for admitted in held {
        accept(admitted);
    }
    accept(second.admitted());
}

fn poll_with_broken_waker<F: Future + ?Sized>(work: std::pin::Pin<&mut F>) {
    let broken = Waker::from(Arc::new(PanicsWhenWoken));
    let polled = work.poll(&mut Context::from_waker(&broken));
    assert!(polled.is_pending());
}

#[test]
fn event_subscriber_with_a_panicking_waker_fails_no_request() {
    let bench = Bench::sampling(2, 1000, 99);
    let mut events = bench.limiter.events();
    let mut next = pin!(events.next());
    poll_with_broken_waker(next.as_mut());
    refuse(bench.admit(sample()), Some(SECOND));
    assert_eq!(bench.sample().counts.refusals, 1);
    bench.assert_all_given_back();
}

#[test]
fn gate_watcher_with_a_panicking_waker_fails_no_request() {
    let bench = Bench::sampling(2, 1000, 99);
    let mut closure = bench.admission.next_closure(RouteClass::Sample);
    poll_with_broken_waker(closure.as_mut());
    refuse(bench.admit(sample()), Some(SECOND));
    let mut closure = bench.admission.next_closure(RouteClass::Sample);
    poll_with_broken_waker(closure.as_mut());
    drop(bench.ask(sample()));
    bench.assert_all_given_back();
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn panicking_waker_does_not_stop_other_waiters_for_bytes() {
    let budget = ByteSemaphore::new(2);
    let taken = pin!(budget.acquire(2)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(held) = taken else {
        panic!("nothing was taken before");
    };
    let mut first = pin!(budget.acquire(1));
    poll_with_broken_waker(first.as_mut());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut second = pin!(budget.acquire(1));
    let polled = second.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    drop(held);
    assert!(woken.0.load(Ordering::SeqCst));
}
