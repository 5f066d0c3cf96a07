//! Connections are reused, shared, bounded and replaced, for each class apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use tinkers_core::{
    ManualClock, RecoveredError, RecoveredErrors, RouteClass, Sent, Transport, TransportErrorKind,
};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, Protocol};
use tokio::sync::{Barrier, Semaphore};

use common::{Server, Speak, answer, client, closed, get, listen, post, read_head, until, write};

mod common;

#[tokio::test]
async fn http1_reuses_one_connection_in_sequence() {
    let server = Server::start(Speak::Http1, |seen| answer(seen.body));
    let transport = client(&server.url()).build().expect("valid");
    for n in 0..20 {
        let response = transport
            .send(post("/x", RouteClass::Rest, vec![n]))
            .await
            .expect("answered");
        assert_eq!(
            (response.status, &response.body[..]),
            (StatusCode::OK, &[n][..])
        );
        // The connection is free again a moment after the answer is complete.
        until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    }
    assert_eq!(server.connections(), 1);
    let stats = transport.stats(RouteClass::Rest);
    assert_eq!((stats.open, stats.opened, stats.waiting), (1, 1, 0));
}

#[tokio::test]
async fn a_connection_on_which_a_server_broke_carries_nothing_more() {
    for (speak, connections) in [(Speak::Http1, 2), (Speak::Http2, 1)] {
        let server = Server::start(speak, |seen| {
            Box::pin(async move {
                let mut response = Response::default();
                if seen.uri.path() == "/breaks" {
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
                response
            })
        });
        let transport = match speak {
            Speak::Http1 => client(&server.url()).build().expect("valid"),
            Speak::Http2 => http2(&server),
        };
        for (path, status) in [("/breaks", 500), ("/x", 200), ("/x", 200)] {
            let response = transport.send(get(path, RouteClass::Rest)).await;
            assert_eq!(response.expect("answered").status.as_u16(), status);
            until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
        }
        assert_eq!(server.connections(), connections);
    }
}

#[tokio::test]
async fn each_class_has_connections_of_its_own() {
    let server = Server::start(Speak::Http2, |_| answer("x"));
    let transport = http2(&server);
    for class in RouteClass::ALL {
        transport.send(get("/x", class)).await.expect("answered");
    }
    assert_eq!(server.connections(), RouteClass::ALL.len());
}

#[tokio::test]
async fn http1_opens_as_many_as_requests_at_a_time_up_to_its_limit() {
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
    let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
    limits.max_connections = 3;
    let transport = client(&server.url())
        .lane(RouteClass::Sample, limits)
        .build()
        .expect("valid");
    let sends: Vec<_> = (0..7)
        .map(|_| spawn(&transport, get("/x", RouteClass::Sample)))
        .collect();
    until(|| server.seen().len() == 3).await;
    let stats = transport.stats(RouteClass::Sample);
    assert_eq!((stats.open, stats.in_use, stats.waiting), (3, 3, 4));
    gate.add_permits(7);
    for send in sends {
        send.await.expect("no panic").expect("answered");
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn those_who_wait_are_served_in_order_and_one_who_leaves_is_passed_over() {
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
    let mut limits = ClassConnectionLimits::of(RouteClass::Rest);
    limits.max_connections = 1;
    let transport = client(&server.url())
        .lane(RouteClass::Rest, limits)
        .build()
        .expect("valid");
    let mut sends = Vec::new();
    for n in 0..5 {
        sends.push(spawn(&transport, get(&format!("/{n}"), RouteClass::Rest)));
        // Known to stand in the queue before the next comes.
        until(|| transport.stats(RouteClass::Rest).waiting == n || server.seen().len() + n == 1)
            .await;
        until(|| server.seen().len() == 1).await;
    }
    until(|| transport.stats(RouteClass::Rest).waiting == 4).await;
    sends.remove(2).abort();
    until(|| transport.stats(RouteClass::Rest).waiting == 3).await;
    gate.add_permits(5);
    for send in sends {
        send.await.expect("no panic").expect("answered");
    }
    let order: Vec<String> = server
        .seen()
        .iter()
        .map(|seen| seen.uri.path().to_owned())
        .collect();
    assert_eq!(order, ["/0", "/1", "/3", "/4"]);
}

#[tokio::test]
async fn http2_carries_fifty_streams_on_a_connection_and_then_opens_another() {
    let barrier = Arc::new(Barrier::new(120));
    let server = Server::start(Speak::Http2, {
        let barrier = Arc::clone(&barrier);
        move |seen| {
            let barrier = Arc::clone(&barrier);
            Box::pin(async move {
                // None is answered before all are here, so all are in flight together.
                barrier.wait().await;
                Response::new(seen.connection.to_string().into())
            })
        }
    });
    let transport = http2(&server);
    let sends: Vec<_> = (0..120)
        .map(|_| spawn(&transport, get("/x", RouteClass::Poll)))
        .collect();
    let mut on = [0; 3];
    for send in sends {
        let response = send.await.expect("no panic").expect("answered");
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
async fn training_has_one_request_on_a_connection_also_on_http2() {
    let barrier = Arc::new(Barrier::new(4));
    let server = Server::start(Speak::Http2, {
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
        send.await.expect("no panic").expect("answered");
    }
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    // Each connection answers once and then goes away without a word.
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
            .expect("answered");
        assert_eq!(connections.load(Ordering::SeqCst), round);
        until(|| transport.stats(RouteClass::Rest).open == 0).await;
    }
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_request_says_that_it_may_have_been_sent() {
    let (address, _) = listen(|mut stream, number| async move {
        let _ = read_head(&mut stream).await;
        if number == 0 {
            write(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
            // The second request is read and never answered.
            let _ = read_head(&mut stream).await;
        }
    });
    let transport = client(&format!("http://{address}")).build().expect("valid");
    transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect("answered");
    until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    let error = transport
        .send(post("/x", RouteClass::Rest, "y"))
        .await
        .expect_err("cut");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Broken, Sent::MaybeSent)
    );
}

#[tokio::test]
async fn a_request_that_a_leaving_http2_server_refused_goes_out_again_elsewhere() {
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
        .protocol(Protocol::Http2PriorKnowledge)
        .recovered_errors(Arc::clone(&recovered_errors))
        .build()
        .expect("valid");
    for _ in 0..3 {
        transport
            .send(post("/x", RouteClass::Sample, "body"))
            .await
            .expect("answered");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    // Nobody is told of it; the counter is.
    assert!(recovered_errors.snapshot().of(RecoveredError::Connection) > 0);
}

#[tokio::test]
async fn a_fresh_connection_that_refuses_is_not_tried_twice() {
    let (address, connections) = listen(|stream, _| async move {
        let mut connection = h2::server::handshake(stream).await.expect("http/2");
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    });
    let transport = client(&format!("http://{address}"))
        .protocol(Protocol::Http2PriorKnowledge)
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
async fn a_goaway_moves_later_requests_to_another_connection() {
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
        .protocol(Protocol::Http2PriorKnowledge)
        .build()
        .expect("valid");
    for _ in 0..5 {
        transport
            .send(get("/x", RouteClass::Sample))
            .await
            .expect("answered");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_idle_for_too_long_is_closed() {
    let clock = ManualClock::new();
    let gone = Arc::new(AtomicUsize::new(0));
    let (address, _) = listen({
        let gone = Arc::clone(&gone);
        move |mut stream, _| {
            let gone = Arc::clone(&gone);
            async move {
                let _ = read_head(&mut stream).await;
                write(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                )
                .await;
                closed(&mut stream).await;
                gone.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let transport = client(&format!("http://{address}"))
        .time(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect("answered");
    until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
    let limit = ClassConnectionLimits::of(RouteClass::Rest).idle_http1;
    clock.advance(limit - Duration::from_nanos(1));
    assert_eq!(transport.stats(RouteClass::Rest).open, 1);
    clock.advance(Duration::from_nanos(1));
    until(|| gone.load(Ordering::SeqCst) == 1).await;
    assert_eq!(transport.stats(RouteClass::Rest).open, 0);
}

type Sending =
    tokio::task::JoinHandle<Result<tinkers_core::HttpResponse, tinkers_core::TransportError>>;

fn spawn(transport: &HttpTransport, request: tinkers_core::HttpRequest) -> Sending {
    let transport = transport.clone();
    tokio::spawn(async move { transport.send(request).await })
}

fn http2(server: &Server) -> HttpTransport {
    client(&server.url())
        .protocol(Protocol::Http2PriorKnowledge)
        .build()
        .expect("valid")
}
