//! What becomes of samples in flight when the session's poll fails, stalls, or ends with its client, in virtual time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{FinishReason, Phase, Sent};
use tinkers_core::{BoxFuture, Clock, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, InProcess, LocalConfig, Rule};
use tinkers_session::SessionOptions;

const LATENCY: Duration = Duration::from_secs(20);
/// Without news for so long an operation counts as stalled; after half of it a sample asks for itself.
const PATIENCE: Duration = Duration::from_secs(600);

async fn world_over(between: impl FnOnce(InProcess) -> Arc<dyn Transport>) -> InMemory {
    let options = SessionOptions {
        progress_deadline: PATIENCE,
        ..SessionOptions::default()
    };
    InMemory::slow(LATENCY, LocalConfig::default(), options, between).await
}

async fn sampler_of(world: &InMemory) -> SamplingClient {
    world.service.sampling(SCRIPTED).create().await.unwrap()
}

async fn slow() -> (InMemory, SamplingClient) {
    let world = world_over(|direct| Arc::new(direct)).await;
    let sampler = sampler_of(&world).await;
    (world, sampler)
}

fn send(sampler: &SamplingClient) -> ApiFuture<SampleResponse> {
    sampler.sample(vec![1]).max_tokens(1).send()
}

async fn sleep(world: &InMemory, seconds: u64) {
    world
        .server
        .time()
        .sleep(Duration::from_secs(seconds))
        .await;
}

fn strike(world: &InMemory, fault: Fault) {
    let rule = Rule::on(routes::RETRIEVE_FUTURES).always();
    world.parts.faults.add(rule, fault);
}

fn count(world: &InMemory, route: &str) -> usize {
    world.parts.journal.of(route).len()
}

#[tokio::test(start_paused = true)]
async fn polls_that_are_not_paid_for_wait_for_the_bill() {
    let (world, sampler) = slow().await;
    let began = world.server.time().now();
    let unpaid = Rule::on(routes::RETRIEVE_FUTURES).times(200);
    world.parts.faults.add(unpaid, Fault::payment_required());
    send(&sampler).await.unwrap();
    // 200 pauses of 5 s are longer than the progress deadline: each is news.
    let took = world.server.time().now().since(began);
    assert!(took >= Duration::from_secs(1000), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_in_a_stall_that_says_where() {
    let (world, sampler) = slow().await;
    strike(&world, Fault::cut_before());
    let all = Rule::on(routes::RETRIEVE_FUTURE).always();
    world.parts.faults.add(all, Fault::cut_before());
    let error = send(&sampler).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stalled);
    let stalled = error.stalled().unwrap();
    assert_eq!((stalled.phase, stalled.since), (Phase::Waiting, PATIENCE));
}

#[tokio::test(start_paused = true)]
async fn a_sample_that_is_never_announced_asks_for_itself_before_it_counts_as_stalled() {
    let (world, sampler) = slow().await;
    let nothing = json!({ "completions": [], "cursor": 0 });
    strike(&world, Fault::json(StatusCode::OK, &nothing));
    let began = world.server.time().now();
    send(&sampler).await.unwrap();
    let took = world.server.time().now().since(began);
    assert!(took >= PATIENCE / 2 && took < PATIENCE, "{took:?}");
    // Answers that come at once and say nothing slow the polls down.
    let polls = count(&world, routes::RETRIEVE_FUTURES);
    assert!(polls < 200, "{polls} polls in {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sample_that_is_given_up_is_stopped_and_freed_on_the_server() {
    let (world, sampler) = slow().await;
    let dropped = send(&sampler);
    let cancelled = send(&sampler);
    let limited = send(&sampler);
    let wanted = send(&sampler);
    sleep(&world, 1).await;
    drop(dropped);
    cancelled.cancel();
    let error = limited.within(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    wanted.await.unwrap();
    // The next poll tells the server, which has them no longer.
    let next = send(&sampler);
    sleep(&world, 2).await;
    let gone = send(&sampler);
    sleep(&world, 1).await;
    drop(gone);
    next.await.unwrap();
    drop(sampler);
    sleep(&world, 10).await;
    // Three had ended by then, and the fourth was stopped while it ran.
    assert_eq!(world.parts.engine.counts().cancelled, 1);
    let polls = world.parts.journal.of(routes::RETRIEVE_FUTURES).len();
    sleep(&world, 300).await;
    assert_eq!(
        count(&world, routes::RETRIEVE_FUTURES),
        polls,
        "nobody asks any more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_says_goodbye_once_and_not_for_long() {
    let (world, sampler) = slow().await;
    send(&sampler).await.unwrap();
    let before = count(&world, routes::RETRIEVE_FUTURES);
    strike(&world, Fault::delay(Duration::from_secs(3600)));
    drop(sampler);
    sleep(&world, 60).await;
    let polls = world.parts.journal.of(routes::RETRIEVE_FUTURES);
    assert_eq!(polls.len() - before, 1);
    let last = polls.last().unwrap();
    let took = last.ended_at.expect("it was given up").since(last.at);
    assert_eq!(took, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_close_leaves_what_was_accepted_to_those_who_wait_for_it() {
    for session_polls in [true, false] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let options = SessionOptions::default();
        let world = InMemory::slow(LATENCY, config, options, |direct| Arc::new(direct)).await;
        let training = world
            .service
            .lora_training(SCRIPTED)
            .rank(4)
            .create()
            .await
            .unwrap();
        // A server that lets what it has accepted go on.
        let finish = Rule::on("/api/v1/sessions/*").always();
        world
            .parts
            .faults
            .add(finish, Fault::json(StatusCode::OK, &json!({})));
        let sampler = sampler_of(&world).await;
        let sample = send(&sampler);
        let step = training.optim_step(AdamParams::new(1e-3));
        sleep(&world, 1).await;
        world
            .service
            .close(FinishReason::Success, None)
            .await
            .unwrap();
        sample.await.unwrap();
        step.await.unwrap();
        assert_eq!(send(&sampler).await.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_close_takes_along_ends_in_one_typed_closed() {
    let (world, sampler) = slow().await;
    let training = world
        .service
        .lora_training(SCRIPTED)
        .rank(4)
        .create()
        .await
        .unwrap();
    let late = Rule::on(routes::ASAMPLE).nth(2);
    world
        .parts
        .faults
        .add(late, Fault::delay(Duration::from_secs(5)));
    let sample = send(&sampler);
    sleep(&world, 1).await;
    let on_its_way = send(&sampler);
    let step = training.optim_step(AdamParams::new(1e-3));
    sleep(&world, 1).await;
    world
        .service
        .close(FinishReason::Success, None)
        .await
        .unwrap();
    for (what, error) in [
        ("accepted", sample.await.unwrap_err()),
        ("on its way", on_its_way.await.unwrap_err()),
        ("step", step.await.unwrap_err()),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{what}: {error}");
    }
}

/// What stands between the client and the server, and is wrong on purpose.
#[derive(Debug)]
struct Between {
    direct: InProcess,
    time: Arc<dyn Clock>,
    fault: Wrong,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cursor: i64,
    submitted: bool,
    lost: bool,
    /// Request ids that the client knows.
    known: BTreeSet<String>,
}

/// How the client would behave.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    /// As it does.
    Right,
    /// Its cursor moves when an answer leaves the server, whether it arrives or not.
    CursorTooSoon,
    /// What comes before its waiter is thrown away.
    EarlyDropped,
}

impl Between {
    async fn pass_on(&self, mut request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let is = |route| request.path == route;
        let (submits, polls) = (is(routes::ASAMPLE), is(routes::RETRIEVE_FUTURES));
        if polls && self.fault == Wrong::CursorTooSoon {
            let mut body: Value = serde_json::from_slice(&request.body).unwrap();
            body["prev_cursor"] = self.state.lock().unwrap().cursor.into();
            request.body = body.to_string().into();
        }
        let mut answer = self.direct.send(request).await?;
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if submits {
            // But for the first one, the promise is slower than the result.
            let is_first = {
                let mut state = self.state.lock().unwrap();
                !std::mem::replace(&mut state.submitted, true)
            };
            if !is_first {
                let late = self.time.now().after(LATENCY * 2);
                self.time.sleep_until(late).await;
            }
            let id = body["request_id"].as_str().unwrap_or_default().to_owned();
            self.state.lock().unwrap().known.insert(id);
        }
        if polls && answer.status.is_success() {
            let mut state = self.state.lock().unwrap();
            state.cursor = body["cursor"].as_i64().unwrap();
            let told = body["completions"].as_array_mut().unwrap();
            if self.fault == Wrong::EarlyDropped {
                told.retain(|one| state.known.contains(one["request_id"].as_str().unwrap()));
            }
            if !told.is_empty() && !std::mem::replace(&mut state.lost, true) {
                let kind = tinkers_core::TransportErrorKind::Broken;
                return Err(TransportError::new(
                    kind,
                    Sent::MaybeSent,
                    "the answer was lost",
                ));
            }
            answer.body = body.to_string().into();
        }
        Ok(answer)
    }
}

impl Transport for Between {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(self.pass_on(request))
    }
}

/// How long samples take whose promises are slower than their results, when the first answer that tells of them is lost.
async fn time_of_early_completions(fault: Wrong) -> Duration {
    let world = world_over(|direct| {
        Arc::new(Between {
            time: Arc::clone(direct.server().time()),
            direct,
            fault,
            state: Mutex::default(),
        })
    })
    .await;
    let sampler = sampler_of(&world).await;
    let began = world.server.time().now();
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(send(&sampler));
    }
    for sample in sent {
        sample.await.unwrap();
    }
    world.server.time().now().since(began)
}

#[tokio::test(start_paused = true)]
async fn what_comes_early_or_in_a_lost_answer_is_found_at_once_and_not_by_patience() {
    let right = time_of_early_completions(Wrong::Right).await;
    assert!(right < PATIENCE / 4, "{right:?}");
    // The controls: with either fault samples wait until they ask for themselves.
    for wrong in [Wrong::CursorTooSoon, Wrong::EarlyDropped] {
        let took = time_of_early_completions(wrong).await;
        assert!(took >= PATIENCE / 2, "{wrong:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn four_thousand_polls_are_in_flight_at_most_and_the_oldest_goes_next() {
    use tinkers_core::{AdmissionRequest, Cost, Readmission, RouteClass};
    let direct = world_over(|direct| Arc::new(direct)).await;
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new(direct.server.clone()));
    let session = tinkers_e2e::open(transport, SessionOptions::default())
        .await
        .unwrap();
    let caller = tinkers_core::SessionContext::caller(&*session);
    let client = tinkers_core::SessionContext::next_client(&*session);
    let ask = || {
        caller.admission.admit(AdmissionRequest {
            class: RouteClass::Poll,
            client,
            cost: Cost::default(),
            deadline: None,
            flight: None,
            reentry: Readmission::New,
            is_nested: false,
        })
    };
    let mut held = Vec::new();
    for _ in 0..4000 {
        held.push(ask().await.unwrap());
    }
    let (mut oldest, mut younger) = (ask(), ask());
    let now = || direct.server.time().now();
    let time = direct.server.time();
    assert!(time.deadline(now(), &mut oldest).await.is_none());
    assert!(time.deadline(now(), &mut younger).await.is_none());
    drop(held.pop());
    assert!(time.deadline(now(), &mut younger).await.is_none());
    assert!(time.deadline(now(), &mut oldest).await.is_some());
}
