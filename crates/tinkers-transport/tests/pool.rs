//! Reuse, sharing, limits and replacement of the connections of a route class.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use tinkers_core::{
    ManualClock, RecoveredError, RecoveredErrors, RouteClass, Sent, Transport, TransportErrorKind,
};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, HttpVersions};
use tokio::sync::Barrier;

use common::{
    Server, ServerVersion, client, closed, get, holding_server, listen, post, read_head,
    respond_with, spawn, until, write,
};

mod common;

#[tokio::test]
async fn sequential_http1_requests_reuse_one_connection() {
    let server = Server::start(ServerVersion::Http1, |recorded| respond_with(recorded.body));
    let transport = client(&server.url()).build().expect("valid");
    for n in 0..20 {
        let response = transport
            .send(post("/x", RouteClass::Rest, vec![n]))
            .await
            .expect("a response");
        assert_eq!(
            (response.status, &response.body[..]),
            (StatusCode::OK, &[n][..])
        );
        // The connection is returned shortly after the end of the response.
        until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    }
    assert_eq!(server.connections(), 1);
    let stats = transport.stats(RouteClass::Rest);
    assert_eq!((stats.open, stats.opened, stats.waiting), (1, 1, 0));
}

#[tokio::test]
async fn http1_connection_is_not_reused_after_a_500() {
    for (server_version, connections) in [(ServerVersion::Http1, 2), (ServerVersion::Http2, 1)] {
        let server = Server::start(server_version, |recorded| {
            Box::pin(async move {
                let mut response = Response::default();
                if recorded.uri.path() == "/breaks" {
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
                response
            })
        });
        let transport = match server_version {
            ServerVersion::Http1 => client(&server.url()).build().expect("valid"),
            ServerVersion::Http2 => http2(&server),
        };
        for (path, status) in [("/breaks", 500), ("/x", 200), ("/x", 200)] {
            let response = transport.send(get(path, RouteClass::Rest)).await;
            assert_eq!(response.expect("a response").status.as_u16(), status);
            until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
        }
        assert_eq!(server.connections(), connections);
    }
}

#[tokio::test]
async fn route_classes_do_not_share_connections() {
    let server = Server::start(ServerVersion::Http2, |_| respond_with("x"));
    let transport = http2(&server);
    for class in RouteClass::ALL {
        transport.send(get("/x", class)).await.expect("a response");
    }
    assert_eq!(server.connections(), RouteClass::ALL.len());
}

#[tokio::test]
async fn number_of_http1_connections_is_limited() {
    let (server, permits) = holding_server(ServerVersion::Http1);
    let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
    limits.max_connections = 3;
    let transport = client(&server.url())
        .class_limits(RouteClass::Sample, limits)
        .build()
        .expect("valid");
    let sends: Vec<_> = (0..7)
        .map(|_| spawn(&transport, get("/held", RouteClass::Sample)))
        .collect();
    until(|| server.requests().len() == 3).await;
    let stats = transport.stats(RouteClass::Sample);
    assert_eq!((stats.open, stats.in_use, stats.waiting), (3, 3, 4));
    permits.add_permits(7);
    for send in sends {
        send.await.expect("no panic").expect("a response");
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn requests_that_wait_for_a_connection_are_served_in_order() {
    let (server, permits) = holding_server(ServerVersion::Http1);
    let mut limits = ClassConnectionLimits::of(RouteClass::Rest);
    limits.max_connections = 1;
    let transport = client(&server.url())
        .class_limits(RouteClass::Rest, limits)
        .build()
        .expect("valid");
    let mut sends = Vec::new();
    for n in 0..5 {
        sends.push(spawn(
            &transport,
            get(&format!("/held?{n}"), RouteClass::Rest),
        ));
        // In the queue before the next one is sent.
        until(|| {
            transport.stats(RouteClass::Rest).waiting == n || server.requests().len() + n == 1
        })
        .await;
        until(|| server.requests().len() == 1).await;
    }
    until(|| transport.stats(RouteClass::Rest).waiting == 4).await;
    sends.remove(2).abort();
    until(|| transport.stats(RouteClass::Rest).waiting == 3).await;
    permits.add_permits(5);
    for send in sends {
        send.await.expect("no panic").expect("a response");
    }
    let order: Vec<String> = server
        .requests()
        .iter()
        .filter_map(|recorded| recorded.uri.query().map(str::to_owned))
        .collect();
    assert_eq!(order, ["0", "1", "3", "4"]);
}

#[tokio::test]
async fn http2_connections_carry_fifty_streams_each() {
    let barrier = Arc::new(Barrier::new(120));
    let server = Server::start(ServerVersion::Http2, {
        let barrier = Arc::clone(&barrier);
        move |recorded| {
            let barrier = Arc::clone(&barrier);
            Box::pin(async move {
                // Responds when all requests have arrived, so that all are in flight together.
                barrier.wait().await;
                Response::new(recorded.connection.to_string().into())
            })
        }
    });
    let transport = http2(&server);
    let sends: Vec<_> = (0..120)
        .map(|_| spawn(&transport, get("/x", RouteClass::Poll)))
        .collect();
    let mut on = [0; 3];
    for send in sends {
        let response = send.await.expect("no panic").expect("a response");
        let connection: usize = std::str::from_utf8(&response.body)
            .expect("text")
            .parse()
            .expect("a number");
        on[connection] += 1;
    }
    on.sort_unstable();
    assert_eq!(on, [20, 50, 50]);
    assert_eq!(transport.stats(RouteClass::Poll).in_use, 0);
}

#[tokio::test]
async fn training_requests_do_not_share_http2_connections() {
    let barrier = Arc::new(Barrier::new(4));
    let server = Server::start(ServerVersion::Http2, {
        let barrier = Arc::clone(&barrier);
        move |_| {
            let barrier = Arc::clone(&barrier);
            Box::pin(async move {
                barrier.wait().await;
                Response::default()
            })
        }
    });
    let transport = http2(&server);
    let sends: Vec<_> = (0..4)
        .map(|_| spawn(&transport, get("/x", RouteClass::Train)))
        .collect();
    for send in sends {
        send.await.expect("no panic").expect("a response");
    }
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn connection_closed_by_the_server_is_replaced() {
    // Each connection carries one response and is then closed.
    let (address, connections) = listen(|mut stream, _| async move {
        if read_head(&mut stream).await.is_some() {
            write(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
        }
    });
    let transport = client(&format!("http://{address}")).build().expect("valid");
    for round in 1..=10 {
        transport
            .send(get("/x", RouteClass::Rest))
            .await
            .expect("a response");
        assert_eq!(connections.load(Ordering::SeqCst), round);
        until(|| transport.stats(RouteClass::Rest).open == 0).await;
    }
}

#[tokio::test]
async fn request_on_a_broken_connection_may_have_been_sent() {
    let (address, _) = listen(|mut stream, number| async move {
        let _ = read_head(&mut stream).await;
        if number == 0 {
            write(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
            // The second request is read, and the connection is closed without a response.
            let _ = read_head(&mut stream).await;
        }
    });
    let transport = client(&format!("http://{address}")).build().expect("valid");
    transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect("a response");
    until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    let error = transport
        .send(post("/x", RouteClass::Rest, "y"))
        .await
        .expect_err("closed");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Broken, Sent::MaybeSent)
    );
}

#[tokio::test]
async fn refused_http2_stream_is_retried_on_another_connection() {
    let (address, connections) = listen(|stream, number| async move {
        let mut connection = h2::server::handshake(stream).await.expect("http/2");
        let mut served = 0;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            // The first connection serves one request and refuses the next.
            if number == 0 && served == 1 {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                connection.graceful_shutdown();
                continue;
            }
            served += 1;
            let _ = respond.send_response(Response::default(), true);
        }
    });
    let recovered_errors: Arc<RecoveredErrors> = Arc::default();
    let transport = client(&format!("http://{address}"))
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .recovered_errors(Arc::clone(&recovered_errors))
        .build()
        .expect("valid");
    for _ in 0..3 {
        transport
            .send(post("/x", RouteClass::Sample, "body"))
            .await
            .expect("a response");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    // The request succeeds, so the error is only counted.
    assert!(recovered_errors.snapshot().of(RecoveredError::Connection) > 0);
}

#[tokio::test]
async fn refused_stream_of_a_new_connection_is_not_retried() {
    let (address, connections) = listen(|stream, _| async move {
        let mut connection = h2::server::handshake(stream).await.expect("http/2");
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    });
    let transport = client(&format!("http://{address}"))
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .build()
        .expect("valid");
    let error = transport
        .send(get("/x", RouteClass::Sample))
        .await
        .expect_err("refused");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Broken, Sent::NotSent)
    );
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_after_a_goaway_use_another_connection() {
    let (address, connections) = listen(|stream, number| async move {
        let mut connection = h2::server::handshake(stream).await.expect("http/2");
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let _ = respond.send_response(Response::default(), true);
            if number == 0 {
                connection.graceful_shutdown();
            }
        }
    });
    let transport = client(&format!("http://{address}"))
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .build()
        .expect("valid");
    for _ in 0..5 {
        transport
            .send(get("/x", RouteClass::Sample))
            .await
            .expect("a response");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn idle_connection_is_closed_after_its_timeout() {
    let clock = ManualClock::new();
    let closed_count = Arc::new(AtomicUsize::new(0));
    let (address, _) = listen({
        let closed_count = Arc::clone(&closed_count);
        move |mut stream, _| {
            let closed_count = Arc::clone(&closed_count);
            async move {
                let _ = read_head(&mut stream).await;
                write(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                )
                .await;
                closed(&mut stream).await;
                closed_count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let transport = client(&format!("http://{address}"))
        .clock(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect("a response");
    until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    let limit = ClassConnectionLimits::of(RouteClass::Rest).idle_http1;
    clock.advance(limit - Duration::from_nanos(1));
    assert_eq!(transport.stats(RouteClass::Rest).open, 1);
    clock.advance(Duration::from_nanos(1));
    until(|| closed_count.load(Ordering::SeqCst) == 1).await;
    assert_eq!(transport.stats(RouteClass::Rest).open, 0);
}

fn http2(server: &Server) -> HttpTransport {
    client(&server.url())
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .build()
        .expect("valid")
}
