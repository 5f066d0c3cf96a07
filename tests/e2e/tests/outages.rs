//! Whole clients before a server that is away for a while: all goes on when it is back, whatever pauses its failures had led to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
};
use tinkers::wire::routes;
use tinkers::{ApiFuture, LimiterSettings};
use tinkers_core::{Clock, Sent, Timestamp};
use tinkers_e2e::training::{model, step};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::LocalConfig;
use tinkers_session::SessionOptions;

/// How long the server is away: long enough for pauses of half a minute.
const AWAY: Duration = Duration::from_secs(20);
/// How soon all must be done after it is back, spread included.
const SOON: Duration = Duration::from_millis(3_100);

/// Answers 503 to one class of requests while it is told to.
#[derive(Debug)]
struct Door {
    inner: Arc<dyn Transport>,
    shut: Mutex<Option<Shut>>,
    time: Mutex<Option<Arc<dyn Clock>>>,
    /// When what was turned away came.
    turned_away: Mutex<Vec<Timestamp>>,
    /// The bodies of the polls that were not, which name whose they are.
    polls: Mutex<BTreeSet<Bytes>>,
}

#[derive(Debug, Clone, Copy)]
struct Shut {
    class: RouteClass,
    /// What it asks for, in seconds.
    hint: Option<u16>,
}

impl Transport for Door {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let shut = *self.shut.lock().unwrap();
        let Some(shut) = shut.filter(|shut| shut.class == request.class) else {
            if request.class == RouteClass::Poll {
                self.polls.lock().unwrap().insert(request.body.clone());
            }
            return self.inner.send(request);
        };
        if let Some(time) = &*self.time.lock().unwrap() {
            self.turned_away.lock().unwrap().push(time.now());
        }
        let mut headers = HeaderMap::new();
        if let Some(seconds) = shut.hint {
            headers.insert("retry-after", HeaderValue::from(seconds));
        }
        let answer = HttpResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers,
            body: Bytes::from_static(b"<html>503</html>"),
        };
        Box::pin(async move { Ok(answer) })
    }
}

struct Scene {
    world: InMemory,
    door: Arc<Door>,
}

impl Scene {
    /// A server whose jobs take a second.
    async fn new(config: LocalConfig) -> Self {
        Self::with(config, SessionOptions::default()).await
    }

    async fn with(config: LocalConfig, options: SessionOptions) -> Self {
        Self::slow(Duration::from_secs(1), config, options).await
    }

    async fn slow(latency: Duration, config: LocalConfig, options: SessionOptions) -> Self {
        let mut door = None;
        let world = InMemory::slow(latency, config, options, |direct| {
            let made = Arc::new(Door {
                inner: Arc::new(direct),
                shut: Mutex::default(),
                time: Mutex::default(),
                turned_away: Mutex::default(),
                polls: Mutex::default(),
            });
            door = Some(Arc::clone(&made));
            made
        })
        .await;
        let door = door.expect("it was put between");
        *door.time.lock().unwrap() = Some(Arc::clone(world.server.time()));
        Self { world, door }
    }

    async fn sleep(&self, length: Duration) {
        self.world.server.time().sleep(length).await;
    }

    /// How long after the server's return all of `work` has ended well, which is under way or waits to be.
    async fn back_after<T>(&self, work: Vec<ApiFuture<T>>) -> Duration {
        let back = self.comes_back().await;
        for one in work {
            one.await.expect("it goes on");
        }
        self.now().since(back)
    }

    /// When the server is back.
    async fn comes_back(&self) -> Timestamp {
        self.sleep(AWAY).await;
        *self.door.shut.lock().unwrap() = None;
        self.now()
    }

    fn now(&self) -> Timestamp {
        self.world.server.time().now()
    }

    fn shut(&self, class: RouteClass) {
        *self.door.shut.lock().unwrap() = Some(Shut { class, hint: None });
    }
}

#[tokio::test(start_paused = true)]
async fn samples_go_on_when_the_server_takes_them_again_though_the_retry_budget_is_empty() {
    let scene = Scene::new(LocalConfig::default()).await;
    let sampler = scene.world.service.sampling(SCRIPTED).create();
    let sampler = sampler.await.unwrap();
    scene.shut(RouteClass::Sample);
    // More than the budget has repeats for.
    let all: Vec<_> = (0..300)
        .map(|i| sampler.sample(vec![i % 100]).max_tokens(1).send())
        .collect();
    let late = scene.back_after(all).await;
    assert!(late <= SOON + Duration::from_secs(1), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn steps_go_on_when_the_server_takes_them_again() {
    let scene = Scene::new(LocalConfig::default()).await;
    let mut models = Vec::new();
    for _ in 0..4 {
        models.push(model(&scene.world).await);
    }
    scene.shut(RouteClass::Train);
    let steps: Vec<_> = models.iter().map(step).collect();
    let late = scene.back_after(steps).await;
    assert!(late <= SOON + Duration::from_secs(1), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn results_come_when_the_server_gives_them_again() {
    for session_polls in [true, false] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let scene = Scene::new(config).await;
        // Each has a poll of its own, whatever polls the server offers.
        let mut samplers = Vec::new();
        for _ in 0..20 {
            let sampler = scene.world.service.sampling(SCRIPTED).create();
            samplers.push(sampler.await.unwrap());
        }
        scene.shut(RouteClass::Poll);
        let all: Vec<_> = samplers
            .iter()
            .map(|sampler| sampler.sample(vec![1]).max_tokens(1).send())
            .collect();
        let late = scene.back_after(all).await;
        assert!(late <= SOON, "{session_polls}: {late:?}");
        let asked = scene.door.turned_away.lock().unwrap().len();
        assert!(asked >= 10, "inconclusive: {asked} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_have_long_to_wait_ask_again_when_the_server_is_back() {
    let mut config = LocalConfig::default();
    config.long_poll = Duration::from_millis(100);
    let scene = Scene::slow(Duration::from_secs(3600), config, SessionOptions::default()).await;
    let mut samplers = Vec::new();
    for _ in 0..20 {
        let sampler = scene.world.service.sampling(SCRIPTED).create();
        samplers.push(sampler.await.unwrap());
    }
    scene.shut(RouteClass::Poll);
    let all: Vec<_> = samplers
        .iter()
        .map(|sampler| sampler.sample(vec![1]).max_tokens(1).send())
        .collect();
    scene.comes_back().await;
    scene.sleep(SOON).await;
    // No result is there to tell that: the answers of the polls do.
    assert_eq!(scene.door.polls.lock().unwrap().len(), all.len());
}

#[tokio::test(start_paused = true)]
async fn what_a_server_that_is_away_asks_for_is_kept_to_by_each_class() {
    for (class, session_polls) in [
        (RouteClass::Sample, true),
        (RouteClass::Poll, true),
        (RouteClass::Poll, false),
    ] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let scene = Scene::new(config).await;
        let sampler = scene.world.service.sampling(SCRIPTED).create();
        let sampler = sampler.await.unwrap();
        let hint = Some(7);
        *scene.door.shut.lock().unwrap() = Some(Shut { class, hint });
        let sample = sampler.sample(vec![1]).max_tokens(1).send();
        scene.back_after(vec![sample]).await;
        let asked = scene.door.turned_away.lock().unwrap().clone();
        assert!(asked.len() >= 2, "inconclusive: {class:?} {asked:?}");
        for pair in asked.windows(2) {
            let pause = pair[1].since(pair[0]);
            assert!(pause >= Duration::from_secs(7), "{class:?}: {pause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sample_that_waited_beyond_the_end_of_its_session_is_not_sent() {
    let mut limits = LimiterSettings::default();
    limits.sample.flights = Some(10);
    let options = SessionOptions {
        limits: Some(limits),
        ..SessionOptions::default()
    };
    let scene = Scene::with(LocalConfig::default(), options).await;
    let service = &scene.world.service;
    let sampler = service.sampling(SCRIPTED).create().await.unwrap();
    let samples: Vec<_> = (0..30)
        .map(|i| sampler.sample(vec![i % 100]).max_tokens(1).send())
        .collect();
    // Those that have a place on the way are sent, the others wait for one.
    scene.sleep(Duration::from_millis(500)).await;
    let sent = || {
        let entries = scene.world.parts.journal.entries();
        let samples = entries
            .iter()
            .filter(|entry| entry.route == routes::ASAMPLE);
        samples.count()
    };
    let before = sent();
    assert!((1..30).contains(&before), "inconclusive: {before}");
    let end = service.close(tinkers::FinishReason::Success, None);
    end.await.unwrap();
    let mut unsent = 0;
    for sample in samples {
        if let Err(error) = sample.await {
            unsent += usize::from(error.sent() == Sent::NotSent);
        }
    }
    assert_eq!(sent(), before);
    assert_eq!(unsent, 30 - before);
}
