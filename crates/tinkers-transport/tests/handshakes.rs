//! Connections that fail during setup, and a fallback to HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{
    Admission, AdmissionRequest, Admitted, Billing, BoxFuture, Call, Caller, Error, FixedJitter,
    ManualClock, RetryBudget, RouteClass, Sent, Timeouts, Transport, TransportErrorKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use common::secure::{Secure, secure_after};
use common::{client, get, until};

mod common;

#[derive(Debug, Clone, Copy)]
enum Close {
    Fin,
    Reset,
}

/// Starts a TLS server that closes its first connection when the first bytes of the client have arrived.
fn failing_once(close: Close) -> Secure {
    secure_after(
        &["h2", "http/1.1"],
        move |mut stream: TcpStream, number| async move {
            if number > 0 {
                return Some(stream);
            }
            match close {
                Close::Fin => {
                    let read = stream.read(&mut [0; 16 * 1024]).await;
                    assert!(read.expect("open") > 0, "the first bytes");
                    stream.shutdown().await.expect("open");
                }
                // Unread bytes make the kernel reset the connection when the socket is closed.
                Close::Reset => stream.readable().await.expect("the first bytes"),
            }
            None
        },
    )
}

#[tokio::test]
async fn interrupted_tls_handshake_is_a_connect_error() {
    for close in [Close::Fin, Close::Reset] {
        let server = failing_once(close);
        let transport = client(&server.url)
            .root_certificate_pem(server.authority)
            .build()
            .expect("valid");
        let error = transport
            .send(get("/x", RouteClass::Rest))
            .await
            .expect_err("closed");
        assert_eq!(
            (error.kind, error.sent),
            (TransportErrorKind::Connect, Sent::NotSent),
            "{close:?}: {error}"
        );
        assert!(error.to_string().contains("localhost"), "{error}");
        assert!(error.source.is_some());
    }
}

#[derive(Debug)]
struct Open;

impl Admission for Open {
    fn admit(&self, _: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async { Ok(Admitted::free(None)) })
    }
}

#[tokio::test]
async fn call_is_retried_after_an_interrupted_tls_handshake() {
    for close in [Close::Fin, Close::Reset] {
        let server = failing_once(close);
        let transport = client(&server.url)
            .root_certificate_pem(server.authority)
            .build()
            .expect("valid");
        let clock = ManualClock::new();
        let caller = Caller {
            transport: Arc::new(transport),
            admission: Arc::new(Open),
            time: Arc::new(clock.clone()),
            jitter: Arc::new(FixedJitter(0.0)),
            budget: Arc::new(RetryBudget::default()),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Billing::default(),
            recovered_errors: Arc::default(),
            closing: Arc::default(),
            timeouts: Default::default(),
            retries: Default::default(),
        };
        let call = tokio::spawn(async move {
            let call = Call::post("/x", "{}".into(), RouteClass::Train);
            caller.call(call).await
        });
        until(|| clock.sleepers() == 1 || call.is_finished()).await;
        clock.advance_to_next();
        let accepted = call
            .await
            .expect("no panic")
            .expect("the second connection works");
        assert_eq!(accepted.response.body, "secure", "{close:?}");
    }
}

#[tokio::test]
async fn connect_timeout_restarts_after_a_fallback_to_http1() {
    let gate = Arc::new(Semaphore::new(0));
    // Only HTTP/1.1, while the pool expects HTTP/2 and opens one connection for all requests.
    let server = secure_after(&["http/1.1"], {
        let gate = Arc::clone(&gate);
        move |stream, _| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("open").forget();
                Some(stream)
            }
        }
    });
    let clock = ManualClock::new();
    let transport = client(&server.url)
        .root_certificate_pem(server.authority)
        .clock(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    let send = |path: &str| {
        let transport = transport.clone();
        let mut request = get(path, RouteClass::Rest);
        request.timeouts = Timeouts::default().with_connect(Duration::from_secs(5));
        tokio::spawn(async move { transport.send(request).await })
    };
    let stats = || transport.stats(RouteClass::Rest);
    let held = send("/held");
    until(|| stats().waiting == 1).await;
    let (second, third) = (send("/x"), send("/y"));
    until(|| stats().waiting == 3).await;
    assert_eq!(stats().opening, 1, "one connection for all");
    clock.advance(Duration::from_secs(4));
    gate.add_permits(1);
    until(|| stats().opening == 2).await;
    // Six seconds after the requests, and two after their own connections began to open.
    clock.advance(Duration::from_secs(2));
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished() && !third.is_finished(), "too early");
    gate.add_permits(1);
    let response = second.await.expect("no panic").expect("a response");
    assert_eq!(response.body, "secure");
    // The third gets the connection of the second.
    until(|| stats().waiting == 0).await;
    let response = third.await.expect("no panic").expect("a response");
    assert_eq!(response.body, "secure");
    held.abort();
}

#[tokio::test]
async fn slow_connection_of_a_waiting_request_fails_with_a_connect_timeout() {
    let gate = Arc::new(Semaphore::new(1));
    let server = secure_after(&["http/1.1"], {
        let gate = Arc::clone(&gate);
        move |stream, _| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("open").forget();
                Some(stream)
            }
        }
    });
    let clock = ManualClock::new();
    let transport = client(&server.url)
        .root_certificate_pem(server.authority)
        .clock(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    let send = |path: &str| {
        let transport = transport.clone();
        let request = get(path, RouteClass::Rest);
        tokio::spawn(async move { transport.send(request).await })
    };
    let stats = || transport.stats(RouteClass::Rest);
    let held = send("/held");
    let second = send("/x");
    until(|| stats().in_use == 1 && stats().opening == 1).await;
    while !second.is_finished() {
        clock.advance(Timeouts::default().connect);
        tokio::task::yield_now().await;
    }
    let error = second.await.expect("no panic").expect_err("no connection");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Timeout, Sent::NotSent)
    );
    assert!(error.to_string().contains("`connect`"), "{error}");
    held.abort();
}
