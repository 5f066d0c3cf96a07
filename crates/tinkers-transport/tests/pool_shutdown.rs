//! The end of pooled connections, and its effect on waiting requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, Response};
use tinkers_core::{RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_transport::{ClassConnectionLimits, HttpVersions};

use common::{
    BOTH, Server, ServerVersion, client, closed, get, holding_server, listen, post, read_head,
    respond, spawn, until, write,
};

mod common;

#[tokio::test]
async fn refused_connection_attempt_fails_all_waiting_requests() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address")
    };
    for versions in [HttpVersions::Negotiate, HttpVersions::Http2PriorKnowledge] {
        let transport = client(&format!("http://{address}"))
            .http_versions(versions)
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
async fn transport_close_finishes_requests_in_flight_and_rejects_new_requests() {
    let (server, permits) = holding_server(ServerVersion::Http1);
    let transport = client(&server.url()).build().expect("valid");
    let send = spawn(&transport, get("/held", RouteClass::Rest));
    until(|| server.requests().len() == 1).await;
    transport.close();
    let error = transport
        .send(get("/y", RouteClass::Rest))
        .await
        .expect_err("closed");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Closed, Sent::NotSent)
    );
    permits.add_permits(1);
    send.await.expect("no panic").expect("a response");
    transport.closed().await;
    until(|| transport.stats(RouteClass::Rest).open == 0).await;
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn closing_or_dropping_a_transport_closes_its_sockets() {
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
            .expect("a response");
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
async fn pool_recovers_from_cancelled_requests_and_closed_connections() {
    for (server_version, versions) in BOTH {
        let server = Server::start(server_version, |recorded| {
            Box::pin(async move {
                // Some responses are delayed, and some close the connection.
                for _ in 0..recorded.body.len() % 5 {
                    tokio::task::yield_now().await;
                }
                let mut response = Response::new(recorded.body.into());
                if recorded.connection % 3 == 0 && recorded.headers.len() % 2 == 0 {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert("connection", close);
                }
                response
            })
        });
        let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
        (limits.max_connections, limits.streams) = (4, 8);
        let transport = client(&server.url())
            .http_versions(versions)
            .class_limits(RouteClass::Sample, limits)
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
            let response = send.await.expect("no panic").expect("a response");
            assert_eq!(response.body.len(), n, "the response of this request");
        }
        until(|| transport.stats(RouteClass::Sample).in_use == 0).await;
        let stats = transport.stats(RouteClass::Sample);
        assert_eq!((stats.waiting, stats.opening), (0, 0), "{stats:?}");
        assert!(stats.open <= 4, "{stats:?}");
    }
}

#[tokio::test]
async fn response_before_the_end_of_an_upload_does_not_affect_the_next_request() {
    let server = Server::start(ServerVersion::Http1, |recorded| {
        let mut response = Response::new(recorded.body.len().to_string().into());
        response
            .headers_mut()
            .insert("x-kept", HeaderValue::from_static("1"));
        respond(response)
    });
    // A server that responds after the head of the request, as some do with 413 or 429.
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
        .expect("a response");
    assert_eq!(
        (response.status.as_u16(), &response.body[..]),
        (429, &b"late"[..])
    );
    let transport = client(&server.url()).build().expect("valid");
    let response = transport
        .send(post("/x", RouteClass::Train, big))
        .await
        .expect("a response");
    assert_eq!(response.body, (16 << 20).to_string());
    assert_eq!(response.header("x-kept"), Some("1"));
}
