//! Connections that are cut, or that are not what was hoped, while they are set up.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::retry::Draw;
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BillingPause, BoxFuture, Call, Caller, Error, ErrorKind,
    FixedJitter, ManualClock, RetryBudget, RouteClass, Sent, Timeouts, Transport,
    TransportErrorKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use common::secure::{Secure, secure_after};
use common::{client, get, until};

mod common;

#[derive(Debug, Clone, Copy)]
enum Cut {
    End,
    Reset,
}

/// A server that cuts its first connection when the client has begun to speak.
fn cut_once(cut: Cut) -> Secure {
    secure_after(
        &["h2", "http/1.1"],
        move |mut stream: TcpStream, number| async move {
            if number > 0 {
                return Some(stream);
            }
            match cut {
                Cut::End => {
                    let read = stream.read(&mut [0; 16 * 1024]).await;
                    assert!(read.expect("open") > 0, "a greeting");
                    stream.shutdown().await.expect("open");
                }
                // What was not read when a socket is closed makes the kernel reset the connection.
                Cut::Reset => stream.readable().await.expect("a greeting"),
            }
            None
        },
    )
}

#[tokio::test]
async fn a_handshake_that_is_cut_is_no_connection_and_no_verdict_on_tls() {
    for cut in [Cut::End, Cut::Reset] {
        let server = cut_once(cut);
        let transport = client(&server.url)
            .root_certificate_pem(server.authority)
            .build()
            .expect("valid");
        let error = transport
            .send(get("/x", RouteClass::Rest))
            .await
            .expect_err("cut");
        assert_eq!(
            (error.kind, error.sent),
            (TransportErrorKind::Connect, Sent::NotSent),
            "{cut:?}: {error}"
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

impl RetryBudget for Open {
    fn draw(&self, _: ErrorKind) -> Draw {
        Draw::Granted
    }
    fn credit(&self) {}
}

#[tokio::test]
async fn a_call_outlives_a_handshake_that_is_cut() {
    for cut in [Cut::End, Cut::Reset] {
        let server = cut_once(cut);
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
            budget: Arc::new(Open),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Arc::new(BillingPause::default()),
            billing_limit: Duration::ZERO,
            recovered_errors: Arc::default(),
            closing: Arc::default(),
        };
        let call = tokio::spawn(async move {
            let call = Call::post("/x", "{}".into(), RouteClass::Train);
            caller.call(call).await
        });
        until(|| clock.sleepers() == 1 || call.is_finished()).await;
        clock.advance_to_next();
        let accepted = call.await.expect("no panic").expect("the second one lives");
        assert_eq!(accepted.response.body, "secure", "{cut:?}");
    }
}

#[tokio::test]
async fn who_counted_on_a_connection_for_many_has_the_whole_limit_for_the_next() {
    let gate = Arc::new(Semaphore::new(0));
    // HTTP/1.1 alone, where the pool hopes for HTTP/2 and opens one connection for all.
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
        .time(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    let send = |path: &str| {
        let transport = transport.clone();
        let mut request = get(path, RouteClass::Rest);
        request.timeouts = Timeouts {
            connect: Duration::from_secs(5),
            ..Timeouts::default()
        };
        tokio::spawn(async move { transport.send(request).await })
    };
    let stats = || transport.stats(RouteClass::Rest);
    let held = send("/held");
    until(|| stats().waiting == 1).await;
    let (second, third) = (send("/x"), send("/y"));
    until(|| stats().waiting == 3).await;
    assert_eq!(stats().opening, 1, "one for all");
    clock.advance(Duration::from_secs(4));
    gate.add_permits(1);
    until(|| stats().opening == 2).await;
    // Six seconds after they asked, and two after their own connections began to open.
    clock.advance(Duration::from_secs(2));
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished() && !third.is_finished(), "too early");
    gate.add_permits(1);
    let answer = second.await.expect("no panic").expect("answered");
    assert_eq!(answer.body, "secure");
    // The limit holds all the same: the third gets the second's connection or runs into it.
    until(|| stats().waiting == 0).await;
    let answer = third.await.expect("no panic").expect("answered");
    assert_eq!(answer.body, "secure");
    held.abort();
}

#[tokio::test]
async fn a_limit_that_was_counted_anew_still_ends() {
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
        .time(Arc::new(clock.clone()))
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
