//! Failed shared polls whose cause may be transient or final. The sampling client survives each of
//! them. All tests run in virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{RecoveredError, Sent};
use tinkers_core::{
    BoxFuture, HttpRequest, HttpResponse, Transport, TransportError, TransportErrorKind,
};
use tinkers_e2e::training::{count, sleep};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, InProcess, Rule};

const LATENCY: Duration = Duration::from_secs(20);

/// A transport that fails the first shared polls (requests for the results of many samples at once)
/// with a transport error.
#[derive(Debug)]
struct FailingTransport {
    inner: InProcess,
    kind: TransportErrorKind,
    failures_left: AtomicUsize,
}

impl Transport for FailingTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let decrement = |left: usize| left.checked_sub(1);
        if request.path == routes::RETRIEVE_FUTURES
            && self
                .failures_left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, decrement)
                .is_ok()
        {
            let failed = TransportError::new(self.kind, Sent::MaybeSent, "an injected failure");
            return Box::pin(std::future::ready(Err(failed)));
        }
        self.inner.send(request)
    }
}

fn setup() -> Setup {
    Setup {
        latency: LATENCY,
        ..Setup::default()
    }
}

/// Starts a client and creates a sampling client. The first `times` shared polls (requests for the
/// results of many samples at once) fail with a transport error of the given kind.
async fn start_with_failures(kind: TransportErrorKind, times: usize) -> (Harness, SamplingClient) {
    let (harness, _) = Harness::through(setup(), |inner| FailingTransport {
        inner,
        kind,
        failures_left: AtomicUsize::new(times),
    })
    .await;
    let sampler = sampler_of(&harness).await;
    (harness, sampler)
}

/// Starts a server on which each sample takes 20 s, and creates a sampling client.
async fn start() -> (Harness, SamplingClient) {
    let harness = Harness::with(setup()).await;
    let sampler = sampler_of(&harness).await;
    (harness, sampler)
}

async fn sampler_of(harness: &Harness) -> SamplingClient {
    harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap()
}

/// Injects a fault into all requests to a route.
fn inject_always(harness: &Harness, route: &'static str, fault: Fault) {
    harness.faults.add(Rule::on(route).always(), fault);
}

/// Requests `n` samples. Asserts that each call receives the result for its own prompt, and that
/// the server samples each prompt once.
async fn assert_samples_succeed(harness: &Harness, sampler: &SamplingClient, n: u32) {
    let count_before = harness.engine.counts().samples;
    let send = |i: u32| sampler.sample(vec![i]).max_tokens(1).send();
    let samples: Vec<_> = (0..n).map(send).collect();
    for (i, sample) in samples.into_iter().enumerate() {
        let reply = sample.await.unwrap();
        assert_eq!(reply.sequences[0].tokens[..], [i as u32 + 1]);
    }
    let sampled = harness.engine.counts().samples - count_before;
    assert_eq!(sampled, u64::from(n), "each is sampled once");
}

/// The kinds of transport errors that may be transient or permanent, so that the client cannot know
/// whether a retry helps.
const AMBIGUOUS: [TransportErrorKind; 4] = [
    TransportErrorKind::Decode,
    TransportErrorKind::Tls,
    TransportErrorKind::Redirect,
    TransportErrorKind::TooLarge,
];

#[tokio::test(start_paused = true)]
async fn failed_shared_poll_is_retried() {
    for kind in AMBIGUOUS.into_iter().chain([TransportErrorKind::Broken]) {
        let (harness, sampler) = start_with_failures(kind, 1).await;
        assert_samples_succeed(&harness, &sampler, 5).await;
        // Only the shared poll was retried: each sample sent one poll of its own to fetch the
        // result.
        assert_eq!(count(&harness, routes::RETRIEVE_FUTURE), 5, "{kind:?}");
        assert!(count(&harness, routes::RETRIEVE_FUTURES) > 0, "{kind:?}");
        assert_samples_succeed(&harness, &sampler, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn proxy_error_page_to_a_shared_poll_is_retried() {
    for status in [
        200, 302, 401, 403, 404, 405, 410, 413, 418, 421, 422, 431, 501,
    ] {
        let (harness, sampler) = start().await;
        let page = Fault::html(StatusCode::from_u16(status).unwrap());
        let once = Rule::on(routes::RETRIEVE_FUTURES).times(1);
        harness.faults.add(once, page);
        assert_samples_succeed(&harness, &sampler, 5).await;
        assert_eq!(count(&harness, routes::RETRIEVE_FUTURE), 5, "{status}");
        assert_samples_succeed(&harness, &sampler, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn http_errors_of_shared_polls_are_retried() {
    let (harness, sampler) = start().await;
    let polls = Rule::on(routes::RETRIEVE_FUTURES);
    let statuses = [500, 503, 409, 400, 400, 400, 408];
    for (nth, status) in (1..).zip(statuses) {
        let status = StatusCode::from_u16(status).unwrap();
        let fault = Fault::status(status, "busy");
        harness.faults.add(polls.clone().nth(nth), fault);
    }
    assert_samples_succeed(&harness, &sampler, 3).await;
    assert_eq!(count(&harness, routes::RETRIEVE_FUTURE), 3);
}

#[tokio::test(start_paused = true)]
async fn shared_polls_resume_after_many_404s_and_acknowledge_results() {
    let (harness, sampler) = start().await;
    inject_always(
        &harness,
        routes::RETRIEVE_FUTURES,
        Fault::status(StatusCode::NOT_FOUND, "no such session"),
    );
    assert_samples_succeed(&harness, &sampler, 5).await;
    assert_eq!(
        count(&harness, routes::RETRIEVE_FUTURES),
        4,
        "three retries"
    );
    // The client pauses the shared poll for half a minute, although it has not acknowledged all
    // completions.
    sleep(&harness, 10).await;
    assert_eq!(count(&harness, routes::RETRIEVE_FUTURES), 4);
    harness.faults.clear();
    sleep(&harness, 10).await;
    let fetched_before = count(&harness, routes::RETRIEVE_FUTURE);
    assert_samples_succeed(&harness, &sampler, 5).await;
    // The shared poll has resumed: each sample sends one poll of its own to fetch the result.
    assert!(count(&harness, routes::RETRIEVE_FUTURES) > 4);
    assert_eq!(count(&harness, routes::RETRIEVE_FUTURE) - fetched_before, 5);
    // The client acknowledges the results that it fetched during the pause.
    drop(sampler);
    sleep(&harness, 10).await;
    let journal = harness.journal.of(routes::RETRIEVE_FUTURES);
    let succeeded = journal.iter().filter(|poll| poll.status == Some(200));
    assert!(succeeded.count() > 0);
}

#[tokio::test(start_paused = true)]
async fn samples_poll_individually_after_many_transport_failures() {
    for kind in AMBIGUOUS
        .into_iter()
        .chain([TransportErrorKind::Credential])
    {
        let (harness, sampler) = start_with_failures(kind, usize::MAX).await;
        assert_samples_succeed(&harness, &sampler, 5).await;
        assert_samples_succeed(&harness, &sampler, 2).await;
        let counts = harness.service.recovered_errors();
        assert!(counts.of(RecoveredError::SharedPoll) > 0, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn samples_with_request_ids_unknown_to_the_server_fail_as_not_found() {
    let (harness, sampler) = start().await;
    let not_found = || Fault::status(StatusCode::NOT_FOUND, "no such request");
    inject_always(&harness, routes::RETRIEVE_FUTURES, not_found());
    inject_always(&harness, routes::RETRIEVE_FUTURE, not_found());
    let samples: Vec<_> = (0..5)
        .map(|i| sampler.sample(vec![i]).max_tokens(1).send())
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for sample in samples {
        let error = sample.await.unwrap_err();
        assert_eq!(
            (error.kind(), error.status()),
            (ErrorKind::NotFound, Some(404))
        );
        ids.extend(error.request_id().map(str::to_owned));
    }
    assert_eq!(ids.len(), 5);
    // The client works again as soon as the server does.
    harness.faults.clear();
    assert_samples_succeed(&harness, &sampler, 3).await;
}
