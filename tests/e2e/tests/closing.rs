//! A client that is closed while calls wait: every call that the server has not accepted ends at once, and nothing is submitted.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tinkers::prelude::*;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
};
use tinkers::wire::routes;
use tinkers::{FinishReason, Sent};
use tinkers_core::Clock;
use tinkers_e2e::training::{datum, forgetful_world, model, step};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, Hint, LocalConfig, Rule};
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

/// Where a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the closed gate of its class.
    Gate,
    /// In the pause before a repeat.
    Pause,
    /// For a connection.
    Dial,
    /// For the answer.
    Answer,
}

impl Place {
    const ALL: [Self; 4] = [Self::Gate, Self::Pause, Self::Dial, Self::Answer];

    /// What is known of a call that waits there.
    fn sent(self) -> Sent {
        match self {
            Self::Gate | Self::Dial => Sent::NotSent,
            Self::Pause | Self::Answer => Sent::MaybeSent,
        }
    }
}

/// Holds submissions up while it is told to, and records what it passes on.
#[derive(Debug)]
struct Holdup {
    inner: Arc<dyn Transport>,
    at: Mutex<Option<Place>>,
    time: Mutex<Option<Arc<dyn Clock>>>,
    passed: Mutex<Vec<String>>,
}

impl Holdup {
    fn answer(status: StatusCode) -> HttpResponse {
        let seconds = HeaderValue::from_static("60");
        HttpResponse {
            status,
            headers: HeaderMap::from_iter([(http::header::RETRY_AFTER, seconds)]),
            body: Bytes::from_static(b"{}"),
        }
    }
}

impl Transport for Holdup {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let is_held = !matches!(request.class, RouteClass::Control | RouteClass::Poll);
        let place = self.at.lock().unwrap().filter(|_| is_held);
        let time = self.time.lock().unwrap().clone();
        if place != Some(Place::Dial) {
            self.passed.lock().unwrap().push(request.path.clone());
        }
        Box::pin(async move {
            let long = Duration::from_secs(100);
            let time = move || time.clone().expect("it is set");
            match place {
                None => self.inner.send(request).await,
                Some(Place::Gate) => Ok(Self::answer(StatusCode::TOO_MANY_REQUESTS)),
                Some(Place::Pause) => {
                    let mut answer = Self::answer(StatusCode::INTERNAL_SERVER_ERROR);
                    answer.body = Bytes::from_static(b"{\"detail\": \"busy\"}");
                    Ok(answer)
                }
                Some(Place::Dial) => {
                    time().sleep(long).await;
                    self.passed.lock().unwrap().push(request.path.clone());
                    self.inner.send(request).await
                }
                Some(Place::Answer) => {
                    let answer = self.inner.send(request).await;
                    time().sleep(long).await;
                    answer
                }
            }
        })
    }
}

struct Scene {
    world: InMemory,
    holdup: Arc<Holdup>,
    training: TrainingClient,
    sampler: SamplingClient,
    saved: String,
}

impl Scene {
    async fn new() -> Self {
        let mut holdup = None;
        let world = InMemory::through(LocalConfig::default(), |direct| {
            let made = Arc::new(Holdup {
                inner: Arc::new(direct),
                at: Mutex::default(),
                time: Mutex::default(),
                passed: Mutex::default(),
            });
            holdup = Some(Arc::clone(&made));
            made
        })
        .await;
        let holdup = holdup.expect("it was put between");
        *holdup.time.lock().unwrap() = Some(Arc::clone(world.server.time()));
        let training = model(&world).await;
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        pass.await.expect("a first pass");
        let saved = training.save_state("first").await.expect("saved").path;
        let sampler = world.service.sampling(SCRIPTED).create().await;
        Self {
            training,
            sampler: sampler.expect("a sampler"),
            saved: saved.to_string(),
            world,
            holdup,
        }
    }

    fn hold(&self, place: Place) {
        *self.holdup.at.lock().unwrap() = Some(place);
        self.holdup.passed.lock().unwrap().clear();
    }

    async fn sleep(&self, seconds: u64) {
        let length = Duration::from_secs(seconds);
        self.world.server.time().sleep(length).await;
    }

    async fn close(&self) {
        self.holdup.passed.lock().unwrap().clear();
        let closed = self.world.service.close(FinishReason::Success, None);
        closed.await.expect("closed");
    }

    /// What was sent since the close that is neither the end of the session nor a poll.
    fn submitted(&self) -> Vec<String> {
        let mut passed = self.holdup.passed.lock().unwrap().clone();
        passed.retain(|path| {
            !path.ends_with("/finish")
                && path != routes::SESSION_HEARTBEAT
                && path != routes::RETRIEVE_FUTURE
                && path != routes::RETRIEVE_FUTURES
        });
        passed
    }
}

type Outcome = BoxFuture<'static, Result<(), Error>>;

fn boxed<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Outcome {
    Box::pin(async move { work.await.map(|_| ()) })
}

/// How a call ends, within an hour of virtual time.
async fn failed<T: Debug + Send>(work: impl Future<Output = Result<T, Error>> + Send) -> Error {
    let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
    let at = time.now().after(Duration::from_secs(3600));
    let ended = time.deadline(at, work).await;
    ended.expect("it ends").expect_err("it fails")
}

async fn joined(task: tokio::task::JoinHandle<Result<(), Error>>) -> Result<(), Error> {
    task.await.expect("it does not panic")
}

/// How a verb is called.
type Verb = (&'static str, fn(&Scene) -> Outcome);

/// The verbs of a model that take a place in its queue.
const QUEUED: [Verb; 8] = [
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
    ("save_state", |s| boxed(s.training.save_state("second"))),
    ("save_weights_for_sampler", |s| {
        boxed(s.training.save_weights_for_sampler("second"))
    }),
    ("load_state", |s| boxed(s.training.load_state(&s.saved))),
    ("load_state_with_optimizer", |s| {
        boxed(s.training.load_state_with_optimizer(&s.saved))
    }),
    ("save_weights_and_get_sampling_client", |s| {
        boxed(s.training.save_weights_and_get_sampling_client())
    }),
];

/// The other verbs.
const FREE: [Verb; 7] = [
    ("unload", |s| boxed(s.training.unload())),
    ("send", |s| {
        boxed(s.sampler.sample(vec![1]).max_tokens(1).send())
    }),
    ("compute_logprobs", |s| {
        boxed(s.sampler.compute_logprobs(vec![1, 2]))
    }),
    ("lora_training().create", |s| {
        boxed(s.world.service.lora_training(SCRIPTED).rank(4).create())
    }),
    ("training_from_state().create", |s| {
        let state = &s.world.service;
        boxed(
            state
                .training_from_state(&s.saved, RestoreOptimizer::Yes)
                .create(),
        )
    }),
    ("sampling().create", |s| {
        boxed(s.world.service.sampling(SCRIPTED).create())
    }),
    ("capabilities", |s| {
        let service = s.world.service.clone();
        boxed(async move { service.capabilities().await })
    }),
];

/// The public functions of a source file that begin an operation.
fn operations(source: &str) -> BTreeSet<String> {
    let declarations = source.split("fn ").skip(1);
    declarations
        .filter(|text| {
            let head = text.split(['{', ';']).next().unwrap_or_default();
            head.contains("-> ApiFuture<") && !head.contains("pub(crate)")
        })
        .map(|text| text.split(['(', '<']).next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn every_verb_is_tried_under_a_close() {
    let sources = [
        include_str!("../../../crates/tinkers-training/src/client.rs"),
        include_str!("../../../crates/tinkers-training/src/create.rs"),
        include_str!("../../../crates/tinkers-sampling/src/client.rs"),
        include_str!("../../../crates/tinkers-sampling/src/request.rs"),
        include_str!("../../../crates/tinkers-sampling/src/create.rs"),
        include_str!("../../../crates/tinkers/src/sampler_ext.rs"),
    ];
    let tried: Vec<&str> = QUEUED.iter().chain(&FREE).map(|(name, _)| *name).collect();
    // What the others are made of.
    let inner = ["load", "pass", "single"];
    for source in sources {
        for verb in operations(source) {
            let is_tried = tried.iter().any(|name| name.ends_with(&verb));
            assert!(is_tried || inner.contains(&verb.as_str()), "{verb}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_every_verb_wherever_it_waits() {
    for place in Place::ALL {
        for (verb, call) in QUEUED.iter().chain(&FREE) {
            let scene = Scene::new().await;
            scene.hold(place);
            let waiting = tokio::spawn(call(&scene));
            scene.sleep(1).await;
            assert!(!waiting.is_finished(), "{verb} at {place:?} waits");
            assert!(place == Place::Dial || !scene.submitted().is_empty());
            scene.close().await;
            scene.sleep(1).await;
            assert!(waiting.is_finished(), "{verb} at {place:?} has ended");
            let error = waiting.await.unwrap().unwrap_err();
            let found = (error.kind(), error.sent());
            assert_eq!(found, (ErrorKind::Closed, place.sent()), "{verb}: {error}");
            scene.sleep(1000).await;
            let none: [&str; 0] = [];
            assert_eq!(scene.submitted(), none, "{verb} at {place:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_what_is_queued_behind_another_call() {
    for place in Place::ALL {
        let scene = Scene::new().await;
        scene.hold(place);
        let head = tokio::spawn(boxed(step(&scene.training)));
        let queued: Vec<_> = QUEUED
            .iter()
            .map(|(verb, call)| (verb, tokio::spawn(call(&scene))))
            .collect();
        scene.sleep(1).await;
        scene.close().await;
        assert_eq!(failed(joined(head)).await.sent(), place.sent());
        for (verb, call) in queued {
            let error = failed(joined(call)).await;
            let found = (error.kind(), error.sent());
            assert_eq!(found, (ErrorKind::Closed, Sent::NotSent), "{verb}: {error}");
        }
        scene.sleep(1000).await;
        assert!(scene.submitted().is_empty(), "{place:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_verb_after_a_close_is_closed_and_sends_nothing() {
    let scene = Scene::new().await;
    scene.close().await;
    for (verb, call) in QUEUED.iter().chain(&FREE) {
        let error = failed(call(&scene)).await;
        let found = (error.kind(), error.sent());
        assert_eq!(found, (ErrorKind::Closed, Sent::NotSent), "{verb}: {error}");
    }
    let error = scene.world.service.health().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let mut stream = scene.sampler.sample_stream([vec![1]], 1, |sample| sample);
    let sampled = stream.next().await.expect("one prompt");
    assert_eq!(sampled.result.unwrap_err().kind(), ErrorKind::Closed);
    assert!(scene.submitted().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_close_between_the_requests_of_a_creation_ends_it() {
    let scene = Scene::new().await;
    let described = Rule::on(routes::GET_INFO).always();
    let faults = &scene.world.parts.faults;
    faults.add(described, Fault::rate_limited(Hint::Seconds(60)));
    let creation = scene.world.service.lora_training(SCRIPTED).create();
    scene.sleep(5).await;
    scene.close().await;
    let error = failed(creation).await;
    let found = (error.kind(), error.sent());
    assert_eq!(found, (ErrorKind::Closed, Sent::MaybeSent), "{error}");
    assert!(error.to_string().contains("was created"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_the_search_for_a_lost_save() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    let faults = &world.parts.faults;
    faults.add(Rule::on(routes::SAVE_WEIGHTS), Fault::cut_after());
    let list = Rule::class(RouteClass::Rest).always();
    faults.add(list, Fault::rate_limited(Hint::Seconds(60)));
    let save = training.save_state("lost");
    let behind = step(&training);
    world.server.time().sleep(Duration::from_secs(5)).await;
    world
        .service
        .close(FinishReason::Success, None)
        .await
        .unwrap();
    for (call, sent) in [
        (boxed(save), Sent::MaybeSent),
        (boxed(behind), Sent::NotSent),
    ] {
        let error = failed(call).await;
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Closed, sent));
    }
}
