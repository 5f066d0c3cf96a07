//! How connections of the pool end, and what those who wait for them learn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, Response};
use tinkers_core::{RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, Protocol};
use tokio::sync::Semaphore;

use common::{Server, Speak, client, closed, get, listen, post, read_head, respond, until, write};

mod common;

#[tokio::test]
async fn a_server_that_refuses_fails_all_who_wait_and_each_learns_it() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address")
    };
    for protocol in [Protocol::Negotiate, Protocol::Http2PriorKnowledge] {
        let transport = client(&format!("http://{address}"))
            .protocol(protocol)
            .build()
            .expect("valid");
        let sends: Vec<_> = (0..130)
            .map(|_| spawn(&transport, get("/x", RouteClass::Poll)))
            .collect();
        for send in sends {
            let error = send.await.expect("no panic").expect_err("refused");
            assert_eq!(
                (error.kind, error.sent),
                (TransportErrorKind::Connect, Sent::NotSent)
            );
            assert!(error.to_string().contains(&address.to_string()), "{error}");
            assert!(error.to_string().contains("refused"), "{error}");
        }
        let stats = transport.stats(RouteClass::Poll);
        assert_eq!((stats.open, stats.opening, stats.waiting), (0, 0, 0));
    }
}

#[tokio::test]
async fn close_lets_those_under_way_end_and_nobody_else_in() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start(Speak::Http1, {
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await.expect("open").forget();
                Response::default()
            })
        }
    });
    let transport = client(&server.url()).build().expect("valid");
    let send = spawn(&transport, get("/x", RouteClass::Rest));
    until(|| server.seen().len() == 1).await;
    transport.close();
    let error = transport
        .send(get("/y", RouteClass::Rest))
        .await
        .expect_err("closed");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Closed, Sent::NotSent)
    );
    gate.add_permits(1);
    send.await.expect("no panic").expect("answered");
    transport.closed().await;
    until(|| transport.stats(RouteClass::Rest).open == 0).await;
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn closed_connections_are_closed_for_the_server_too() {
    let open = Arc::new(AtomicUsize::new(0));
    let (address, connections) = listen({
        let open = Arc::clone(&open);
        move |mut stream, _| {
            open.fetch_add(1, Ordering::SeqCst);
            let open = Arc::clone(&open);
            async move {
                while read_head(&mut stream).await.is_some() {
                    write(
                        &mut stream,
                        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                    )
                    .await;
                }
                open.fetch_sub(1, Ordering::SeqCst);
            }
        }
    });
    let transport = client(&format!("http://{address}")).build().expect("valid");
    let dropped = client(&format!("http://{address}")).build().expect("valid");
    for transport in [&transport, &dropped] {
        transport
            .send(get("/x", RouteClass::Rest))
            .await
            .expect("answered");
        until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    }
    assert_eq!(
        (
            connections.load(Ordering::SeqCst),
            open.load(Ordering::SeqCst)
        ),
        (2, 2)
    );
    transport.close();
    until(|| open.load(Ordering::SeqCst) == 1).await;
    drop(dropped);
    until(|| open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_callers_leave_and_connections_break() {
    for (speak, protocol) in [
        (Speak::Http1, Protocol::Http1),
        (Speak::Http2, Protocol::Http2PriorKnowledge),
    ] {
        let server = Server::start(speak, |seen| {
            Box::pin(async move {
                // Some answers take a few turns, and some end the connection.
                for _ in 0..seen.body.len() % 5 {
                    tokio::task::yield_now().await;
                }
                let mut response = Response::new(seen.body.into());
                if seen.connection % 3 == 0 && seen.headers.len() % 2 == 0 {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert("connection", close);
                }
                response
            })
        });
        let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
        (limits.max_connections, limits.streams) = (4, 8);
        let transport = client(&server.url())
            .protocol(protocol)
            .lane(RouteClass::Sample, limits)
            .build()
            .expect("valid");
        let mut sends = Vec::new();
        for n in 0..600usize {
            let mut request = post("/x", RouteClass::Sample, vec![1; n]);
            if n % 2 == 0 {
                request
                    .headers
                    .insert("x-even", HeaderValue::from_static("1"));
            }
            let send = spawn(&transport, request);
            if n % 7 == 0 {
                tokio::task::yield_now().await;
                send.abort();
            } else {
                sends.push((n, send));
            }
        }
        for (n, send) in sends {
            let response = send.await.expect("no panic").expect("answered");
            assert_eq!(response.body.len(), n, "each its own answer");
        }
        until(|| transport.stats(RouteClass::Sample).in_use == 0).await;
        let stats = transport.stats(RouteClass::Sample);
        assert_eq!((stats.waiting, stats.opening), (0, 0), "{stats:?}");
        assert!(stats.open <= 4, "{stats:?}");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_read_and_the_connection_not_mixed_up() {
    let server = Server::start(Speak::Http1, |seen| {
        let mut response = Response::new(seen.body.len().to_string().into());
        response
            .headers_mut()
            .insert("x-kept", HeaderValue::from_static("1"));
        respond(response)
    });
    // A server that refuses on the head alone, as with 429 or 413.
    let (address, _) = listen(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        write(
            &mut stream,
            "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nlate",
        )
        .await;
        closed(&mut stream).await;
    });
    let transport = client(&format!("http://{address}")).build().expect("valid");
    let big = vec![7; 16 << 20];
    let response = transport
        .send(post("/x", RouteClass::Train, big.clone()))
        .await
        .expect("answered");
    assert_eq!(
        (response.status.as_u16(), &response.body[..]),
        (429, &b"late"[..])
    );
    let transport = client(&server.url()).build().expect("valid");
    let response = transport
        .send(post("/x", RouteClass::Train, big))
        .await
        .expect("answered");
    assert_eq!(response.body, (16 << 20).to_string());
    assert_eq!(response.header("x-kept"), Some("1"));
}

type Sending =
    tokio::task::JoinHandle<Result<tinkers_core::HttpResponse, tinkers_core::TransportError>>;

fn spawn(transport: &HttpTransport, request: tinkers_core::HttpRequest) -> Sending {
    let transport = transport.clone();
    tokio::spawn(async move { transport.send(request).await })
}
