//! Closing a client with pending calls: calls that the server has not accepted fail at once, and
//! the client submits nothing more.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
};
use tinkers::wire::routes;
use tinkers_core::Clock;
use tinkers_e2e::training::{datum, harness_without_deduplication, model, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, Hint, InProcess, Rule};
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

/// What a pending call waits for when the client is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitState {
    /// The call waits in the rate limiter, which sends no requests of this kind until the
    /// `retry-after` delay of a 429 response has passed.
    Gate,
    /// The call waits for the end of the backoff delay before a retry.
    Backoff,
    /// The call waits for a new connection to the server.
    Dial,
    /// The call has sent its request and waits for the response of the server.
    Response,
}

impl WaitState {
    const ALL: [Self; 4] = [Self::Gate, Self::Backoff, Self::Dial, Self::Response];

    /// Returns the value that `Error::sent` must have for a call that waits in this state when the
    /// client is closed.
    fn sent(self) -> Sent {
        match self {
            Self::Gate | Self::Dial => Sent::NotSent,
            Self::Backoff | Self::Response => Sent::MaybeSent,
        }
    }
}

/// A transport that delays requests, so that calls stay in the chosen [`WaitState`] until the
/// client is closed. It also records the paths of the requests that it sends.
#[derive(Debug)]
struct DelayingTransport {
    inner: InProcess,
    state: Mutex<Option<WaitState>>,
    sent_paths: Mutex<Vec<String>>,
}

impl DelayingTransport {
    fn response(status: StatusCode) -> HttpResponse {
        let seconds = HeaderValue::from_static("60");
        HttpResponse {
            status,
            headers: HeaderMap::from_iter([(http::header::RETRY_AFTER, seconds)]),
            body: Bytes::from_static(b"{}"),
        }
    }
}

impl Transport for DelayingTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let is_delayed = !matches!(request.class, RouteClass::Control | RouteClass::Poll);
        let state = self.state.lock().unwrap().filter(|_| is_delayed);
        let clock = Arc::clone(self.inner.server().time());
        if state != Some(WaitState::Dial) {
            self.sent_paths.lock().unwrap().push(request.path.clone());
        }
        Box::pin(async move {
            let delay = Duration::from_secs(100);
            match state {
                None => self.inner.send(request).await,
                Some(WaitState::Gate) => Ok(Self::response(StatusCode::TOO_MANY_REQUESTS)),
                Some(WaitState::Backoff) => {
                    let mut response = Self::response(StatusCode::INTERNAL_SERVER_ERROR);
                    response.body = Bytes::from_static(b"{\"detail\": \"busy\"}");
                    Ok(response)
                }
                Some(WaitState::Dial) => {
                    clock.sleep(delay).await;
                    self.sent_paths.lock().unwrap().push(request.path.clone());
                    self.inner.send(request).await
                }
                Some(WaitState::Response) => {
                    let response = self.inner.send(request).await;
                    clock.sleep(delay).await;
                    response
                }
            }
        })
    }
}

struct Fixture {
    harness: Harness,
    transport: Arc<DelayingTransport>,
    training: TrainingClient,
    sampler: SamplingClient,
    saved: String,
}

impl Fixture {
    async fn new() -> Self {
        let (harness, transport) = Harness::through(Setup::default(), |inner| DelayingTransport {
            inner,
            state: Mutex::default(),
            sent_paths: Mutex::default(),
        })
        .await;
        let training = model(&harness).await;
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        pass.await.expect("a first pass");
        let saved = training.save_state("first").await.expect("saved").path;
        let sampler = harness.service.create_sampling_client(SCRIPTED).await;
        Self {
            training,
            sampler: sampler.expect("a sampler"),
            saved: saved.to_string(),
            harness,
            transport,
        }
    }

    fn delay(&self, state: WaitState) {
        *self.transport.state.lock().unwrap() = Some(state);
        self.transport.sent_paths.lock().unwrap().clear();
    }

    async fn sleep(&self, seconds: u64) {
        let length = Duration::from_secs(seconds);
        self.harness.server.time().sleep(length).await;
    }

    async fn close(&self) {
        self.transport.sent_paths.lock().unwrap().clear();
        self.harness.close().await;
    }

    /// Returns the paths of the requests that the client has sent since the last call of `delay` or
    /// `close`. Omits polls, heartbeats and the request that ends the session.
    fn submitted(&self) -> Vec<String> {
        let mut paths = self.transport.sent_paths.lock().unwrap().clone();
        paths.retain(|path| {
            !path.ends_with("/finish")
                && path != routes::SESSION_HEARTBEAT
                && path != routes::RETRIEVE_FUTURE
                && path != routes::RETRIEVE_FUTURES
        });
        paths
    }
}

type Outcome = BoxFuture<'static, Result<(), Error>>;

/// Boxes the future of a call and discards its result.
fn boxed<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Outcome {
    Box::pin(async move { call.await.map(|_| ()) })
}

/// Waits for a call that must fail within an hour of virtual time, and returns its error.
async fn error_of<T: Debug + Send>(call: impl Future<Output = Result<T, Error>> + Send) -> Error {
    let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
    let at = time.now().after(Duration::from_secs(3600));
    let outcome = time.deadline(at, call).await;
    outcome.expect("the call ends").expect_err("the call fails")
}

async fn joined(task: tokio::task::JoinHandle<Result<(), Error>>) -> Result<(), Error> {
    task.await.expect("the task does not panic")
}

/// The name of an operation, and a function that begins the operation.
type Operation = (&'static str, fn(&Fixture) -> Outcome);

/// The operations that wait in the submission queue of a model until earlier operations are
/// submitted.
const QUEUED: [Operation; 8] = [
    ("forward", |s| {
        boxed(s.training.forward([datum(1)], LossFn::CrossEntropy))
    }),
    ("forward_backward", |s| {
        boxed(
            s.training
                .forward_backward([datum(1)], LossFn::CrossEntropy),
        )
    }),
    ("optim_step", |s| boxed(step(&s.training))),
    ("save_state", |s| {
        boxed(s.training.save_state("second").send())
    }),
    ("save_weights_for_sampler", |s| {
        boxed(s.training.save_weights_for_sampler("second").send())
    }),
    ("load_state", |s| boxed(s.training.load_state(&s.saved))),
    ("load_state_with_optimizer", |s| {
        boxed(s.training.load_state_with_optimizer(&s.saved))
    }),
    ("save_weights_and_get_sampling_client", |s| {
        boxed(s.training.save_weights_and_get_sampling_client())
    }),
];

/// The operations that do not wait in the submission queue of a model.
const UNQUEUED: [Operation; 8] = [
    ("unload", |s| boxed(s.training.unload())),
    ("sample", |s| {
        boxed(s.sampler.sample(vec![1]).max_tokens(1).send())
    }),
    ("compute_logprobs", |s| {
        boxed(s.sampler.compute_logprobs(vec![1, 2]))
    }),
    ("create_lora_training_client", |s| {
        boxed(
            s.harness
                .service
                .create_lora_training_client(SCRIPTED)
                .rank(4)
                .send(),
        )
    }),
    ("create_training_client_from_state_with_optimizer", |s| {
        let service = &s.harness.service;
        boxed(
            service
                .create_training_client_from_state_with_optimizer(&s.saved)
                .send(),
        )
    }),
    ("create_training_client_from_state", |s| {
        let service = &s.harness.service;
        boxed(service.create_training_client_from_state(&s.saved).send())
    }),
    ("create_sampling_client", |s| {
        boxed(s.harness.service.create_sampling_client(SCRIPTED).send())
    }),
    ("capabilities", |s| {
        let service = s.harness.service.clone();
        boxed(async move { service.capabilities().await })
    }),
];

/// Returns the types in a source file that can be awaited like a future.
fn awaitable_types(source: &str) -> impl Iterator<Item = &str> {
    let implementations = source.split("impl IntoFuture for ").skip(1);
    implementations.filter_map(|text| text.split_whitespace().next())
}

/// Returns the names of the public functions in a source file whose return type is in `types`.
fn operations<'a>(source: &'a str, types: &[&str]) -> BTreeSet<&'a str> {
    let declarations = source.split("pub fn ").skip(1);
    declarations
        .filter(|text| {
            let head = text.split(['{', ';']).next().unwrap_or_default();
            let returned = head.rsplit("-> ").next().unwrap_or_default();
            types.contains(&returned.split(['<', ' ']).next().unwrap_or_default())
        })
        .filter_map(|text| text.split(['(', '<']).next())
        .collect()
}

#[test]
fn every_client_operation_has_a_close_test() {
    let builders = [
        include_str!("../../../crates/tinkers-training/src/create.rs"),
        include_str!("../../../crates/tinkers-training/src/save.rs"),
        include_str!("../../../crates/tinkers-sampling/src/create.rs"),
        include_str!("../../../crates/tinkers-sampling/src/request.rs"),
    ];
    let mut types: Vec<&str> = builders.into_iter().flat_map(awaitable_types).collect();
    types.push("ApiFuture");
    let clients = [
        include_str!("../../../crates/tinkers-training/src/client.rs"),
        include_str!("../../../crates/tinkers-sampling/src/client.rs"),
        include_str!("../../../crates/tinkers/src/service.rs"),
    ];
    let operations: BTreeSet<&str> = clients
        .into_iter()
        .flat_map(|source| operations(source, &types))
        .collect();
    let tested = QUEUED.iter().chain(&UNQUEUED).map(|(name, _)| *name);
    // Returns no `ApiFuture`, since it is a plain request.
    let tested = tested.filter(|name| *name != "capabilities");
    assert_eq!(operations, tested.collect());
}

#[tokio::test(start_paused = true)]
async fn close_ends_each_operation_in_each_wait_state() {
    for state in WaitState::ALL {
        for (name, call) in QUEUED.iter().chain(&UNQUEUED) {
            let fixture = Fixture::new().await;
            fixture.delay(state);
            let pending = tokio::spawn(call(&fixture));
            fixture.sleep(1).await;
            assert!(!pending.is_finished(), "{name} in {state:?} waits");
            assert!(state == WaitState::Dial || !fixture.submitted().is_empty());
            fixture.close().await;
            fixture.sleep(1).await;
            assert!(pending.is_finished(), "{name} in {state:?} has ended");
            let error = pending.await.unwrap().unwrap_err();
            let found = (error.kind(), error.sent());
            assert_eq!(found, (ErrorKind::Closed, state.sent()), "{name}: {error}");
            fixture.sleep(1000).await;
            let none: [&str; 0] = [];
            assert_eq!(fixture.submitted(), none, "{name} in {state:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_calls_in_the_submission_queue() {
    for state in WaitState::ALL {
        let fixture = Fixture::new().await;
        fixture.delay(state);
        let head = tokio::spawn(boxed(step(&fixture.training)));
        let queued: Vec<_> = QUEUED
            .iter()
            .map(|(name, call)| (name, tokio::spawn(call(&fixture))))
            .collect();
        fixture.sleep(1).await;
        fixture.close().await;
        assert_eq!(error_of(joined(head)).await.sent(), state.sent());
        for (name, call) in queued {
            let error = error_of(joined(call)).await;
            let found = (error.kind(), error.sent());
            assert_eq!(found, (ErrorKind::Closed, Sent::NotSent), "{name}: {error}");
        }
        fixture.sleep(1000).await;
        assert!(fixture.submitted().is_empty(), "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_closed_client_fail_and_send_no_request() {
    let fixture = Fixture::new().await;
    fixture.close().await;
    for (name, call) in QUEUED.iter().chain(&UNQUEUED) {
        let error = error_of(call(&fixture)).await;
        let found = (error.kind(), error.sent());
        assert_eq!(found, (ErrorKind::Closed, Sent::NotSent), "{name}: {error}");
    }
    let error = fixture.harness.service.health().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let mut stream = fixture.sampler.sample_stream([vec![1]], 1, |sample| sample);
    let sampled = stream.next().await.expect("a result for the prompt");
    assert_eq!(sampled.result.unwrap_err().kind(), ErrorKind::Closed);
    assert!(fixture.submitted().is_empty());
}

#[tokio::test(start_paused = true)]
async fn close_ends_a_model_creation_between_its_two_requests() {
    let fixture = Fixture::new().await;
    let info_requests = Rule::on(routes::GET_INFO).always();
    let faults = &fixture.harness.faults;
    faults.add(info_requests, Fault::rate_limited(Hint::Seconds(60)));
    let creation = fixture
        .harness
        .service
        .create_lora_training_client(SCRIPTED)
        .send();
    fixture.sleep(5).await;
    fixture.close().await;
    let error = error_of(creation).await;
    let found = (error.kind(), error.sent());
    assert_eq!(found, (ErrorKind::Closed, Sent::MaybeSent), "{error}");
    assert!(error.to_string().contains("was created"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_search_for_a_save_whose_reply_was_lost() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    let faults = &harness.faults;
    faults.add(Rule::on(routes::SAVE_WEIGHTS), Fault::cut_after());
    let list = Rule::class(RouteClass::Rest).always();
    faults.add(list, Fault::rate_limited(Hint::Seconds(60)));
    let save = training.save_state("lost").send();
    let queued = step(&training);
    harness.server.time().sleep(Duration::from_secs(5)).await;
    harness.close().await;
    for (call, sent) in [
        (boxed(save), Sent::MaybeSent),
        (boxed(queued), Sent::NotSent),
    ] {
        let error = error_of(call).await;
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Closed, sent));
    }
}
