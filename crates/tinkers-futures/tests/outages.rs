//! Tests that calls and polls report their responses to the shared outage detector, and unpaid bills to the shared billing state.

mod support;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use support::{FakeSession, Step, session};
use tinkers_core::outage::OutageBackoff;
use tinkers_core::{
    Call, ClientId, Clock, Deduplication, ProfileUpdate, RecoveredError, RouteClass, ServerProfile,
    TransportErrorKind,
};
use tinkers_core::{Error, SessionContext};
use tinkers_futures::{Operation, Retrieval, retrieve};
use tinkers_wire::{ModelCreated, RequestKind};

const DONE: Step = Step::Json(200, r#"{"model_id": "m", "type": "create_model"}"#);

async fn poll(session: Arc<FakeSession>) -> Result<(), Error> {
    let retrieval = Retrieval {
        operation: Operation::new(session, "Test.run", RouteClass::Train),
        client: ClientId(0),
        request_id: "r".into(),
        kind: RequestKind::CreateModel,
        submitted_in: Duration::ZERO,
        queue_log: None,
    };
    retrieve::<ModelCreated>(retrieval).await.map(drop)
}

async fn call(session: Arc<FakeSession>) -> Result<(), Error> {
    let call = Call::get("/models", RouteClass::Rest);
    session.caller().call(call).await.map(drop)
}

/// Starts 20 backoffs of `class`, as after failed requests, and sends `request` after five seconds, which gets a response. Returns the
/// number of seconds after which all backoffs have ended.
fn backoffs_end<F>(class: RouteClass, request: fn(Arc<FakeSession>) -> F) -> u64
where
    F: Future<Output = Result<(), Error>>,
{
    let (session, server) = session([DONE]);
    let caller = session.caller();
    let start = server.clock.now();
    let pause = OutageBackoff {
        sent_at: start,
        not_before: start,
        until: start.after(Duration::from_secs(1000)),
    };
    let backoff = || {
        let outage = caller.outages.of(class);
        outage.back_off(pause, &*caller.time, &*caller.jitter)
    };
    server.drive(join(join_all((0..20).map(|_| backoff())), async {
        caller.time.sleep(Duration::from_secs(5)).await;
        request(Arc::clone(&session)).await.expect("a response");
    }));
    server.clock.now().since(start).as_secs()
}

#[test]
fn response_ends_the_backoffs_of_all_requests_of_its_route_class() {
    assert!(backoffs_end(RouteClass::Poll, poll) <= 7);
    assert!(backoffs_end(RouteClass::Rest, call) <= 7);
    // The response to a poll does not end the backoffs of other classes. There, one retry after another is sent early as an outage
    // check.
    assert!(backoffs_end(RouteClass::Rest, poll) > 15);
}

/// A log subscriber that counts warnings about an unpaid bill.
struct BillingWarnings(Arc<AtomicU64>);

impl tracing::Subscriber for BillingWarnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN && metadata.target().contains("billing")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn unpaid_bill_is_logged_once_a_minute() {
    for (bills, expected) in [(1, 1), (12, 1), (13, 2)] {
        let warnings = Arc::<AtomicU64>::default();
        tracing::subscriber::with_default(BillingWarnings(Arc::clone(&warnings)), || {
            let unpaid = std::iter::repeat_n(Step::Json(402, "{}"), bills);
            let (session, server) = session(unpaid.chain([DONE]));
            server.drive(poll(session)).expect("paid in the end");
        });
        assert_eq!(warnings.load(Ordering::SeqCst), expected, "{bills} bills");
    }
}

#[test]
fn poll_retries_5xx_if_the_server_reports_failures_in_2xx_bodies() {
    let failing = || std::iter::repeat_n(Step::Json(500, r#"{"detail": "restarting"}"#), 12);
    let (other, server) = session(failing());
    server.drive(poll(other)).expect_err("a failed operation");
    let (strict, server) = session(failing().chain([DONE]));
    let fact = ProfileUpdate::Deduplicates(Deduplication::Everything);
    *server.profile.lock().unwrap() = ServerProfile::default().learn(fact);
    server.drive(poll(strict)).expect("waited out");
}

#[test]
fn only_timeout_of_a_long_poll_is_retried_without_backoff() {
    use TransportErrorKind as K;
    // The limit of a poll is 45 s. A poll that takes at least half of it is a long poll.
    for (kind, milliseconds, backoff) in [
        (K::Timeout, 22_500, 0),
        (K::Timeout, 22_499, 500),
        (K::Timeout, 0, 500),
        (K::Broken, 44_000, 500),
        (K::Connect, 44_000, 500),
    ] {
        let held = Step::After(Duration::from_millis(milliseconds));
        let (session, server) = session([held, Step::Fails(kind), DONE]);
        server.drive(poll(session)).expect("a result");
        let now = server.clock.now().since_origin();
        let expected = Duration::from_millis(milliseconds + backoff);
        assert_eq!(now, expected, "{kind:?} after {milliseconds} ms");
    }
}

#[test]
fn each_retried_poll_is_counted_as_a_recovered_error() {
    let held = Step::After(Duration::from_secs(45));
    let timeout = Step::Fails(TransportErrorKind::Timeout);
    let not_ready = Step::Json(408, "{}");
    let script = [
        Step::Json(503, ""),
        Step::Json(400, ""),
        Step::Fails(TransportErrorKind::Broken),
        not_ready,
        held,
        timeout,
        Step::Json(200, "<html>"),
        DONE,
    ];
    let (session, server) = session(script);
    server.drive(poll(Arc::clone(&session))).expect("a result");
    let counts = session.caller().recovered_errors.snapshot();
    assert_eq!((counts.of(RecoveredError::Poll), counts.total()), (5, 5));
}
