//! Foreign code at the seams of the limiter: log subscribers and wakers that panic or call back.

mod common;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tinkers_core::{Admission, Settlement};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use common::{Bench, SECOND, accept, refuse, sample};

/// Does something for every event.
struct OnEvent<F>(F);

impl<F: Fn() + Send + Sync + 'static> Subscriber for OnEvent<F> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        (self.0)();
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn panicking_subscriber_loses_no_wake_up() {
    let bench = Bench::sampling(9, 1000, 99);
    refuse(bench.admit(sample()), Some(SECOND));
    let mut queue: Vec<_> = (0..6).map(|_| bench.ask(sample())).collect();
    bench.clock.advance(SECOND);
    let probe = queue
        .iter_mut()
        .find_map(|waiting| waiting.try_admitted())
        .expect("a probe");
    let subscriber = OnEvent(|| panic!("a log layer that breaks"));
    let settled = catch_unwind(AssertUnwindSafe(|| {
        tracing::subscriber::with_default(subscriber, || probe.permit.settle(Settlement::Accepted));
    }));
    assert!(settled.is_ok(), "the panic stays with the subscriber");
    drop(probe.flight);
    let admitted: Vec<_> = queue
        .iter_mut()
        .filter_map(|waiting| waiting.try_admitted())
        .collect();
    assert_eq!(admitted.len(), 5, "each waiter was woken");
    admitted.into_iter().for_each(accept);
    bench.assert_all_given_back();
}

#[test]
fn subscriber_may_use_the_limiter() {
    let bench = Arc::new(Bench::sampling(9, 1000, 99));
    let inner = Arc::clone(&bench);
    let subscriber = OnEvent(move || {
        // As a log shipper does that sends over the same client.
        drop(inner.ask(sample()));
        let _ = inner.sample();
    });
    tracing::subscriber::with_default(subscriber, || {
        refuse(bench.admit(sample()), Some(SECOND));
    });
    assert_eq!(bench.sample().counts.refusals, 1);
    bench.assert_all_given_back();
}

struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        panic!("a waker that breaks");
    }
}

#[test]
fn panicking_waker_keeps_no_other_waiter_asleep() {
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
