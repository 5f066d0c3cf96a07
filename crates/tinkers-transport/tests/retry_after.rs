//! Calls with the limiter over sockets: after a 429, nothing is sent before the `retry-after` time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Response;
use tinkers_core::nesting::NestedMark;
use tinkers_core::{
    Billing, Call, Caller, ClientId, Error, Jitter, RetryBudget, RouteClass, SplitMix,
};
use tinkers_dispatch::{GateSnapshot, Limiter, LimiterSettings};
use tinkers_transport::{
    ClassConnectionLimits, HttpTransport, HttpTransportBuilder, HttpVersions, IoRuntime,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use common::{BOTH, Server, client, listen, read_head, until, write};

mod common;

/// The `retry-after` delay in seconds that the server sends: longer than any test takes.
const HINT: &str = "3600";

/// The maximum number of requests in flight that a new rate limiter allows.
const INITIAL_WINDOW: usize = 8;

struct LimitedClient {
    caller: Arc<Caller>,
    limiter: Arc<Limiter>,
    transport: HttpTransport,
}

impl LimitedClient {
    /// Creates a client with its own rate limiter and at most `connections` connections. Each connection carries one request at a time.
    fn new(url: &str, versions: HttpVersions, connections: usize) -> Self {
        let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
        (limits.max_connections, limits.streams) = (connections, 1);
        let builder = client(url).http_versions(versions);
        Self::over(builder.class_limits(RouteClass::Sample, limits))
    }

    fn over(builder: HttpTransportBuilder) -> Self {
        let transport = builder.build().expect("valid");
        let clock = IoRuntime::shared().expect("a runtime").clock();
        let jitter: Arc<dyn Jitter> = Arc::new(SplitMix::new(1));
        let limiter = Arc::new(Limiter::new(LimiterSettings::default()));
        let admission = limiter.admission(Arc::clone(&clock), Arc::clone(&jitter));
        let caller = Caller {
            transport: Arc::new(transport.clone()),
            admission: Arc::new(admission),
            time: clock,
            jitter,
            budget: Arc::new(RetryBudget::default()),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Billing::default(),
            recovered_errors: Arc::default(),
            closing: Arc::default(),
            timeouts: Default::default(),
            retries: Default::default(),
        };
        Self {
            caller: Arc::new(caller),
            limiter,
            transport,
        }
    }

    fn call(&self) -> JoinHandle<Result<(), Error>> {
        let caller = Arc::clone(&self.caller);
        let mut call = Call::post("/api/v1/asample", "{}".into(), RouteClass::Sample);
        call.client = ClientId(1);
        tokio::spawn(async move { caller.call(call).await.map(|_| ()) })
    }

    fn waiting(&self) -> usize {
        self.limiter.snapshot().sample.waiting
    }

    fn is_closed(&self) -> bool {
        matches!(
            self.limiter.snapshot().sample.gate,
            GateSnapshot::ClosedUntil(_)
        )
    }
}

#[tokio::test]
async fn admitted_calls_that_wait_for_a_connection_requeue_after_a_429() {
    for (server_version, versions) in BOTH {
        // The first request gets a 429 and the second a result, each with a permit. No other request should arrive.
        let (refusal_permits, result_permits) =
            (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let count = Arc::new(AtomicUsize::new(0));
        let server = Server::start(server_version, {
            let (refusal_permits, result_permits) =
                (Arc::clone(&refusal_permits), Arc::clone(&result_permits));
            move |_| {
                let (refusal_permits, result_permits) =
                    (Arc::clone(&refusal_permits), Arc::clone(&result_permits));
                let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                Box::pin(async move {
                    if !is_first {
                        result_permits.acquire().await.expect("open").forget();
                        return Response::new("{}".into());
                    }
                    refusal_permits.acquire().await.expect("open").forget();
                    let refusal = Response::builder().status(429).header("retry-after", HINT);
                    refusal.body("{}".into()).expect("valid")
                })
            }
        });
        let limited = LimitedClient::new(&server.url(), versions, 2);
        let calls: Vec<_> = (0..INITIAL_WINDOW).map(|_| limited.call()).collect();
        let stats = || limited.transport.stats(RouteClass::Sample);
        until(|| server.requests().len() == 2 && stats().waiting == INITIAL_WINDOW - 2).await;
        refusal_permits.add_permits(1);
        until(|| limited.is_closed()).await;
        result_permits.add_permits(INITIAL_WINDOW);
        // One call got a 429 and one a result; the others are back in the queue of the limiter.
        until(|| stats().in_use == 0 && stats().waiting == 0).await;
        until(|| limited.waiting() == INITIAL_WINDOW - 1).await;
        assert_eq!(server.requests().len(), 2, "nothing was sent after the 429");
        for call in calls {
            call.abort();
        }
    }
}

#[tokio::test]
async fn head_of_a_429_response_closes_the_gate_before_the_body_arrives() {
    let requests = Arc::new(AtomicUsize::new(0));
    let (address, _) = listen({
        let requests = Arc::clone(&requests);
        move |mut stream, _| {
            let requests = Arc::clone(&requests);
            async move {
                while read_head(&mut stream).await.is_some() {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let head = format!(
                        "HTTP/1.1 429 Too Many Requests\r\nretry-after: {HINT}\r\ncontent-length: 2\r\n\r\n{{"
                    );
                    write(&mut stream, &head).await;
                    // The rest of the body is never sent.
                    std::future::pending::<()>().await;
                }
            }
        }
    });
    let limited = LimitedClient::new(&format!("http://{address}"), HttpVersions::Http1, 64);
    let refused = limited.call();
    until(|| limited.is_closed()).await;
    assert!(!refused.is_finished());
    let calls: Vec<_> = (0..10).map(|_| limited.call()).collect();
    until(|| limited.waiting() == calls.len()).await;
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    refused.abort();
    for call in calls {
        call.abort();
    }
}

/// A log subscriber that records for each log event whether the flag was set that marks code as running inside a request.
#[derive(Clone, Default)]
struct Marks(Arc<Mutex<Vec<bool>>>);

impl<S: tracing::Subscriber> Layer<S> for Marks {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut marks = self.0.lock().expect("not poisoned");
        marks.push(NestedMark::here().is_inside());
    }
}

#[tokio::test]
async fn log_subscriber_does_not_count_as_code_inside_a_request() {
    let marks = Marks::default();
    let subscriber = tracing_subscriber::registry().with(marks.clone());
    let _logging = tracing::subscriber::set_default(subscriber);
    let server = Server::start(BOTH[0].0, |_| {
        let refusal = Response::builder().status(429).header("retry-after", HINT);
        let refusal = refusal.body("{}".into()).expect("valid");
        Box::pin(async { refusal })
    });
    // On the runtime of the caller, so that the request and its log lines are in the caller's task.
    let runtime = IoRuntime::from_handle(Handle::current());
    let limited = LimitedClient::over(client(&server.url()).runtime(runtime));
    let call = limited.call();
    until(|| limited.is_closed()).await;
    call.abort();
    let marks = marks.0.lock().expect("not poisoned").clone();
    assert!(!marks.is_empty() && !marks.contains(&true), "{marks:?}");
}
