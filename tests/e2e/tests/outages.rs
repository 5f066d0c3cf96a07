//! Outages: all requests resume soon after the server recovers, even if their backoff delays are
//! long.

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
use tinkers_core::{Sent, Timestamp};
use tinkers_e2e::training::{model, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{InProcess, LocalConfig};
use tinkers_session::SessionOptions;

/// The duration of an outage. It is long enough for the backoff delay before a retry to grow beyond
/// [`RECOVERY`].
const OUTAGE: Duration = Duration::from_secs(20);
/// The time after the end of an outage within which all calls must succeed. It includes the random
/// delays with which the client spreads its retries over time.
const RECOVERY: Duration = Duration::from_millis(3_100);

/// A transport that simulates an outage: it answers all requests of one route class, such as all
/// polls, with 503.
#[derive(Debug)]
struct FailingTransport {
    inner: InProcess,
    outage: Mutex<Option<Outage>>,
    /// The times at which the transport answered a request with 503.
    failures: Mutex<Vec<Timestamp>>,
    /// The bodies of the polls that the transport forwarded to the server. The body of a poll
    /// identifies the operation whose result the client asks for.
    polls: Mutex<BTreeSet<Bytes>>,
}

#[derive(Debug, Clone, Copy)]
struct Outage {
    class: RouteClass,
    /// The value, in seconds, of the `retry-after` header of the 503 responses. `None` to send no
    /// such header.
    hint: Option<u16>,
}

impl Transport for FailingTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let outage = *self.outage.lock().unwrap();
        let Some(outage) = outage.filter(|outage| outage.class == request.class) else {
            if request.class == RouteClass::Poll {
                self.polls.lock().unwrap().insert(request.body.clone());
            }
            return self.inner.send(request);
        };
        let now = self.inner.server().time().now();
        self.failures.lock().unwrap().push(now);
        let mut headers = HeaderMap::new();
        if let Some(seconds) = outage.hint {
            headers.insert("retry-after", HeaderValue::from(seconds));
        }
        let response = HttpResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers,
            body: Bytes::from_static(b"<html>503</html>"),
        };
        Box::pin(async move { Ok(response) })
    }
}

struct Fixture {
    harness: Harness,
    transport: Arc<FailingTransport>,
}

impl Fixture {
    /// Starts a server on which each operation takes one second, and a client with default options.
    async fn new(config: LocalConfig) -> Self {
        Self::with(Duration::from_secs(1), config, SessionOptions::default()).await
    }

    async fn with(latency: Duration, config: LocalConfig, options: SessionOptions) -> Self {
        let setup = Setup {
            config,
            options,
            latency,
            ..Setup::default()
        };
        let (harness, transport) = Harness::through(setup, |inner| FailingTransport {
            inner,
            outage: Mutex::default(),
            failures: Mutex::default(),
            polls: Mutex::default(),
        })
        .await;
        Self { harness, transport }
    }

    async fn sleep(&self, length: Duration) {
        self.harness.server.time().sleep(length).await;
    }

    /// Waits until the outage has lasted for [`OUTAGE`], ends it, and waits until all calls have
    /// succeeded. Returns the time from the end of the outage to the last success.
    async fn recovery_time<T>(&self, calls: Vec<ApiFuture<T>>) -> Duration {
        let end = self.end_outage().await;
        for call in calls {
            call.await.expect("the call succeeds after the outage");
        }
        self.now().since(end)
    }

    /// Waits until the outage has lasted for [`OUTAGE`], then ends it. Returns the time at which
    /// the outage ended.
    async fn end_outage(&self) -> Timestamp {
        self.sleep(OUTAGE).await;
        *self.transport.outage.lock().unwrap() = None;
        self.now()
    }

    fn now(&self) -> Timestamp {
        self.harness.server.time().now()
    }

    fn begin_outage(&self, class: RouteClass, hint: Option<u16>) {
        *self.transport.outage.lock().unwrap() = Some(Outage { class, hint });
    }
}

#[tokio::test(start_paused = true)]
async fn samples_resume_after_an_outage_with_an_empty_retry_budget() {
    let fixture = Fixture::new(LocalConfig::default()).await;
    let sampler = fixture
        .harness
        .service
        .create_sampling_client(SCRIPTED)
        .send();
    let sampler = sampler.await.unwrap();
    fixture.begin_outage(RouteClass::Sample, None);
    // There are more samples than the retry budget has retries.
    let samples: Vec<_> = (0..300)
        .map(|i| sampler.sample(vec![i % 100]).max_tokens(1).send())
        .collect();
    let recovery = fixture.recovery_time(samples).await;
    assert!(
        recovery <= RECOVERY + Duration::from_secs(1),
        "{recovery:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn optimizer_steps_resume_after_an_outage() {
    let fixture = Fixture::new(LocalConfig::default()).await;
    let mut models = Vec::new();
    for _ in 0..4 {
        models.push(model(&fixture.harness).await);
    }
    fixture.begin_outage(RouteClass::Train, None);
    let steps: Vec<_> = models.iter().map(step).collect();
    let recovery = fixture.recovery_time(steps).await;
    assert!(
        recovery <= RECOVERY + Duration::from_secs(1),
        "{recovery:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn results_arrive_soon_after_an_outage_of_the_poll_routes() {
    for session_polls in [true, false] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let fixture = Fixture::new(config).await;
        // Even with shared polls, each sampling client polls separately.
        let mut samplers = Vec::new();
        for _ in 0..20 {
            let sampler = fixture
                .harness
                .service
                .create_sampling_client(SCRIPTED)
                .send();
            samplers.push(sampler.await.unwrap());
        }
        fixture.begin_outage(RouteClass::Poll, None);
        let samples: Vec<_> = samplers
            .iter()
            .map(|sampler| sampler.sample(vec![1]).max_tokens(1).send())
            .collect();
        let recovery = fixture.recovery_time(samples).await;
        assert!(recovery <= RECOVERY, "{session_polls}: {recovery:?}");
        let failures = fixture.transport.failures.lock().unwrap().len();
        assert!(failures >= 10, "inconclusive: {failures} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn all_polls_resume_after_an_outage_even_if_no_result_is_ready() {
    let mut config = LocalConfig::default();
    config.long_poll = Duration::from_millis(100);
    let fixture = Fixture::with(Duration::from_secs(3600), config, SessionOptions::default()).await;
    let mut samplers = Vec::new();
    for _ in 0..20 {
        let sampler = fixture
            .harness
            .service
            .create_sampling_client(SCRIPTED)
            .send();
        samplers.push(sampler.await.unwrap());
    }
    fixture.begin_outage(RouteClass::Poll, None);
    let samples: Vec<_> = samplers
        .iter()
        .map(|sampler| sampler.sample(vec![1]).max_tokens(1).send())
        .collect();
    fixture.end_outage().await;
    fixture.sleep(RECOVERY).await;
    // No result is ready, so each sample must have polled again.
    assert_eq!(fixture.transport.polls.lock().unwrap().len(), samples.len());
}

#[tokio::test(start_paused = true)]
async fn retry_after_delay_of_a_503_is_respected_during_an_outage() {
    for (class, session_polls) in [
        (RouteClass::Sample, true),
        (RouteClass::Poll, true),
        (RouteClass::Poll, false),
    ] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let fixture = Fixture::new(config).await;
        let sampler = fixture
            .harness
            .service
            .create_sampling_client(SCRIPTED)
            .send();
        let sampler = sampler.await.unwrap();
        fixture.begin_outage(class, Some(7));
        let sample = sampler.sample(vec![1]).max_tokens(1).send();
        fixture.recovery_time(vec![sample]).await;
        let failures = fixture.transport.failures.lock().unwrap().clone();
        assert!(failures.len() >= 2, "inconclusive: {class:?} {failures:?}");
        for pair in failures.windows(2) {
            let pause = pair[1].since(pair[0]);
            assert!(pause >= Duration::from_secs(7), "{class:?}: {pause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn queued_sample_is_not_sent_after_close() {
    let mut limits = LimiterSettings::default();
    limits.sample.max_in_flight = Some(10);
    let options = SessionOptions {
        limits: Some(limits),
        ..SessionOptions::default()
    };
    let fixture = Fixture::with(Duration::from_secs(1), LocalConfig::default(), options).await;
    let service = &fixture.harness.service;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    let samples: Vec<_> = (0..30)
        .map(|i| sampler.sample(vec![i % 100]).max_tokens(1).send())
        .collect();
    // Ten samples have an in-flight permit. The rest wait for a permit.
    fixture.sleep(Duration::from_millis(500)).await;
    let sent_count = || {
        let entries = fixture.harness.journal.entries();
        let samples = entries
            .iter()
            .filter(|entry| entry.route == routes::ASAMPLE);
        samples.count()
    };
    let count_before = sent_count();
    assert!(
        (1..30).contains(&count_before),
        "inconclusive: {count_before}"
    );
    fixture.harness.close().await;
    let mut unsent = 0;
    for sample in samples {
        if let Err(error) = sample.await {
            unsent += usize::from(error.sent() == Sent::NotSent);
        }
    }
    assert_eq!(sent_count(), count_before);
    assert_eq!(unsent, 30 - count_before);
}
