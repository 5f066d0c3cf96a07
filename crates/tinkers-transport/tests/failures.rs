//! The kinds of transport errors, and whether the request may have been sent.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tinkers_core::{ManualClock, RouteClass, Sent, Timeouts, Transport, TransportErrorKind};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, HttpVersions};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use common::{
    Server, ServerVersion, client, closed, get, listen, post, read_head, respond, respond_with,
    until, write,
};

mod common;

const LIMITS: Timeouts = Timeouts::new()
    .with_connect(Duration::from_secs(5))
    .with_first_byte(Duration::from_secs(60))
    .with_idle(Duration::from_secs(30))
    .with_total(Duration::from_secs(600));

/// Sends a request with the timeouts `LIMITS` to a server that writes `script` after it has read the head of the request. Then advances the
/// clock by each of `steps`, and returns the error of the request. The request must not fail before the last step. If `script` is `silent`,
/// the server does not respond to the TLS handshake.
async fn fails(
    script: &'static str,
    versions: HttpVersions,
    steps: &[Duration],
) -> (TransportErrorKind, Sent, String) {
    let clock = ManualClock::new();
    let (report, mut reports) = mpsc::unbounded_channel();
    let (address, _) = listen(move |mut stream, _| {
        let report = report.clone();
        async move {
            if script != "silent" {
                let _ = read_head(&mut stream).await;
                write(&mut stream, script).await;
            }
            let _ = report.send(());
            closed(&mut stream).await;
        }
    });
    let scheme = if script == "silent" { "https" } else { "http" };
    let transport = client(&format!("{scheme}://{address}"))
        .http_versions(versions)
        .root_certificate_pem(certificate())
        .clock(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    let mut request = post("/x", RouteClass::Rest, "body");
    request.timeouts = LIMITS;
    let sending = tokio::spawn(async move { transport.send(request).await });
    reports.recv().await.expect("the request has arrived");
    for &step in steps {
        assert!(!sending.is_finished(), "before the limit");
        clock.advance(step);
    }
    until(|| sending.is_finished()).await;
    let error = sending.await.expect("no panic").expect_err("a time limit");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    (error.kind, error.sent, error.to_string())
}

fn certificate() -> String {
    rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .expect("generates")
        .cert
        .pem()
}

const NANOSECOND: Duration = Duration::from_nanos(1);

#[tokio::test]
async fn missing_response_fails_with_the_first_byte_timeout() {
    let steps = [LIMITS.first_byte - NANOSECOND, NANOSECOND];
    let (kind, sent, message) = fails("", HttpVersions::Http1, &steps).await;
    assert_eq!((kind, sent), (TransportErrorKind::Timeout, Sent::MaybeSent));
    assert!(message.contains("first_byte"), "{message}");
}

#[tokio::test]
async fn stalled_response_body_fails_with_the_idle_timeout() {
    let clock = ManualClock::new();
    let (report, mut reports) = mpsc::unbounded_channel();
    let (address, _) = listen(move |mut stream, _| {
        let report = report.clone();
        async move {
            let _ = read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            )
            .await;
            let _ = report.send(());
            closed(&mut stream).await;
        }
    });
    let transport = client(&format!("http://{address}"))
        .clock(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    let mut request = get("/x", RouteClass::Rest);
    request.timeouts = LIMITS;
    let sending = tokio::spawn(async move { transport.send(request).await });
    reports.recv().await.expect("the request has arrived");
    // The client may read between two steps, so one step may not be enough.
    while !sending.is_finished() {
        clock.advance(LIMITS.idle);
        tokio::task::yield_now().await;
    }
    let error = sending
        .await
        .expect("no panic")
        .expect_err("the time limit");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Timeout, Sent::MaybeSent)
    );
}

#[tokio::test]
async fn unfinished_tls_handshake_fails_with_the_connect_timeout() {
    let steps = [LIMITS.connect - NANOSECOND, NANOSECOND];
    let (kind, sent, message) = fails("silent", HttpVersions::Negotiate, &steps).await;
    assert_eq!((kind, sent), (TransportErrorKind::Timeout, Sent::NotSent));
    assert!(message.contains("connect"), "{message}");
}

#[tokio::test]
async fn long_wait_for_a_connection_fails_with_the_total_timeout() {
    let clock = ManualClock::new();
    let server = Server::start(ServerVersion::Http1, |_| Box::pin(std::future::pending()));
    let mut limits = ClassConnectionLimits::of(RouteClass::Rest);
    limits.max_connections = 1;
    let transport = client(&server.url())
        .class_limits(RouteClass::Rest, limits)
        .clock(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    let send = |total: u64| {
        let transport = transport.clone();
        let mut request = get("/x", RouteClass::Rest);
        request.timeouts = LIMITS
            .with_first_byte(Duration::from_secs(900))
            .with_total(Duration::from_secs(total));
        tokio::spawn(async move { transport.send(request).await })
    };
    let first = send(600);
    until(|| server.requests().len() == 1).await;
    let second = send(100);
    until(|| transport.stats(RouteClass::Rest).waiting == 1).await;
    clock.advance(Duration::from_secs(100));
    let error = second
        .await
        .expect("no panic")
        .expect_err("the total limit");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Timeout, Sent::NotSent)
    );
    assert!(error.to_string().contains("total"), "{error}");
    clock.advance(Duration::from_secs(500));
    let error = first.await.expect("no panic").expect_err("the total limit");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Timeout, Sent::MaybeSent)
    );
    assert!(error.to_string().contains("total"), "{error}");
}

#[tokio::test]
async fn stalled_upload_fails_with_the_idle_timeout() {
    let clock = ManualClock::new();
    let (report, mut reports) = mpsc::unbounded_channel();
    let (address, _) = listen(move |mut stream, _| {
        let report = report.clone();
        async move {
            // Does not read the body, and keeps the socket open.
            let _ = read_head(&mut stream).await;
            let _ = report.send(());
            std::future::pending::<()>().await;
            drop(stream);
        }
    });
    let transport = client(&format!("http://{address}"))
        .clock(Arc::new(clock.clone()))
        .build()
        .expect("valid");
    let mut request = post("/x", RouteClass::Train, vec![1; 64 << 20]);
    // Far beyond the limit of the upload.
    let never = Duration::from_secs(1 << 40);
    request.timeouts = LIMITS.with_first_byte(never).with_total(never);
    let sending = tokio::spawn(async move { transport.send(request).await });
    reports.recv().await.expect("the request has arrived");
    while !sending.is_finished() {
        clock.advance(LIMITS.idle);
        tokio::task::yield_now().await;
    }
    let error = sending
        .await
        .expect("no panic")
        .expect_err("the time limit");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Timeout, Sent::MaybeSent)
    );
    assert!(error.to_string().contains("`idle`"), "{error}");
}

#[tokio::test]
async fn truncated_response_body_is_a_broken_connection_error() {
    for head in [
        "content-length: 9\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let (address, _) = listen(move |mut stream, _| async move {
            let _ = read_head(&mut stream).await;
            write(&mut stream, &format!("HTTP/1.1 200 OK\r\n{head}")).await;
            let _ = stream.shutdown().await;
        });
        let transport = client(&format!("http://{address}")).build().expect("valid");
        let error = transport
            .send(get("/x", RouteClass::Rest))
            .await
            .expect_err("truncated");
        assert_eq!(
            (error.kind, error.sent),
            (TransportErrorKind::Broken, Sent::MaybeSent)
        );
        until(|| transport.stats(RouteClass::Rest).open == 0).await;
    }
}

#[tokio::test]
async fn response_that_is_not_http_is_a_broken_connection_error() {
    for versions in [HttpVersions::Http1, HttpVersions::Http2PriorKnowledge] {
        let (address, _) = listen(|mut stream, _| async move {
            write(
                &mut stream,
                "220 mail.example ESMTP ready, and a line that is long enough\r\n",
            )
            .await;
            closed(&mut stream).await;
        });
        let transport = client(&format!("http://{address}"))
            .http_versions(versions)
            .build()
            .expect("valid");
        let error = transport
            .send(get("/x", RouteClass::Rest))
            .await
            .expect_err("not http");
        assert_eq!(error.kind, TransportErrorKind::Broken, "{error}");
    }
}

#[tokio::test]
async fn unresolved_host_is_a_connect_error() {
    let transport = client("http://nothing.invalid:1").build().expect("valid");
    let error = transport
        .send(get("/x", RouteClass::Rest))
        .await
        .expect_err("no address");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Connect, Sent::NotSent)
    );
    assert!(error.to_string().contains("nothing.invalid:1"), "{error}");
}

#[tokio::test]
async fn compressed_response_bodies_are_decoded_up_to_the_size_limit() {
    let server = Server::start(ServerVersion::Http1, |recorded| {
        let body = vec![b'a'; 10 << 20];
        let (encoding, packed): (&str, Vec<u8>) = match recorded.uri.path() {
            "/gzip" => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(&body).expect("in memory");
                ("gzip", encoder.finish().expect("in memory"))
            }
            "/zstd" => ("zstd", zstd::bulk::compress(&body, 3).expect("compresses")),
            _ => ("identity", body),
        };
        respond(
            Response::builder()
                .header("content-encoding", encoding)
                .body(packed.into())
                .expect("valid"),
        )
    });
    let transport = client(&server.url()).build().expect("valid");
    for path in ["/gzip", "/zstd", "/plain"] {
        let mut request = get(path, RouteClass::Rest);
        request.max_response_bytes = 10 << 20;
        let response = transport.send(request.clone()).await.expect("a response");
        assert_eq!(response.body.len(), 10 << 20, "{path}");
        assert!(response.body.iter().all(|&byte| byte == b'a'), "{path}");
        request.max_response_bytes -= 1;
        let error = transport.send(request).await.expect_err("too large");
        assert_eq!(
            (error.kind, error.sent),
            (TransportErrorKind::TooLarge, Sent::Answered),
            "{path}"
        );
    }
    assert_eq!(
        server.requests()[0].header("accept-encoding"),
        Some("gzip, zstd")
    );
}

#[tokio::test]
async fn response_size_limit_applies_without_a_content_length() {
    let (address, _) = listen(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        write(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
        // Endless, until the client closes the connection.
        while stream.write_all(b"5\r\nabcde\r\n").await.is_ok() {}
    });
    let transport = client(&format!("http://{address}")).build().expect("valid");
    let mut request = get("/x", RouteClass::Rest);
    request.max_response_bytes = 100_000;
    let error = transport.send(request).await.expect_err("too large");
    assert_eq!(error.kind, TransportErrorKind::TooLarge);
    until(|| transport.stats(RouteClass::Rest).open == 0).await;
}

#[tokio::test]
async fn invalid_request_path_is_rejected_before_anything_is_sent() {
    let server = Server::start(ServerVersion::Http1, |_| respond_with(""));
    let transport = client(&server.url()).build().expect("valid");
    for path in ["x", "", "/a b", "/a\r\nx-api-key: y"] {
        let error = transport
            .send(get(path, RouteClass::Rest))
            .await
            .expect_err(path);
        assert_eq!(
            (error.kind, error.sent),
            (TransportErrorKind::Invalid, Sent::NotSent),
            "{path:?}"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn response_with_any_status_is_returned() {
    let server = Server::start(ServerVersion::Http1, |recorded| {
        let status: u16 = recorded.uri.path()[1..].parse().expect("a number");
        respond(
            Response::builder()
                .status(status)
                .body("why".into())
                .expect("valid"),
        )
    });
    let transport = client(&server.url()).build().expect("valid");
    for status in [200, 400, 401, 402, 404, 408, 409, 410, 422, 429, 500, 503] {
        let response = transport
            .send(get(&format!("/{status}"), RouteClass::Rest))
            .await
            .expect("a response");
        assert_eq!(
            (response.status, &response.body[..]),
            (StatusCode::from_u16(status).expect("valid"), &b"why"[..])
        );
    }
}

#[test]
fn error_for_an_invalid_transport_setting_names_the_setting() {
    let field = |build: Result<HttpTransport, tinkers_core::Error>| {
        build.expect_err("refused").field().map(str::to_owned)
    };
    assert_eq!(field(client("host:1").build()).as_deref(), Some("base_url"));
    assert_eq!(
        field(client("http://h").user_agent("a\nb").build()).as_deref(),
        Some("user_agent")
    );
    assert_eq!(
        field(client("http://h").root_certificate_pem("x").build()).as_deref(),
        Some("root_certificate")
    );
    let mut limits = ClassConnectionLimits::of(RouteClass::Poll);
    limits.streams = 0;
    assert_eq!(
        field(
            client("http://h")
                .class_limits(RouteClass::Poll, limits)
                .build()
        )
        .as_deref(),
        Some("connection_limits.poll.streams")
    );
}
