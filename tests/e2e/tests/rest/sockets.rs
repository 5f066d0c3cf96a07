//! Clients without a session, over loopback sockets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, LOCATION};
use tinkers::prelude::*;
use tinkers::rest::AuditEventType;
use tinkers_e2e::SocketServer;
use tinkers_local::{AccessControl, Fault, LocalConfig, Rule};

const KEY: &str = "tml-hush-rest";

#[tokio::test]
async fn client_without_a_session_opens_none() {
    let server = SocketServer::start(LocalConfig::default());
    let rest = server.client_builder().rest_client().unwrap();
    assert!(rest.list_training_runs().stream().next().await.is_none());
    assert!(
        rest.list_sessions()
            .page(0, 20)
            .await
            .unwrap()
            .sessions
            .is_empty()
    );
    let routes: Vec<String> = server
        .journal
        .entries()
        .into_iter()
        .map(|entry| entry.route)
        .collect();
    assert_eq!(
        routes,
        [
            "/api/v1/client/config",
            "/api/v1/training_runs",
            "/api/v1/sessions"
        ]
    );
    server.stop();
}

#[tokio::test]
async fn credential_is_exchanged_once_for_concurrent_calls() {
    let access = AccessControl::default()
        .with_key(KEY)
        .with_token_exchange(Duration::from_secs(3600));
    let mut config = LocalConfig::default();
    config.access = access.clone();
    let server = SocketServer::start(config);
    let rest = server.client_builder().api_key(KEY).rest_client().unwrap();
    let lists = (rest.list_sessions(), rest.list_training_runs());
    let (sessions, runs) = tokio::join!(lists.0.page(0, 9), lists.1.page(0, 9));
    sessions.unwrap();
    runs.unwrap();
    assert_eq!(access.exchanges(), 1);
    assert_eq!(
        rest.whoami().await.unwrap().org_urn,
        "tml:organization:local"
    );
    rest.get_api_key().await.unwrap();
    rest.check_access().await.unwrap();
    rest.revoke_api_key().await.unwrap();
    let error = rest.list_sessions().page(0, 9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(!format!("{rest:?} {error:?} {:?}", server.journal.entries()).contains(KEY));
    server.stop();
}

#[tokio::test]
async fn wrong_address_fails_at_once() {
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let builder = ServiceClient::builder().without_environment().base_url(url);
    let rest = builder.rest_client().unwrap();
    let error = rest.list_training_runs().page(0, 20).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Connection, Sent::NotSent)
    );
}

#[tokio::test]
async fn audit_log_follows_a_redirect_without_the_key() {
    let access = AccessControl::default().with_key(KEY);
    let mut config = LocalConfig::default();
    config.access = access;
    let server = SocketServer::start(config);
    let storage = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}/audit?sig=s3cret", storage.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = storage.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        let body = r#"{"entries": [{"event": "published"}]}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8(request).unwrap()
    });
    let location = HeaderValue::from_str(&target).unwrap();
    let redirect = Fault::answer(StatusCode::FOUND, "").with_header(LOCATION, location);
    server.faults.add(Rule::on("/api/v1/audit"), redirect);
    let admin = server
        .client_builder()
        .api_key(KEY)
        .rest_client()
        .unwrap()
        .admin();
    let log = admin
        .get_audit_log(AuditEventType::All, None)
        .await
        .unwrap();
    assert_eq!(log[0].event, "published");
    let request = served.join().unwrap();
    assert!(request.starts_with("GET /audit?sig=s3cret "), "{request}");
    assert!(
        !request.to_lowercase().contains("x-api-key") && !request.contains(KEY),
        "{request}"
    );
    server.stop();
}

#[tokio::test]
async fn client_without_a_session_shares_the_rate_limits() {
    let server = SocketServer::start(LocalConfig::default());
    let service = server.client().await.unwrap();
    let rest = server.client_builder().rest_client().unwrap();
    let list = "/api/v1/training_runs";
    let limited = Fault::rate_limited(tinkers_local::Hint::Milliseconds(400));
    server.faults.add(Rule::on(list), limited);
    rest.list_training_runs().page(0, 20).await.unwrap();
    assert_eq!(service.limits().rest.counts.refusals, 1);
    server.stop();
}
