//! Answers to the shared poll that may be in passing or final, in virtual time: no sampling client ends with one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{RecoveredError, Sent};
use tinkers_core::{
    BoxFuture, HttpRequest, HttpResponse, Transport, TransportError, TransportErrorKind,
};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, InProcess, LocalConfig, Rule};
use tinkers_session::SessionOptions;

const LATENCY: Duration = Duration::from_secs(20);

/// A transport whose first shared polls fail.
#[derive(Debug)]
struct Failing {
    direct: InProcess,
    kind: TransportErrorKind,
    left: AtomicUsize,
}

impl Transport for Failing {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let less = |left: usize| left.checked_sub(1);
        if request.path == routes::RETRIEVE_FUTURES
            && self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                .is_ok()
        {
            let failed = TransportError::new(self.kind, Sent::MaybeSent, "one bad answer");
            return Box::pin(std::future::ready(Err(failed)));
        }
        self.direct.send(request)
    }
}

async fn world_over(between: impl FnOnce(InProcess) -> Arc<dyn Transport>) -> InMemory {
    let options = SessionOptions::default();
    InMemory::slow(LATENCY, LocalConfig::default(), options, between).await
}

/// A world whose first `times` shared polls fail so, and a sampler.
async fn failing(kind: TransportErrorKind, times: usize) -> (InMemory, SamplingClient) {
    let world = world_over(|direct| {
        Arc::new(Failing {
            direct,
            kind,
            left: AtomicUsize::new(times),
        })
    })
    .await;
    let sampler = sampler_of(&world).await;
    (world, sampler)
}

async fn slow() -> (InMemory, SamplingClient) {
    let world = world_over(|direct| Arc::new(direct)).await;
    let sampler = sampler_of(&world).await;
    (world, sampler)
}

async fn sampler_of(world: &InMemory) -> SamplingClient {
    world.service.sampling(SCRIPTED).create().await.unwrap()
}

fn strike(world: &InMemory, route: &'static str, fault: Fault) {
    world.parts.faults.add(Rule::on(route).always(), fault);
}

fn count(world: &InMemory, route: &str) -> usize {
    world.parts.journal.of(route).len()
}

async fn sleep(world: &InMemory, seconds: u64) {
    let pause = Duration::from_secs(seconds);
    world.server.time().sleep(pause).await;
}

/// `n` samples at once, each of which has its own result, and each sampled once.
async fn all_come(world: &InMemory, sampler: &SamplingClient, n: u32) {
    let before = world.parts.engine.counts().samples;
    let send = |i: u32| sampler.sample(vec![i]).max_tokens(1).send();
    let sent: Vec<_> = (0..n).map(send).collect();
    for (i, sample) in sent.into_iter().enumerate() {
        let reply = sample.await.unwrap();
        assert_eq!(reply.sequences[0].tokens[..], [i as u32 + 1]);
    }
    let samples = world.parts.engine.counts().samples - before;
    assert_eq!(samples, u64::from(n), "each is sampled once");
}

const DOUBTFUL: [TransportErrorKind; 4] = [
    TransportErrorKind::Decode,
    TransportErrorKind::Tls,
    TransportErrorKind::Redirect,
    TransportErrorKind::TooLarge,
];

#[tokio::test(start_paused = true)]
async fn one_failed_shared_poll_does_not_end_the_client() {
    for kind in DOUBTFUL.into_iter().chain([TransportErrorKind::Broken]) {
        let (world, sampler) = failing(kind, 1).await;
        all_come(&world, &sampler, 5).await;
        // It was made once more, and nobody polled for itself before.
        assert_eq!(count(&world, routes::RETRIEVE_FUTURE), 5, "{kind:?}");
        assert!(count(&world, routes::RETRIEVE_FUTURES) > 0, "{kind:?}");
        all_come(&world, &sampler, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_page_of_a_proxy_does_not_end_the_client() {
    for status in [
        200, 302, 401, 403, 404, 405, 410, 413, 418, 421, 422, 431, 501,
    ] {
        let (world, sampler) = slow().await;
        let page = Fault::html(StatusCode::from_u16(status).unwrap());
        let once = Rule::on(routes::RETRIEVE_FUTURES).times(1);
        world.parts.faults.add(once, page);
        all_come(&world, &sampler, 5).await;
        assert_eq!(count(&world, routes::RETRIEVE_FUTURE), 5, "{status}");
        all_come(&world, &sampler, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn passing_failures_are_waited_out() {
    let (world, sampler) = slow().await;
    let passing = Rule::on(routes::RETRIEVE_FUTURES);
    let statuses = [500, 503, 409, 400, 400, 400, 408];
    for (nth, status) in (1..).zip(statuses) {
        let status = StatusCode::from_u16(status).unwrap();
        let fault = Fault::status(status, "passing");
        world.parts.faults.add(passing.clone().nth(nth), fault);
    }
    all_come(&world, &sampler, 3).await;
    assert_eq!(count(&world, routes::RETRIEVE_FUTURE), 3);
}

#[tokio::test(start_paused = true)]
async fn a_shared_poll_that_is_given_up_rests_while_each_sample_polls() {
    let (world, sampler) = slow().await;
    strike(
        &world,
        routes::RETRIEVE_FUTURES,
        Fault::status(StatusCode::NOT_FOUND, "no such session"),
    );
    all_come(&world, &sampler, 5).await;
    assert_eq!(count(&world, routes::RETRIEVE_FUTURES), 4, "three doubts");
    // It rests for half a minute, although there is something to acknowledge.
    sleep(&world, 10).await;
    assert_eq!(count(&world, routes::RETRIEVE_FUTURES), 4);
    world.parts.faults.clear();
    sleep(&world, 10).await;
    let fetched = count(&world, routes::RETRIEVE_FUTURE);
    all_come(&world, &sampler, 5).await;
    // It goes on: one poll announces each, and one more fetches it.
    assert!(count(&world, routes::RETRIEVE_FUTURES) > 4);
    assert_eq!(count(&world, routes::RETRIEVE_FUTURE) - fetched, 5);
    // What was fetched meanwhile is acknowledged.
    drop(sampler);
    sleep(&world, 10).await;
    let journal = world.parts.journal.of(routes::RETRIEVE_FUTURES);
    let taken = journal.iter().filter(|poll| poll.status == Some(200));
    assert!(taken.count() > 0);
}

#[tokio::test(start_paused = true)]
async fn transport_failures_beyond_the_budget_leave_each_sample_to_itself() {
    for kind in DOUBTFUL.into_iter().chain([TransportErrorKind::Credential]) {
        let (world, sampler) = failing(kind, usize::MAX).await;
        all_come(&world, &sampler, 5).await;
        all_come(&world, &sampler, 2).await;
        let counts = world.service.recovered_errors();
        assert!(counts.of(RecoveredError::SharedPoll) > 0, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_knows_nothing_ends_each_wait_with_its_reason() {
    let (world, sampler) = slow().await;
    let lost = || Fault::status(StatusCode::NOT_FOUND, "no such thing");
    strike(&world, routes::RETRIEVE_FUTURES, lost());
    strike(&world, routes::RETRIEVE_FUTURE, lost());
    let sent: Vec<_> = (0..5)
        .map(|i| sampler.sample(vec![i]).max_tokens(1).send())
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for sample in sent {
        let error = sample.await.unwrap_err();
        assert_eq!(
            (error.kind(), error.status()),
            (ErrorKind::NotFound, Some(404))
        );
        ids.extend(error.request_id().map(str::to_owned));
    }
    assert_eq!(ids.len(), 5);
    // The client goes on when the server does.
    world.parts.faults.clear();
    all_come(&world, &sampler, 3).await;
}
