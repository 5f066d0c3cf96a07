//! Responses wait until the changes that they promise are stored.

use std::pin::pin;
use std::time::Duration;

use http::Method;
use serde_json::json;
use tinkers_core::{HttpRequest, RouteClass, Transport, TransportErrorKind};
use tinkers_wire::routes;

use super::store::server;
use super::support::{backward, is_pending, run_until_idle};

fn session() -> serde_json::Value {
    json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0" })
}

#[tokio::test]
async fn response_waits_until_its_change_is_stored() {
    let (server, store) = server();
    let stopped = store.stop();
    let mut created = pin!(server.post("create_session", session()));
    assert!(is_pending(&mut created).await);
    assert_eq!(store.count("sessions"), 0);
    drop(stopped);
    assert_eq!(created.await.status, 200);
    assert_eq!(store.count("sessions"), 1);
}

#[tokio::test]
async fn responses_report_nothing_that_is_not_stored() {
    let (server, store) = server();
    let stopped = store.stop();
    let mut created = pin!(server.post("create_session", session()));
    assert!(is_pending(&mut created).await);
    // The list has the session, which would be lost if the server were killed now.
    let mut listed = pin!(server.get("sessions"));
    assert!(is_pending(&mut listed).await);
    drop(stopped);
    let id = created.await.ok()["session_id"].clone();
    assert_eq!(listed.await.ok()["sessions"], json!([id]));
    // With nothing to store, responses are sent at once.
    let _stopped = store.stop();
    assert_eq!(server.get("sessions").await.status, 200);
}

#[tokio::test]
async fn changes_that_cannot_be_stored_wait_and_later_ones_get_503() {
    let (server, store) = server();
    let model = server.create_model().await;
    let stopped = store.stop();
    let mut first = pin!(server.post("create_session", session()));
    assert!(is_pending(&mut first).await);
    let mut listed = pin!(server.get("sessions"));
    assert!(is_pending(&mut listed).await);
    store.set_full(true);
    drop(stopped);
    assert_eq!(listed.await.status, 503);
    store.until_a_commit_fails();
    assert!(is_pending(&mut first).await);
    for _ in 0..3 {
        let refused = server.post("create_session", session()).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        refused.assert_reason("cannot store its records");
    }
    // A list would show the session that is not stored.
    assert_eq!(server.get("sessions").await.status, 503);
    // Nothing of these has to be stored.
    let id = server.submit("forward_backward", backward(&model, 1)).await;
    assert_eq!(server.get("healthz").await.status, 200);
    store.set_full(false);
    assert_eq!(first.await.status, 200);
    assert_eq!(server.post("create_session", session()).await.status, 200);
    server.result(&id).await;
    // The refused requests have created nothing.
    assert_eq!(store.count("sessions"), 3);
}

#[tokio::test]
async fn changes_that_wait_for_a_commit_are_stored_together() {
    let (server, store) = server();
    let stopped = store.stop();
    let mut first = pin!(server.post("create_session", session()));
    assert!(is_pending(&mut first).await);
    let more: Vec<_> = (0..8)
        .map(|_| Box::pin(server.post("create_session", session())))
        .collect();
    let mut waiting = more;
    for request in &mut waiting {
        assert!(is_pending(request).await);
    }
    drop(stopped);
    assert_eq!(first.await.status, 200);
    for request in waiting {
        assert_eq!(request.await.status, 200);
    }
    assert_eq!(store.count("sessions"), 9);
    // The first request may have been alone.
    assert!(store.commits() <= 2, "{} commits", store.commits());
}

#[tokio::test]
async fn usage_is_stored_within_a_second_and_at_the_end_of_the_server() {
    let (server, store) = server();
    let sampler = server.create_sampler().await;
    let sample = |number| super::support::sample(&sampler, number);
    let first = server.submit("asample", sample(1)).await;
    server.result(&first).await;
    assert_eq!(store.count("usage"), 0);
    server.clock.advance(Duration::from_secs(1));
    run_until_idle().await;
    // The store has written the usage before it writes this session.
    server.create_session().await;
    assert_eq!(store.count("usage"), 2);
    server.clock.advance(Duration::from_secs(3600));
    let second = server.submit("asample", sample(2)).await;
    server.result(&second).await;
    // The end of the server writes the rest.
    drop(server);
    run_until_idle().await;
    assert_eq!(store.count("usage"), 4);
}

#[tokio::test]
async fn reported_usage_is_stored_before_the_response() {
    let (server, store) = server();
    let sampler = server.create_sampler().await;
    let sample = super::support::sample(&sampler, 1);
    let id = server.submit("asample", sample).await;
    server.result(&id).await;
    let stopped = store.stop();
    let hours = "starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-01T01:00:00Z";
    let route = format!("billing/usage/events?{hours}");
    let mut reported = pin!(server.get(&route));
    assert!(is_pending(&mut reported).await);
    drop(stopped);
    assert_eq!(reported.await.ok()["data"].as_array().unwrap().len(), 2);
    assert_eq!(store.count("usage"), 2);
}

#[tokio::test]
async fn server_refuses_changes_after_its_store_has_panicked() {
    let (server, store) = server();
    store.break_down();
    let body = session().to_string();
    let mut request = HttpRequest::new(Method::POST, routes::CREATE_SESSION, RouteClass::Rest);
    request.body = body.into();
    let error = server.client.send(request).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Broken);
    let refused = server.post("create_session", session()).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(server.get("healthz").await.status, 200);
}
