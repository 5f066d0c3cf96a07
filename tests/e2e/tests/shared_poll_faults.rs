//! Samples in flight while the shared poll fails or makes no progress, or when the client closes.
//! All tests run in virtual time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{Phase, Sent};
use tinkers_core::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers_e2e::training::{count, model, sleep};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, InProcess, LocalConfig, Rule};
use tinkers_session::SessionOptions;

const LATENCY: Duration = Duration::from_secs(20);
/// The progress deadline: a sample fails after this time without progress. After half of this time
/// without a result from the shared polls, the client polls for the sample individually.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

fn setup() -> Setup {
    Setup {
        options: SessionOptions {
            progress_deadline: PROGRESS_DEADLINE,
            ..SessionOptions::default()
        },
        latency: LATENCY,
        ..Setup::default()
    }
}

async fn sampler_of(harness: &Harness) -> SamplingClient {
    harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap()
}

/// Starts a server on which each sample takes 20 s, and creates a sampling client.
async fn start() -> (Harness, SamplingClient) {
    let harness = Harness::with(setup()).await;
    let sampler = sampler_of(&harness).await;
    (harness, sampler)
}

fn send(sampler: &SamplingClient) -> ApiFuture<SampleResponse> {
    sampler.sample(vec![1]).max_tokens(1).send()
}

/// Injects a fault into all shared polls, which return the results of many samples at once.
fn inject_into_shared_polls(harness: &Harness, fault: Fault) {
    let rule = Rule::on(routes::RETRIEVE_FUTURES).always();
    harness.faults.add(rule, fault);
}

#[tokio::test(start_paused = true)]
async fn status_402_delays_the_next_poll_and_counts_as_progress() {
    let (harness, sampler) = start().await;
    let began = harness.server.time().now();
    let unpaid = Rule::on(routes::RETRIEVE_FUTURES).times(200);
    harness.faults.add(unpaid, Fault::payment_required());
    send(&sampler).await.unwrap();
    // 200 pauses of 5 s exceed the progress deadline, so the sample only succeeds if each 402
    // counts as progress.
    let took = harness.server.time().now().since(began);
    assert!(took >= Duration::from_secs(1000), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn sample_fails_as_stalled_in_the_poll_phase_if_all_polls_fail() {
    let (harness, sampler) = start().await;
    inject_into_shared_polls(&harness, Fault::cut_before());
    let all = Rule::on(routes::RETRIEVE_FUTURE).always();
    harness.faults.add(all, Fault::cut_before());
    let error = send(&sampler).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stalled);
    let stalled = error.stalled().unwrap();
    assert_eq!(
        (stalled.phase, stalled.since),
        (Phase::Waiting, PROGRESS_DEADLINE)
    );
}

#[tokio::test(start_paused = true)]
async fn sample_missing_in_shared_polls_is_polled_individually() {
    let (harness, sampler) = start().await;
    let empty = json!({ "completions": [], "cursor": 0 });
    inject_into_shared_polls(&harness, Fault::json(StatusCode::OK, &empty));
    let began = harness.server.time().now();
    send(&sampler).await.unwrap();
    let took = harness.server.time().now().since(began);
    assert!(
        took >= PROGRESS_DEADLINE / 2 && took < PROGRESS_DEADLINE,
        "{took:?}"
    );
    // The client polls less often when responses arrive at once and contain no completions.
    let polls = count(&harness, routes::RETRIEVE_FUTURES);
    assert!(polls < 200, "{polls} polls in {took:?}");
}

#[tokio::test(start_paused = true)]
async fn abandoned_samples_are_acknowledged_or_cancelled() {
    let setup = setup();
    // Without cancellation requests, the server learns from the shared polls that a sample is abandoned.
    let flags = json!({ "sample_cancel_enabled": false });
    let rule = Rule::on(routes::DYNAMIC_CONFIG).always();
    setup.faults.add(rule, Fault::json(StatusCode::OK, &flags));
    let harness = Harness::with(setup).await;
    let sampler = sampler_of(&harness).await;
    let dropped = send(&sampler);
    let cancelled = send(&sampler);
    let limited = send(&sampler);
    let wanted = send(&sampler);
    sleep(&harness, 1).await;
    drop(dropped);
    cancelled.cancel();
    let error = limited.within(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    wanted.await.unwrap();
    // The next shared poll acknowledges the three abandoned samples.
    let next = send(&sampler);
    sleep(&harness, 2).await;
    let abandoned = send(&sampler);
    sleep(&harness, 1).await;
    drop(abandoned);
    next.await.unwrap();
    drop(sampler);
    sleep(&harness, 10).await;
    // Three samples had ended by then. The fourth sample was cancelled while it ran.
    assert_eq!(harness.engine.counts().cancelled, 1);
    let polls = harness.journal.of(routes::RETRIEVE_FUTURES).len();
    sleep(&harness, 300).await;
    assert_eq!(
        count(&harness, routes::RETRIEVE_FUTURES),
        polls,
        "no more polls are sent"
    );
}

#[tokio::test(start_paused = true)]
async fn acknowledgement_after_the_last_sample_times_out_after_5_s() {
    let (harness, sampler) = start().await;
    send(&sampler).await.unwrap();
    let count_before = count(&harness, routes::RETRIEVE_FUTURES);
    inject_into_shared_polls(&harness, Fault::delay(Duration::from_secs(3600)));
    drop(sampler);
    sleep(&harness, 60).await;
    let polls = harness.journal.of(routes::RETRIEVE_FUTURES);
    assert_eq!(polls.len() - count_before, 1);
    let last = polls.last().unwrap();
    let took = last.ended_at.expect("the poll timed out").since(last.at);
    assert_eq!(took, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn accepted_calls_finish_after_the_client_is_closed() {
    for session_polls in [true, false] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let harness = Harness::with(Setup {
            config,
            latency: LATENCY,
            ..Setup::default()
        })
        .await;
        let training = model(&harness).await;
        // The server does not cancel accepted calls.
        let finish = Rule::on("/api/v1/sessions/*").always();
        harness
            .faults
            .add(finish, Fault::json(StatusCode::OK, &json!({})));
        let sampler = sampler_of(&harness).await;
        let sample = send(&sampler);
        let step = training.optim_step(AdamParams::new(1e-3));
        sleep(&harness, 1).await;
        harness.close().await;
        sample.await.unwrap();
        step.await.unwrap();
        assert_eq!(send(&sampler).await.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_cancelled_by_closing_the_client_fail_with_closed() {
    let (harness, sampler) = start().await;
    let training = model(&harness).await;
    let second = Rule::on(routes::ASAMPLE).nth(2);
    harness
        .faults
        .add(second, Fault::delay(Duration::from_secs(5)));
    let sample = send(&sampler);
    sleep(&harness, 1).await;
    let unanswered = send(&sampler);
    let step = training.optim_step(AdamParams::new(1e-3));
    sleep(&harness, 1).await;
    harness.close().await;
    for (call, error) in [
        ("accepted", sample.await.unwrap_err()),
        ("unanswered", unanswered.await.unwrap_err()),
        ("step", step.await.unwrap_err()),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{call}: {error}");
    }
}

/// A transport that changes the order in which the client receives responses: the completion of a
/// sample arrives before the response to its submission. It also drops the first poll response that
/// contains completions.
#[derive(Debug)]
struct ReorderingTransport {
    inner: InProcess,
    client: ClientModel,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cursor: i64,
    has_submitted: bool,
    has_lost_completions: bool,
    /// The request ids of the samples whose submission responses the client has received.
    known_ids: BTreeSet<String>,
}

/// The client under test: the correct client, or the same client with a bug that the transport
/// simulates. The test must detect each bug.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ClientModel {
    Correct,
    /// The bug: the client advances its poll cursor (the position after the last received result)
    /// even if the poll response is lost.
    EarlyCursor,
    /// The bug: if the completion of a sample arrives before the response to its submission, the
    /// client discards the completion.
    DiscardsEarlyCompletions,
}

impl ReorderingTransport {
    async fn exchange(&self, mut request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let is = |route| request.path == route;
        let (is_submission, is_poll) = (is(routes::ASAMPLE), is(routes::RETRIEVE_FUTURES));
        if is_poll && self.client == ClientModel::EarlyCursor {
            let mut body: Value = serde_json::from_slice(&request.body).unwrap();
            body["prev_cursor"] = self.state.lock().unwrap().cursor.into();
            request.body = body.to_string().into();
        }
        let mut response = self.inner.send(request).await?;
        let mut body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        if is_submission {
            // All responses to submissions except the first are delayed until after the completion.
            let is_first = {
                let mut state = self.state.lock().unwrap();
                !std::mem::replace(&mut state.has_submitted, true)
            };
            if !is_first {
                self.inner.server().time().sleep(LATENCY * 2).await;
            }
            let id = body["request_id"].as_str().unwrap_or_default().to_owned();
            self.state.lock().unwrap().known_ids.insert(id);
        }
        if is_poll && response.status.is_success() {
            let mut state = self.state.lock().unwrap();
            state.cursor = body["cursor"].as_i64().unwrap();
            let completions = body["completions"].as_array_mut().unwrap();
            if self.client == ClientModel::DiscardsEarlyCompletions {
                completions.retain(|completion| {
                    let id = completion["request_id"].as_str().unwrap();
                    state.known_ids.contains(id)
                });
            }
            if !completions.is_empty() && !std::mem::replace(&mut state.has_lost_completions, true)
            {
                let kind = tinkers_core::TransportErrorKind::Broken;
                return Err(TransportError::new(
                    kind,
                    Sent::MaybeSent,
                    "the response was lost",
                ));
            }
            response.body = body.to_string().into();
        }
        Ok(response)
    }
}

impl Transport for ReorderingTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(self.exchange(request))
    }
}

/// Returns the time that three samples take when their completions arrive before the responses to
/// their submissions, and the first poll response with completions is lost.
async fn duration_with_early_completions(client: ClientModel) -> Duration {
    let (harness, _) = Harness::through(setup(), |inner| ReorderingTransport {
        inner,
        client,
        state: Mutex::default(),
    })
    .await;
    let sampler = sampler_of(&harness).await;
    let began = harness.server.time().now();
    let samples: Vec<_> = (0..3).map(|_| send(&sampler)).collect();
    for sample in samples {
        sample.await.unwrap();
    }
    harness.server.time().now().since(began)
}

#[tokio::test(start_paused = true)]
async fn results_arrive_promptly_if_completions_are_early_or_lost() {
    let took = duration_with_early_completions(ClientModel::Correct).await;
    assert!(took < PROGRESS_DEADLINE / 4, "{took:?}");
    // Negative controls: with either fault, samples wait until they poll individually.
    for client in [
        ClientModel::EarlyCursor,
        ClientModel::DiscardsEarlyCompletions,
    ] {
        let took = duration_with_early_completions(client).await;
        assert!(took >= PROGRESS_DEADLINE / 2, "{client:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_4000_polls_run_at_once_and_further_polls_start_in_order() {
    use tinkers_core::{AdmissionRequest, Cost, Readmission, RouteClass};
    let harness = Harness::with(setup()).await;
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new(harness.server.clone()));
    let session = tinkers_e2e::open(transport, SessionOptions::default())
        .await
        .unwrap();
    let caller = tinkers_core::SessionContext::caller(&*session);
    let client = tinkers_core::SessionContext::next_client(&*session);
    let admit = || {
        caller.admission.admit(AdmissionRequest {
            class: RouteClass::Poll,
            client,
            cost: Cost::default(),
            deadline: None,
            in_flight_permit: None,
            readmission: Readmission::New,
            is_nested: false,
        })
    };
    let mut permits = Vec::new();
    for _ in 0..4000 {
        permits.push(admit().await.unwrap());
    }
    let (mut oldest, mut younger) = (admit(), admit());
    let time = harness.server.time();
    let now = || time.now();
    assert!(time.deadline(now(), &mut oldest).await.is_none());
    assert!(time.deadline(now(), &mut younger).await.is_none());
    drop(permits.pop());
    assert!(time.deadline(now(), &mut younger).await.is_none());
    assert!(time.deadline(now(), &mut oldest).await.is_some());
}
