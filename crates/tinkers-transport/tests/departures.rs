//! The rate limit is asked immediately before a request leaves, and hears of a refusal when its head is there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode};
use tinkers_core::{
    HttpRequest, HttpResponse, Ledger, Receipt, RouteClass, Sent, Settlement, SubmitPermit,
    Transport, TransportError, TransportErrorKind,
};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, Protocol};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use common::{Server, Speak, client, closed, get, listen, read_head, until, write};

mod common;

/// A limiter that is open or shut, and that writes down how attempts end.
#[derive(Debug, Default)]
struct Gate {
    is_shut: AtomicBool,
    settled: Mutex<Vec<Settlement>>,
}

impl Ledger for Gate {
    fn may_leave(&self, _: Receipt) -> bool {
        !self.is_shut.load(Ordering::SeqCst)
    }

    fn settle(&self, _: Receipt, outcome: Settlement) {
        self.settled.lock().expect("no panic").push(outcome);
    }

    fn land(&self) {}
}

impl Gate {
    fn shut(&self, is_shut: bool) {
        self.is_shut.store(is_shut, Ordering::SeqCst);
    }

    /// A request under a permit of this limiter.
    fn request(self: &Arc<Self>, path: &str) -> (HttpRequest, SubmitPermit) {
        let mut permit = SubmitPermit::new(Arc::<Self>::clone(self), Receipt::default());
        let mut request = get(path, RouteClass::Sample);
        request.departure = permit.departure();
        (request, permit)
    }

    fn send(self: &Arc<Self>, transport: &HttpTransport, path: &str) -> Sending {
        let (request, permit) = self.request(path);
        let transport = transport.clone();
        tokio::spawn(async move {
            let outcome = transport.send(request).await;
            drop(permit);
            outcome
        })
    }
}

type Sending = JoinHandle<Result<HttpResponse, TransportError>>;

async fn is_held(sending: Sending) {
    let error = sending.await.expect("no panic").expect_err("held");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Held, Sent::NotSent),
        "{error}"
    );
}

/// A server that answers `/held` when it is let, and all else at once.
fn server(speak: Speak) -> (Server, Arc<Semaphore>) {
    let release = Arc::new(Semaphore::new(0));
    let server = Server::start(speak, {
        let release = Arc::clone(&release);
        move |seen| {
            let release = Arc::clone(&release);
            Box::pin(async move {
                if seen.uri.path() == "/held" {
                    release.acquire().await.expect("open").forget();
                }
                Response::default()
            })
        }
    });
    (server, release)
}

/// With one connection that carries one request at a time.
fn narrow(server: &Server, protocol: Protocol) -> HttpTransport {
    let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
    (limits.max_connections, limits.streams) = (1, 1);
    let builder = client(&server.url()).protocol(protocol);
    builder
        .lane(RouteClass::Sample, limits)
        .build()
        .expect("valid")
}

const BOTH: [(Speak, Protocol); 2] = [
    (Speak::Http1, Protocol::Http1),
    (Speak::Http2, Protocol::Http2PriorKnowledge),
];

#[tokio::test]
async fn a_request_that_waited_for_a_connection_is_held() {
    for (speak, protocol) in BOTH {
        let (server, release) = server(speak);
        let transport = narrow(&server, protocol);
        let gate = Arc::new(Gate::default());
        let stats = || transport.stats(RouteClass::Sample);
        let first = gate.send(&transport, "/held");
        until(|| server.seen().len() == 1).await;
        let waiting = [gate.send(&transport, "/x"), gate.send(&transport, "/y")];
        until(|| stats().waiting == 2).await;
        gate.shut(true);
        release.add_permits(1);
        first.await.expect("no panic").expect("it had left before");
        for sending in waiting {
            is_held(sending).await;
        }
        assert_eq!(server.seen().len(), 1, "nothing left");
        until(|| stats().in_use == 0).await;
        // The connection that they were given is as good as before.
        gate.shut(false);
        let again = gate.send(&transport, "/z").await.expect("no panic");
        assert_eq!(again.expect("answered").status, StatusCode::OK);
        assert_eq!((server.connections(), stats().opened), (1, 1));
    }
}

#[tokio::test]
async fn a_request_that_waited_for_a_dial_is_held() {
    for (speak, protocol) in BOTH {
        let (server, _release) = server(speak);
        let transport = narrow(&server, protocol);
        let gate = Arc::new(Gate::default());
        gate.shut(true);
        is_held(gate.send(&transport, "/x")).await;
        assert_eq!(server.seen().len(), 0);
        assert_eq!(
            transport.stats(RouteClass::Sample).opened,
            1,
            "it was dialled"
        );
    }
}

#[tokio::test]
async fn the_stream_limit_of_the_server_keeps_requests_in_the_pool() {
    let release = Arc::new(Semaphore::new(0));
    let arrived = Arc::new(AtomicUsize::new(0));
    let (address, _) = listen({
        let (release, arrived) = (Arc::clone(&release), Arc::clone(&arrived));
        move |stream, _| {
            let (release, arrived) = (Arc::clone(&release), Arc::clone(&arrived));
            async move {
                let service = hyper::service::service_fn(move |_| {
                    let release = Arc::clone(&release);
                    arrived.fetch_add(1, Ordering::SeqCst);
                    async move {
                        release.acquire().await.expect("open").forget();
                        Ok::<_, std::convert::Infallible>(Response::new(String::new()))
                    }
                });
                let executor = hyper_util::rt::TokioExecutor::new();
                let mut builder = hyper::server::conn::http2::Builder::new(executor);
                builder.max_concurrent_streams(2);
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = builder.serve_connection(io, service).await;
            }
        }
    });
    let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
    (limits.max_connections, limits.streams) = (1, 50);
    let transport = client(&format!("http://{address}"))
        .protocol(Protocol::Http2PriorKnowledge)
        .lane(RouteClass::Sample, limits)
        .build()
        .expect("valid");
    let gate = Arc::new(Gate::default());
    let sends: Vec<_> = (0..6).map(|_| gate.send(&transport, "/x")).collect();
    let stats = || transport.stats(RouteClass::Sample);
    until(|| arrived.load(Ordering::SeqCst) == 2).await;
    assert_eq!((stats().in_use, stats().waiting), (2, 4));
    gate.shut(true);
    release.add_permits(6);
    let mut held = 0;
    for sending in sends {
        match sending.await.expect("no panic") {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind, TransportErrorKind::Held, "{error}");
                held += 1;
            }
        }
    }
    assert_eq!(held, 4);
}

#[tokio::test]
async fn a_refusal_whose_body_is_lost_is_still_a_refusal() {
    for rest in [
        "content-length: 100\r\n\r\n{",
        "content-encoding: br\r\ncontent-length: 1\r\n\r\n?",
        "content-encoding: gzip\r\ncontent-length: 1\r\n\r\n?",
        "content-length: 99999999999\r\n\r\n{",
    ] {
        let (address, _) = listen(move |mut stream, _| async move {
            let _ = read_head(&mut stream).await;
            let head = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 30\r\n";
            write(&mut stream, &format!("{head}{rest}")).await;
        });
        let transport = client(&format!("http://{address}")).build().expect("valid");
        let gate = Arc::new(Gate::default());
        let answer = gate.send(&transport, "/x").await.expect("no panic");
        let answer = answer.expect("refused, and not lost");
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{rest}");
        assert_eq!(answer.header("retry-after"), Some("30"), "{rest}");
        until(|| transport.stats(RouteClass::Sample).open == 0).await;
    }
}

#[tokio::test]
async fn a_refusal_is_heard_of_before_its_body() {
    let release = Arc::new(Semaphore::new(0));
    let (address, _) = listen({
        let release = Arc::clone(&release);
        move |mut stream, _| {
            let release = Arc::clone(&release);
            async move {
                let _ = read_head(&mut stream).await;
                let head = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 30\r\ncontent-length: 2\r\n\r\n{";
                write(&mut stream, head).await;
                release.acquire().await.expect("open").forget();
                write(&mut stream, "}").await;
                closed(&mut stream).await;
            }
        }
    });
    let transport = client(&format!("http://{address}")).build().expect("valid");
    let gate = Arc::new(Gate::default());
    let sending = gate.send(&transport, "/x");
    let settled = || gate.settled.lock().expect("no panic").clone();
    until(|| !settled().is_empty()).await;
    assert!(!sending.is_finished(), "its body is not there");
    release.add_permits(1);
    let answer = sending.await.expect("no panic").expect("answered");
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (429, &b"{}"[..])
    );
    let hint = Some(Duration::from_secs(30));
    assert_eq!(settled(), [Settlement::Refused { hint }], "once");
}

#[tokio::test]
async fn each_hop_of_a_redirect_is_asked_for_anew() {
    let gate = Arc::new(Gate::default());
    let server = Server::start(Speak::Http1, {
        let gate = Arc::clone(&gate);
        move |_| {
            gate.shut(true);
            let mut response = Response::default();
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let there = HeaderValue::from_static("/there");
            response.headers_mut().insert("location", there);
            common::respond(response)
        }
    });
    let transport = client(&server.url()).build().expect("valid");
    is_held(gate.send(&transport, "/here")).await;
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_is_sent_again_on_a_fresh_connection_is_asked_for_anew() {
    let gate = Arc::new(Gate::default());
    // A connection that takes one stream, and says of the second that it did nothing with it.
    let (address, connections) = listen({
        let gate = Arc::clone(&gate);
        move |stream, _| {
            let gate = Arc::clone(&gate);
            async move {
                let mut connection = h2::server::handshake(stream).await.expect("http/2");
                let mut answered = false;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if answered {
                        gate.shut(true);
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        answered = true;
                        let _ = respond.send_response(Response::default(), true);
                    }
                }
            }
        }
    });
    let transport = client(&format!("http://{address}"))
        .protocol(Protocol::Http2PriorKnowledge)
        .build()
        .expect("valid");
    let first = gate.send(&transport, "/x").await.expect("no panic");
    first.expect("answered");
    is_held(gate.send(&transport, "/y")).await;
    assert_eq!(connections.load(Ordering::SeqCst), 2, "another was opened");
}
