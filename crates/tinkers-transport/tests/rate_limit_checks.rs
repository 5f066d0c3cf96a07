//! The rate limit is checked immediately before a request is sent, and is told of a rate-limited response when its head arrives.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode};
use tinkers_core::{
    AttemptOutcome, HttpRequest, Ledger, RouteClass, Sent, SubmitPermit, Ticket, Transport,
    TransportErrorKind,
};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, HttpVersions};
use tokio::sync::Semaphore;

use common::{
    BOTH, Sending, Server, ServerVersion, client, closed, get, holding_server, listen, read_head,
    until, write,
};

mod common;

/// A fake rate limiter that either lets all requests be sent or none (its gate is then closed), and records the outcomes of requests.
#[derive(Debug, Default)]
struct FakeLimiter {
    is_closed: AtomicBool,
    settled: Mutex<Vec<AttemptOutcome>>,
}

impl Ledger for FakeLimiter {
    fn may_leave(&self, _: Ticket) -> bool {
        !self.is_closed.load(Ordering::SeqCst)
    }

    fn settle(&self, _: Ticket, outcome: AttemptOutcome) {
        self.settled.lock().expect("no panic").push(outcome);
    }

    fn release(&self) {}
}

impl FakeLimiter {
    fn set_closed(&self, is_closed: bool) {
        self.is_closed.store(is_closed, Ordering::SeqCst);
    }

    /// Returns a request for `path`, and the rate limiter's permit to send the request.
    fn request(self: &Arc<Self>, path: &str) -> (HttpRequest, SubmitPermit) {
        let mut permit = SubmitPermit::new(Arc::<Self>::clone(self), Ticket::default());
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

async fn is_held(sending: Sending) {
    let error = sending.await.expect("no panic").expect_err("held");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Held, Sent::NotSent),
        "{error}"
    );
}

/// Returns a transport with a single connection. The connection carries one request at a time.
fn single_connection(server: &Server, versions: HttpVersions) -> HttpTransport {
    let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
    (limits.max_connections, limits.streams) = (1, 1);
    let builder = client(&server.url()).http_versions(versions);
    builder
        .class_limits(RouteClass::Sample, limits)
        .build()
        .expect("valid")
}

#[tokio::test]
async fn request_is_not_sent_if_the_gate_closes_before_a_connection_is_free() {
    for (server_version, versions) in BOTH {
        let (server, permits) = holding_server(server_version);
        let transport = single_connection(&server, versions);
        let limiter = Arc::new(FakeLimiter::default());
        let stats = || transport.stats(RouteClass::Sample);
        let first = limiter.send(&transport, "/held");
        until(|| server.requests().len() == 1).await;
        let waiting = [
            limiter.send(&transport, "/x"),
            limiter.send(&transport, "/y"),
        ];
        until(|| stats().waiting == 2).await;
        limiter.set_closed(true);
        permits.add_permits(1);
        first.await.expect("no panic").expect("a response");
        for sending in waiting {
            is_held(sending).await;
        }
        assert_eq!(server.requests().len(), 1, "only the first was sent");
        until(|| stats().in_use == 0).await;
        // The connection of the held requests is reused.
        limiter.set_closed(false);
        let again = limiter.send(&transport, "/z").await.expect("no panic");
        assert_eq!(again.expect("a response").status, StatusCode::OK);
        assert_eq!((server.connections(), stats().opened), (1, 1));
    }
}

#[tokio::test]
async fn request_is_not_sent_if_the_gate_closes_while_connecting() {
    for (server_version, versions) in BOTH {
        let (server, _permits) = holding_server(server_version);
        let transport = single_connection(&server, versions);
        let limiter = Arc::new(FakeLimiter::default());
        limiter.set_closed(true);
        is_held(limiter.send(&transport, "/x")).await;
        assert_eq!(server.requests().len(), 0);
        assert_eq!(
            transport.stats(RouteClass::Sample).opened,
            1,
            "a connection was opened"
        );
    }
}

#[tokio::test]
async fn requests_above_the_server_stream_limit_wait_in_the_pool() {
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
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .class_limits(RouteClass::Sample, limits)
        .build()
        .expect("valid");
    let limiter = Arc::new(FakeLimiter::default());
    let sends: Vec<_> = (0..6).map(|_| limiter.send(&transport, "/x")).collect();
    let stats = || transport.stats(RouteClass::Sample);
    until(|| arrived.load(Ordering::SeqCst) == 2).await;
    assert_eq!((stats().in_use, stats().waiting), (2, 4));
    limiter.set_closed(true);
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
async fn rate_limited_response_with_an_invalid_body_is_returned() {
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
        let limiter = Arc::new(FakeLimiter::default());
        let response = limiter.send(&transport, "/x").await.expect("no panic");
        let response = response.expect("a response");
        assert_eq!(response.status, StatusCode::TOO_MANY_REQUESTS, "{rest}");
        assert_eq!(response.header("retry-after"), Some("30"), "{rest}");
        until(|| transport.stats(RouteClass::Sample).open == 0).await;
    }
}

#[tokio::test]
async fn rate_limited_response_is_reported_before_its_body() {
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
    let limiter = Arc::new(FakeLimiter::default());
    let sending = limiter.send(&transport, "/x");
    let settled = || limiter.settled.lock().expect("no panic").clone();
    until(|| !settled().is_empty()).await;
    assert!(!sending.is_finished(), "the body is incomplete");
    release.add_permits(1);
    let response = sending.await.expect("no panic").expect("a response");
    assert_eq!(
        (response.status.as_u16(), &response.body[..]),
        (429, &b"{}"[..])
    );
    let hint = Some(Duration::from_secs(30));
    assert_eq!(settled(), [AttemptOutcome::Refused { hint }], "once");
}

#[tokio::test]
async fn rate_limit_gate_is_checked_before_each_redirect() {
    let limiter = Arc::new(FakeLimiter::default());
    let server = Server::start(ServerVersion::Http1, {
        let limiter = Arc::clone(&limiter);
        move |_| {
            limiter.set_closed(true);
            let mut response = Response::default();
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let there = HeaderValue::from_static("/there");
            response.headers_mut().insert("location", there);
            common::respond(response)
        }
    });
    let transport = client(&server.url()).build().expect("valid");
    is_held(limiter.send(&transport, "/here")).await;
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn rate_limit_gate_is_checked_before_a_retry() {
    let limiter = Arc::new(FakeLimiter::default());
    // The server accepts the first stream of a connection and refuses the others.
    let (address, connections) = listen({
        let limiter = Arc::clone(&limiter);
        move |stream, _| {
            let limiter = Arc::clone(&limiter);
            async move {
                let mut connection = h2::server::handshake(stream).await.expect("http/2");
                let mut answered = false;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if answered {
                        limiter.set_closed(true);
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
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .build()
        .expect("valid");
    let first = limiter.send(&transport, "/x").await.expect("no panic");
    first.expect("a response");
    is_held(limiter.send(&transport, "/y")).await;
    assert_eq!(connections.load(Ordering::SeqCst), 2, "a second connection");
}
