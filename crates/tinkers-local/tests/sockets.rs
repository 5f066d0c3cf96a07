//! The server on loopback sockets.

mod support;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::{
    TestServer, create_model, held_server, is_pending, step, test_server, test_server_with,
};
use tinkers_core::ManualClock;
use tinkers_local::{
    BlockingServer, Fault, LocalConfig, LocalServer, Rule, Script, ScriptedEngine, ServeError,
    TokioSpawn, serve,
};
use tinkers_wire::routes::OPTIM_STEP;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn listen(server: &TestServer) -> tinkers_local::Serving {
    let serving = serve(server.local().clone(), loopback()).await;
    serving.expect("the port is free")
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn http1(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/1.1");
    tokio::spawn(connection);
    send
}

fn post(route: &str, body: impl Into<Bytes>) -> hyper::Request<Full<Bytes>> {
    let request =
        hyper::Request::post(format!("http://local/api/v1/{route}")).header("host", "local");
    request.body(Full::new(body.into())).expect("a request")
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn new_session() -> Bytes {
    json!({ "sdk_version": "0.38.0" }).to_string().into()
}

#[tokio::test]
async fn http_1_and_http_2_share_a_port() {
    let server = test_server_with(LocalConfig::default(), Script::default());
    let serving = listen(&server).await;
    assert_eq!(serving.url(), format!("http://{}", serving.local_addr()));
    let mut one = http1(serving.local_addr()).await;
    // Two requests over one connection.
    for _ in 0..2 {
        let (status, body) = read(
            one.send_request(post("create_session", new_session()))
                .await
                .expect("a response"),
        )
        .await;
        assert_eq!(status, 200, "{body}");
    }
    let stream = TcpStream::connect(serving.local_addr())
        .await
        .expect("connects");
    let (mut two, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let answer = two
        .send_request(post("create_session", new_session()))
        .await
        .expect("a response");
    assert_eq!(answer.version(), hyper::Version::HTTP_2);
    let (status, body) = read(answer).await;
    assert_eq!(status, 200, "{body}");
    // HTTP/2 names the host without a Host header.
    let session = body["session_id"].as_str().unwrap();
    let model = support::create_model(session, 0).to_string();
    let created = two.send_request(post("create_model", model)).await.unwrap();
    assert_eq!(read(created).await.0, 200);
    let authority = serving.local_addr();
    let export = hyper::Request::get(format!(
        "http://{authority}/api/v1/sessions/{session}/trace_export"
    ));
    let export = two.send_request(export.body(Full::default()).unwrap());
    let (status, body) = read(export.await.unwrap()).await;
    assert_eq!(status, 200, "{body}");
    let url = body["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("http://{authority}/traces/")));
    let (status, body) = read(
        two.send_request(post("create_session", "{"))
            .await
            .expect("a response"),
    )
    .await;
    assert_eq!((status, body["detail"].is_string()), (400, true));
    assert_eq!(
        server.get("sessions").await.ok()["sessions"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn oversized_body_gets_413_and_cut_after_fault_cuts_connection() {
    let mut config = LocalConfig::default();
    config.max_body = 100_000;
    let server = test_server_with(config, Script::default());
    let serving = listen(&server).await;
    let mut send = http1(serving.local_addr()).await;
    let (status, body) = read(
        send.send_request(post("telemetry", vec![b'x'; 300_000]))
            .await
            .expect("a response"),
    )
    .await;
    assert_eq!(
        (
            status,
            body["detail"].as_str().unwrap().contains("100000 bytes")
        ),
        (413, true)
    );
    server
        .faults
        .add(Rule::on("/api/v1/create_session"), Fault::cut_after());
    let mut send = http1(serving.local_addr()).await;
    assert!(
        send.send_request(post("create_session", new_session()))
            .await
            .is_err()
    );
    assert_eq!(
        server.get("sessions").await.ok()["sessions"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn requests_do_not_wait_for_the_number_of_an_oversized_request() {
    let mut config = LocalConfig::default();
    config.max_body = 100_000;
    let server = test_server_with(config, Script::default());
    let model = server.create_model().await;
    let serving = listen(&server).await;
    let mut long = step(&model, 1);
    long["a"] = json!("x".repeat(200_000));
    let mut send = http1(serving.local_addr()).await;
    let answer = send
        .send_request(post("optim_step", long.to_string()))
        .await;
    assert_eq!(read(answer.expect("a response")).await.0, 413);
    let id = server.submit("optim_step", step(&model, 2)).await;
    assert!(server.finished_result(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn cut_body_fault_sends_half_of_the_response() {
    let server = test_server();
    let serving = listen(&server).await;
    let session = Rule::on("/api/v1/create_session");
    server.faults.add(session.times(2), Fault::cut_body());
    // A raw socket shows both the declared and the actual length.
    let mut stream = TcpStream::connect(serving.local_addr())
        .await
        .expect("connects");
    let body = new_session();
    let head = format!(
        "POST /api/v1/create_session HTTP/1.1\r\nhost: local\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(&body).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let (head, half) = answer.split_once("\r\n\r\n").expect("a head");
    let length = half.len() * 2;
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        [length, length + 1]
            .iter()
            .any(|whole| head.contains(&format!("content-length: {whole}\r\n"))),
        "{answer}"
    );
    assert!(half.starts_with('{') && !half.ends_with('}'), "{answer}");
    // In HTTP/2, only the stream is reset, and the connection stays usable.
    let stream = TcpStream::connect(serving.local_addr())
        .await
        .expect("connects");
    let (mut two, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let send = |two: &mut hyper::client::conn::http2::SendRequest<_>| {
        two.send_request(post("create_session", new_session()))
    };
    let answer = send(&mut two).await.expect("a head");
    assert!(answer.into_body().collect().await.is_err());
    let (status, _) = read(send(&mut two).await.expect("a response")).await;
    assert_eq!(status, 200);
    let sessions = server.get("sessions").await.ok();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn injected_faults_apply_over_sockets() {
    let server = test_server();
    let serving = listen(&server).await;
    let model = server.create_model().await;
    let steps = || Rule::on(OPTIM_STEP);
    let (second, body) = (Duration::from_secs(1), step(&model, 1).to_string());
    let step = async || {
        let mut send = http1(serving.local_addr()).await;
        let answer = send.send_request(post("optim_step", body.clone())).await;
        match answer {
            Ok(answer) => Some(read(answer).await.0),
            Err(_) => None,
        }
    };
    for (fault, status, applied) in [
        (Fault::refuse(), None, 0),
        (Fault::cut_before(), None, 0),
        (Fault::html(http::StatusCode::BAD_GATEWAY), Some(502), 0),
        (Fault::duplicate(), Some(200), 1),
    ] {
        server.faults.add(steps(), fault);
        assert_eq!(step().await, status);
        assert_eq!(server.engine.counts().steps, applied);
    }
    // The duplicated request was applied once. The delay passes on the server's manual clock.
    server.faults.add(steps(), Fault::delay(second));
    let mut waiting = pin!(step());
    while server.journal.of(OPTIM_STEP).len() < 5 {
        assert!(is_pending(&mut waiting).await);
        tokio::task::yield_now().await;
    }
    assert!(is_pending(&mut waiting).await);
    server.clock.advance(second);
    assert_eq!(waiting.await, Some(200));
    assert!(faulted(&server).iter().all(|faulted| *faulted));
}

fn faulted(server: &TestServer) -> Vec<bool> {
    let entries = server.journal.of(OPTIM_STEP);
    entries.iter().map(|entry| entry.faulted).collect()
}

#[tokio::test]
async fn api_key_is_checked_before_the_body() {
    let mut config = LocalConfig::default().with_api_key("tml-right");
    config.max_body = 100_000;
    let server = test_server_with(config, Script::default());
    let serving = listen(&server).await;
    for (key, length, expected) in [
        (None, 300_000, 401),
        (Some("tml-wrong"), 300_000, 401),
        (Some("tml-wrong"), 10, 401),
        (Some("tml-right"), 300_000, 413),
    ] {
        let mut send = http1(serving.local_addr()).await;
        let mut request = post("telemetry", vec![b'x'; length]);
        if let Some(key) = key {
            request
                .headers_mut()
                .insert("x-api-key", key.parse().unwrap());
        }
        let answer = send.send_request(request).await.expect("a response");
        assert_eq!(read(answer).await.0, expected, "{key:?} {length}");
    }
}

#[tokio::test]
async fn shutdown_responds_to_waiting_polls_and_closes_the_port() {
    let (server, held) = held_server();
    let serving = listen(&server).await;
    let address = serving.local_addr();
    let session = server.create_session().await;
    let id = server
        .submit("create_model", create_model(&session, 0))
        .await;
    let mut send = http1(address).await;
    let poll = tokio::spawn(send.send_request(post(
        "retrieve_future",
        json!({ "request_id": id }).to_string(),
    )));
    // The journal records a poll when the poll arrives.
    while server.journal.of("/api/v1/retrieve_future").is_empty() {
        tokio::task::yield_now().await;
    }
    serving.shutdown().await;
    let (status, body) = read(poll.await.expect("no panic").expect("a response")).await;
    assert_eq!((status, &body["type"]), (200, &json!("try_again")));
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(held.held_jobs(), ["create"]);
}

#[tokio::test]
async fn public_address_requires_an_api_key() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let open = test_server_with(LocalConfig::default(), Script::default());
    let error = serve(open.client.server().clone(), everywhere)
        .await
        .unwrap_err();
    assert!(matches!(error, ServeError::Exposed(_)), "{error:?}");
    assert!(error.to_string().contains("set an API key"), "{error}");
    let keyed = test_server_with(
        LocalConfig::default().with_api_key("tml-x"),
        Script::default(),
    );
    let serving = serve(keyed.client.server().clone(), everywhere)
        .await
        .expect("listens");
    // For a port that is in use, the error is typed, too.
    let in_use = SocketAddr::from(([127, 0, 0, 1], serving.local_addr().port()));
    let again = serve(keyed.client.server().clone(), serving.local_addr())
        .await
        .unwrap_err();
    assert!(
        matches!(again, ServeError::Bind { .. }),
        "{again:?} {in_use}"
    );
}

#[test]
fn blocking_server_runs_outside_of_an_async_runtime() {
    let build = |handle: &tokio::runtime::Handle| {
        let spawn = Arc::new(TokioSpawn::new(handle.clone()));
        LocalServer::builder(
            Arc::new(ScriptedEngine::default()),
            Arc::new(ManualClock::new()),
            spawn,
        )
        .build()
    };
    let server = BlockingServer::start(loopback(), NonZeroUsize::MIN, build).expect("starts");
    let address = server.local_addr();
    let answer = get_health(address);
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("{\"status\":\"ok\"}"),
        "{answer}"
    );
    server.shutdown();
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// Requests the health check over a blocking socket and returns the raw response.
fn get_health(address: SocketAddr) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    let request = "GET /api/v1/healthz HTTP/1.1\r\nhost: local\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}
