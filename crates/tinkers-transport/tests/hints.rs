//! Calls through the real limiter over real sockets: nothing leaves between a server's 429 and its hint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use tinkers_core::{Call, Caller, ClientId, Error, Jitter, RouteClass, SplitMix};
use tinkers_dispatch::{Gate, Limiter, LimiterSettings, SharedRetryBudget};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, IoRuntime, Protocol};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use common::{Server, Speak, client, listen, read_head, until, write};

mod common;

/// Longer than any test; the limiter follows it for a quarter of an hour.
const HINT: &str = "3600";

/// As many as a limiter lets go at first.
const AT_FIRST: usize = 8;

struct Scene {
    caller: Arc<Caller>,
    limiter: Arc<Limiter>,
    transport: HttpTransport,
}

impl Scene {
    /// A client with a limiter of its own and so many connections, each of which carries one request at a time.
    fn new(url: &str, protocol: Protocol, connections: usize) -> Self {
        let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
        (limits.max_connections, limits.streams) = (connections, 1);
        let transport = client(url)
            .protocol(protocol)
            .lane(RouteClass::Sample, limits)
            .build()
            .expect("valid");
        let time = IoRuntime::shared().expect("a runtime").time();
        let jitter: Arc<dyn Jitter> = Arc::new(SplitMix::new(1));
        let limiter = Arc::new(Limiter::new(LimiterSettings::default()));
        let admission = limiter.admission(Arc::clone(&time), Arc::clone(&jitter));
        let caller = Caller {
            transport: Arc::new(transport.clone()),
            admission: Arc::new(admission),
            time,
            jitter,
            budget: Arc::new(SharedRetryBudget::default()),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Arc::default(),
            billing_limit: Duration::ZERO,
            recovered_errors: Arc::default(),
            closing: Arc::default(),
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
        matches!(self.limiter.snapshot().sample.gate, Gate::ClosedUntil(_))
    }
}

#[tokio::test]
async fn calls_admitted_before_a_429_stay_when_connections_are_few() {
    for (speak, protocol) in [
        (Speak::Http1, Protocol::Http1),
        (Speak::Http2, Protocol::Http2PriorKnowledge),
    ] {
        // The first request is refused, the second is answered when it is let, and nothing else should come.
        let (refuse, answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let count = Arc::new(AtomicUsize::new(0));
        let server = Server::start(speak, {
            let (refuse, answer) = (Arc::clone(&refuse), Arc::clone(&answer));
            move |_| {
                let (refuse, answer) = (Arc::clone(&refuse), Arc::clone(&answer));
                let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                Box::pin(async move {
                    if !is_first {
                        answer.acquire().await.expect("open").forget();
                        return Response::new("{}".into());
                    }
                    refuse.acquire().await.expect("open").forget();
                    let refusal = Response::builder().status(429).header("retry-after", HINT);
                    refusal.body("{}".into()).expect("valid")
                })
            }
        });
        let scene = Scene::new(&server.url(), protocol, 2);
        let calls: Vec<_> = (0..AT_FIRST).map(|_| scene.call()).collect();
        let stats = || scene.transport.stats(RouteClass::Sample);
        until(|| server.seen().len() == 2 && stats().waiting == AT_FIRST - 2).await;
        refuse.add_permits(1);
        until(|| scene.is_closed()).await;
        answer.add_permits(AT_FIRST);
        // One was refused, one was accepted, and the others are back where they came from.
        until(|| stats().in_use == 0 && stats().waiting == 0).await;
        until(|| scene.waiting() == AT_FIRST - 1).await;
        assert_eq!(server.seen().len(), 2, "nothing left after the refusal");
        for call in calls {
            call.abort();
        }
    }
}

#[tokio::test]
async fn the_head_of_a_429_closes_the_gate_before_its_body_comes() {
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
                    // The rest of the body never comes.
                    std::future::pending::<()>().await;
                }
            }
        }
    });
    let scene = Scene::new(&format!("http://{address}"), Protocol::Http1, 64);
    let refused = scene.call();
    until(|| scene.is_closed()).await;
    assert!(!refused.is_finished());
    let calls: Vec<_> = (0..10).map(|_| scene.call()).collect();
    until(|| scene.waiting() == calls.len()).await;
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    refused.abort();
    for call in calls {
        call.abort();
    }
}
